"""Attach a method to a model, run its forward passes, merge it, switch between several, and take it back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mosa.base.errors import UserError, plain, shown, unknown
from mosa.base.seeding import drawing
from mosa.base.words import count
from mosa.peft.blocks import (
    SEPARATE_BIAS,
    call_projections,
    description_of,
    find_blocks,
    find_head,
    passes_can_separate,
)
from mosa.peft.choice import choice_of
from mosa.peft.method import Batches, Chosen, Method, build_method
from mosa.peft.parallel import bare, check_known, refuse_wrapped
from mosa.peft.proof import blank_copy, example_images, unreached, watch_calls
from mosa.peft.routing import Passes, is_stochastic, repeat_batch
from mosa.peft.statistics import has_statistics, is_frozen, keep_statistics
from mosa.peft.structure import Change, Place, Structure, shared_places, tensor_places

DEFAULT = "default"  # the name of a method that is given none


@dataclass
class Attachment:
    """The state that `attach` keeps on a model, as `model.peft`.

    Attributes:
        method: The method and its options.
        passes: How many passes a forward stacks.
        tuned: Names of the parameters that the method tunes.
        buffers: Names of the buffers that belong to the tuned state: those of inserted modules, and the
            running statistics of norms that are tuned.
        hooks: Handles of the hooks on the model and on its norms with running statistics.
        fork: Handle of the hook that separates the passes inside the model; None: they separate at its input.
        switched: Attentions that call their fused projection because the method wraps it.
        name: The name by which `set_active` knows it.
        change: What attaching it changed of the backbone; None: that was not kept.
        label_names: The names of the classes, if they were given.
        merged: Whether it is in its inference form.
        backbone: The places of the tensors that it shares with the backbone, by their names there.
    """

    method: Method
    passes: Passes
    hooks: list[RemovableHandle]
    fork: RemovableHandle | None = None
    tuned: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    switched: list[nn.Module] = field(default_factory=list)
    name: str = DEFAULT
    change: Change | None = None
    label_names: list[str] | None = None
    merged: bool = False
    backbone: dict[str, Place] = field(default_factory=dict)


@dataclass
class Merged:
    """What methods have changed of the backbone itself, kept on a model as `model.mosa_merged`.

    Attributes:
        methods: The methods and their options, in their order.
        places: The tensors that they changed.
        label_names: The names of the classes, if they were given.
    """

    methods: list[dict[str, Any]] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    label_names: list[str] | None = None


class ParameterCount(NamedTuple):
    """Numbers of tuned parameters: without the classifier, of the classifier, and together."""

    adapter: int
    head: int
    total: int


class StepError(Exception):
    """The training step of a blank copy raised, or gave no output for each image."""


@torch.inference_mode(False)
def attach(
    model: nn.Module,
    method: str | Method,
    *,
    name: str | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    verify: bool = True,
    restorable: bool = True,
    data: Batches | Mapping[str, Tensor] | None = None,
    **options: Any,
) -> nn.Module:
    """Attach a method to a built and loaded timm model, in place; freeze everything that it does not tune.

    The output of the model does not change, except for methods whose `starts_as_backbone` is false; up to
    rounding where the method wraps a projection of BEiT, EVA or Swin V2, whose bias is added apart then.
    Every method tunes the classifier, starting from its present values. The running statistics of a BatchNorm
    are frozen, unless it has a tuned parameter: then they belong to the tuned state.

    A training step is run on a copy with zeros, or traced where that takes long: every tuned tensor must
    get a gradient. A layer that the model never calls, because it uses only the weight, would be wrapped
    in vain.

    Args:
        model: A model made by `timm.create_model`, with its weights loaded.
        method: Name of a method (see `list_methods`), or a method from `build_method`.
        name: Where the model is to have several methods, the name by which `set_active` knows this one,
            which is active at once. Each stands on the backbone, and not on another.
        num_classes: Give the model a new classifier of so many classes, as timm's `reset_classifier`.
        seed: Seeds initial values, partitions and routing; the global generator is not touched.
        verify: Run that step, on images of the size that timm states for the model. It takes some 50 ms for
            a small model, and half a second for a ViT-B.
        restorable: Tune copies of what is tuned of the backbone, such as its classifier, so that `detach` and
            `set_active` can give the backbone back. Other weights are never copied. False: tune it in place.
        data: What a method that chooses what it tunes (such as `gps`) chooses from: batches of training
            images and their labels, such as a DataLoader; or a saved tuned state, whose choice is taken.
        **options: Options of the method by name, such as `bottleneck=64`; none with a method that is built.

    Returns:
        The same model.

    Raises:
        UserError: Unknown method or option, a value that is not allowed, options of a method that is built
            already, no data for a method that chooses, a model that the method does not fit (`Method.unfit`
            gives the reason), that is on the meta device, that is wrapped, that was built under
            `torch.inference_mode`, or that has a method attached already and no name for another, a tuned
            tensor without effect, or a step that fails. The model is as it was then.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
        >>> model = mosa.peft.attach(model, "mosa", bottleneck=16, experts=4)
        >>> mosa.peft.count_parameters(model)
        ParameterCount(adapter=87744, head=1930, total=89674)
    """
    refuse_wrapped(model, "attach to")
    _refuse_inference(model)
    if name == "":
        raise UserError("name='': expected a name, or None for a model that has one method alone")
    method = _built(method, options)
    whole = Structure(model)
    try:
        _make_room(model, method, name)
        _attach(model, method, num_classes, seed, verify, restorable, data)
        attachment(model).name = name or DEFAULT
    except BaseException:
        whole.restore()
        raise
    return model


def _attach(
    model: nn.Module,
    method: Method,
    num_classes: int | None,
    seed: int,
    verify: bool,
    restorable: bool,
    data: Batches | Mapping[str, Tensor] | None,
) -> None:
    """Attach a method to a backbone, as `attach` says. If it raises, the caller restores the model."""
    before = Structure(model)
    find_head(model)
    if reason := method.unfit(model):
        raise UserError(reason)
    _refuse_meta(model)
    images = example_images(model) if verify else None
    try:
        if num_classes is not None:
            reset_classifier(model, num_classes, seed)
        _insert(model, method, seed, find_head(model), choice_of(model, method, data, seed))
        reason = None if images is None else _fault(model, images)
    except StepError as error:
        reason = str(error)
        before.restore()
        _check_backbone(model, cast(Tensor, images))
    if reason:
        raise UserError(f"{method.name} does not fit {type(model).__name__}: {reason}")
    state = attachment(model)
    state.backbone = shared_places(model, before.tensors)
    if restorable:
        state.change = Change(model, before, state.buffers)


def _make_room(model: nn.Module, method: Method, name: str | None) -> None:
    """Leave the backbone alone in a model that has something attached, if it may have another method.

    Raises:
        UserError: It may not.
    """
    state: Attachment | None = getattr(model, "peft", None)
    if name is not None and name in list_adapters(model):
        raise UserError(f"the model has a method of the name {name!r} already: give this one another")
    if state is None:
        if name is None and list_adapters(model):
            raise UserError(f"the model has {count_of(list_adapters(model))}: give this one a name, too")
    elif name is not None:
        _put_aside(model)
    elif not state.merged:
        raise UserError(
            f"the model has {state.method.name!r} attached already, and {method.name!r} would freeze and "
            f"wrap it: merge or detach it first, or give this one a name, to switch between them by "
            f"set_active"
        )
    elif _inserted(model, state):
        raise UserError(
            f"the merged {state.method.name!r} stays in the model, and {method.name!r} would freeze and wrap "
            f"it: detach it first, or give this one a name, to switch between both by set_active"
        )
    else:
        _become_backbone(model, [])


def count_of(names: list[str]) -> str:
    """Return a number of attached methods, and their names."""
    return f"{count(len(names), 'method')} attached by name ({', '.join(names)})"


def _inserted(model: nn.Module, state: Attachment) -> bool:
    """Return whether a method has modules or parameters of its own in a model."""
    own = {id(place.value) for place in state.backbone.values()}
    own |= {id(each) for each in find_head(model).parameters()}
    return any(id(each) not in own for each in model.parameters())


def reset_classifier(model: nn.Module, classes: int, seed: int) -> None:
    """Replace the classifier by one with random values from a seed."""
    if description_of(model) or not hasattr(model, "reset_classifier"):
        raise UserError(
            f"num_classes: {type(model).__name__} has no reset_classifier(), as timm's models have"
        )
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise UserError(f"num_classes={shown(classes)}: expected a whole number, or 0 for no classifier")
    like = next(model.parameters())
    with drawing(seed), torch.device("cpu"):
        cast(Any, model).reset_classifier(classes)
    find_head(model).to(like).train(model.training)


def _refuse_inference(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_inference():
            raise UserError(
                f"{name!r} was made under torch.inference_mode(), so {type(model).__name__} cannot be "
                f"trained: build and load the model outside of it"
            )


def _refuse_meta(model: nn.Module) -> None:
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise UserError(
            f"{type(model).__name__} is on the meta device, where tensors have no values: build and load "
            f"it on a CPU or a GPU before a method is attached"
        )


def _insert(
    model: nn.Module, method: Method, seed: int, head: nn.Module, choice: Mapping[str, Tensor] | None
) -> None:
    """Freeze the model, let the method insert its modules, and unfreeze the classifier."""
    backbone = set(model.modules())
    model.requires_grad_(False)
    passes = Passes()
    state = Attachment(method, passes, passes.register(model))
    vars(model)["peft"] = state
    if method.wraps_qkv:
        state.switched = call_projections(model)
    # On the CPU, as the generators are; and new layers draw before they are initialised.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        if choice is None:
            method.apply(model, seed)
        else:
            cast(Chosen, method).insert(model, seed, choice)
    head.requires_grad_(True)
    state.tuned = tuple(tuned_parameters(model))
    inserted = {name: module for name, module in model.named_modules() if module not in backbone}
    for module in inserted.values():
        module.training = model.training
    _own_buffers(model, inserted)
    _hook_passes(model, backbone)


def _built(method: str | Method, options: dict[str, Any]) -> Method:
    """Return the method that `attach` is given by name or as it is."""
    if isinstance(method, str):
        return build_method(method, **options)
    if not isinstance(method, Method):
        raise UserError(f"method {method!r}: expected a name, such as 'mosa', or what build_method returns")
    if options:
        raise UserError(
            f"{', '.join(options)}: the method {method.name!r} is built already, with its options; give "
            f"these to build_method, or give attach the method's name"
        )
    return method


def _own_buffers(model: nn.Module, inserted: dict[str, nn.Module]) -> None:
    """Make buffers of inserted modules and tuned norms part of the tuned state; freeze the other norms'."""
    norms = {name: module for name, module in model.named_modules() if has_statistics(module)}
    tuned = {name: norm for name, norm in norms.items() if not is_frozen(norm)}
    state = attachment(model)
    state.buffers = tuple(
        f"{prefix}.{name}"
        for prefix, module in (inserted | tuned).items()
        for name, _ in module.named_buffers(recurse=False)
    )
    state.hooks += [norm.register_forward_pre_hook(keep_statistics) for norm in norms.values()]


def _fault(model: nn.Module, images: Tensor) -> str | None:
    """Return why a training step would not reach all that is tuned; None if it would.

    A copy is run, so that neither the model nor any generator changes.

    Raises:
        StepError: The step fails.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        twin = blank_copy(model, images.device).train()
        called = watch_calls(twin)
        passes = attachment(twin).method.passes
        try:
            output = forward_passes(twin, images, passes)
            if not isinstance(output, Tensor) or len(output) != passes * len(images):
                raise TypeError(f"the output is no tensor with {passes * len(images)} rows")
            return unreached(twin, output, called)
        except Exception as error:  # whatever timm, torch or a library raises
            step = f"a training step on {len(images)} images of {'x'.join(map(str, images.shape[1:]))}"
            raise StepError(f"{step} raises {type(error).__name__}: {plain(str(error))}") from error


def _check_backbone(model: nn.Module, images: Tensor) -> None:
    """Raise if the model cannot be run without a method, either."""
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        try:
            blank_copy(model, images.device).train()(images)
        except Exception as error:
            raise UserError(
                f"{type(model).__name__} itself cannot be run on images of {tuple(images.shape[1:])}, "
                f"to see that all that is tuned has an effect: {type(error).__name__}: "
                f"{plain(str(error))}; attach with verify=False, and test the gradients on your data"
            ) from error


def _hook_passes(model: nn.Module, backbone: set[nn.Module]) -> None:
    """Keep the features that two passes compare, and compute once what precedes their first difference."""
    state = attachment(model)
    if state.method.feature_consistency:
        for block in find_blocks(model)[:6]:
            state.hooks.append(block.register_forward_hook(state.passes.keep_features))
    fork_point = state.method.fork_point(model) if passes_can_separate(model) else None
    if fork_point is not None and not any(is_stochastic(module) for module in backbone):
        state.fork = fork_point.register_forward_pre_hook(state.passes.separate)


def attachment(model: nn.Module) -> Attachment:
    """Return what is attached to a model, which may be within DistributedDataParallel or torch.compile.

    Raises:
        UserError: Nothing is attached.
    """
    model = bare(model)
    if hasattr(model, "peft"):
        return cast(Attachment, model.peft)
    kind = type(model).__name__
    if names := list_adapters(model):
        raise UserError(f"{kind} has {count_of(names)}, and none is active: call mosa.peft.set_active first")
    if merged := merged_into(model):
        names = [each["method"] for each in merged.methods]
        raise UserError(
            f"{kind} has no method attached: {' and '.join(names)} was merged "
            f"into its weights, which save_tuned and save_pretrained still save; attach another to train on"
        )
    raise UserError(f"{kind} has no method attached: call mosa.peft.attach first")


def tuned_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return by name what the attached method tunes, also if it was frozen since, and what was unfrozen."""
    known = attachment(model).tuned
    return {name: each for name, each in model.named_parameters() if each.requires_grad or name in known}


def dumped(method: Method) -> dict[str, Any]:
    """Return a method's name and options as plain data."""
    return {"method": method.name} | method.model_dump()


def merged_into(model: nn.Module) -> Merged | None:
    """Return what methods have changed of the backbone itself; None: nothing."""
    return vars(bare(model)).get("mosa_merged")


def forward_passes(model: nn.Module, images: Tensor, passes: int) -> Tensor:
    """Run several forward passes over the same images at once, with independent experts and dropout.

    What precedes the first stochastic module is computed once for all passes.

    Args:
        model: A model with a method attached, or its DistributedDataParallel; modules in training mode draw.
        images: Input of shape (batch, channels, height, width).
        passes: Number of passes, 1 or more.

    Returns:
        Outputs of shape (passes * batch, classes), the chunks of `batch` rows being the passes.

    Raises:
        UserError: Nothing is attached, the number is not allowed, an ensemble is in evaluation mode, or the
            input is no tensor, such as a dict of NaFlexViT's patches, which has no copies.
    """
    state = attachment(model)
    if passes < 1:
        raise UserError(f"passes={passes}: expected 1 or more")
    if passes > 1 and not isinstance(images, Tensor):
        raise UserError(f"{passes} passes need a tensor of images, got a {type(images).__name__}")
    if state.fork is None:
        images = repeat_batch(images, passes)
    check_known(model, bare(model))
    state.passes.requested = passes
    return cast(Tensor, model(images))


@torch.inference_mode(False)
def merge(model: nn.Module) -> nn.Module:
    """Bring a model into its inference form, in place: experts into one layer, LoRA into the weights.

    The output in evaluation does not change. A merged MoSA model is a plain adapter model with the
    merged weights; a merged LoRA model has the backbone's exact modules and nothing attached. What was
    trained can be saved afterwards, too: where a method merges into weights, a file has these in full.

    Returns:
        The same model.

    Raises:
        UserError: Nothing is attached, the model is wrapped, or the method would merge into weights that
            other methods stand on, which are attached by name.
    """
    refuse_wrapped(model, "merge")
    state = attachment(model)
    _refuse_shared(model, state)
    before = _frozen_values(model, state.method)
    method = state.method.fold(model)
    if state.fork is not None:
        state.fork.remove()
        state.fork = None
    state.buffers = tuple(name for name in state.buffers if _has_buffer(model, name))
    state.merged = True
    changed = [
        place
        for _, place in tensor_places(model)
        if (method is None and id(place.value) not in before) or _differs(place.value, before)
    ]
    if method is None:
        _become_backbone(model, changed)
        return model
    state.method = method
    state.tuned = tuple(tuned_parameters(model))
    if changed:
        vars(model).setdefault("mosa_merged", Merged()).places.extend(changed)
        state.change = None
    return model


def _refuse_shared(model: nn.Module, state: Attachment) -> None:
    """Refuse to merge into weights that other methods stand on."""
    others = [name for name in list_adapters(model) if name != state.name]
    if others and state.method.fold(blank_copy(model, torch.device("cpu"))) is None:
        raise UserError(
            f"merging {state.name!r} would change the weights that {', '.join(others)} stand on as well: "
            f"detach these first, or merge a copy (copy.deepcopy)"
        )


def _frozen_values(model: nn.Module, method: Method) -> dict[int, tuple[Tensor, Tensor]]:
    """Return each frozen tensor with a copy on the CPU, by its identity; nothing if merging changes none."""
    if type(method).fold is Method.fold:
        return {}
    places = [place for _, place in tensor_places(model)]
    return {id(each.value): (each.value, each.value.detach().to("cpu", copy=True)) for each in places}


def _differs(tensor: Tensor, before: dict[int, tuple[Tensor, Tensor]]) -> bool:
    if id(tensor) not in before:
        return False
    return not torch.equal(tensor.detach().cpu(), before[id(tensor)][1])


def _has_buffer(model: nn.Module, name: str) -> bool:
    owner, _, buffer = name.rpartition(".")
    try:
        return buffer in model.get_submodule(owner)._buffers
    except AttributeError:  # the module is merged
        return False


def _become_backbone(model: nn.Module, changed: list[Place]) -> None:
    """Leave nothing attached, and remember what differs from the backbone that was loaded."""
    state = attachment(model)
    record = vars(model).setdefault("mosa_merged", Merged())
    record.methods.append(dumped(state.method))
    record.label_names = state.label_names
    known = {place.value for place in record.places} | {place.value for place in changed}
    record.places += changed
    for name, place in tensor_places(model):
        tuned = place.value.requires_grad or name in state.tuned or name in state.buffers
        if tuned and place.value not in known:
            record.places.append(place)
    for hook in state.hooks:
        hook.remove()
    for attention in state.switched:
        setattr(attention, SEPARATE_BIAS, False)
    del model.peft


def list_adapters(model: nn.Module) -> list[str]:
    """Return the names of the methods attached to a model, the active one first; see `set_active`."""
    model = bare(model)
    active = [attachment(model).name] if hasattr(model, "peft") else []
    return active + list(vars(model).get("mosa_inactive", ()))


def set_active(model: nn.Module, name: str | None) -> nn.Module:
    """Switch to another of the methods that are attached by name, in place; None: to the backbone alone.

    Only the active one is part of the model: of its modules, parameters, state dict and forward. Each has
    tensors of its own for all that it tunes, the classifier too. Nothing is computed and no tensor is copied,
    so an output is the same to the bit whenever a method is active. An optimiser trains one of them.

    Returns:
        The same model.

    Raises:
        UserError: There is no method of this name, the model is wrapped, or something of the backbone was
            replaced or unfrozen since the active method was attached.
    """
    refuse_wrapped(model, "set_active on")
    names = list_adapters(model)
    if name is not None and name not in names:
        raise unknown("name of an attached method", name, names)
    state: Attachment | None = getattr(model, "peft", None)
    if state is not None and state.name == name:
        return model
    if state is not None:
        _put_aside(model)
    if name is not None:
        chosen = _forget(model, name)
        cast(Change, chosen.change).swap(model)
        vars(model)["peft"] = chosen
    return model


def detach(model: nn.Module, name: str | None = None) -> nn.Module:
    """Take a method off a model, in place, with all that it has trained: the backbone is left, bit for bit.

    Args:
        model: A model with a method attached.
        name: Which one, if there are several; the active one by default.

    Returns:
        The same model, of the same parameters, which require gradients as they did before.

    Raises:
        UserError: Nothing is attached, there is no method of this name, or the backbone is not known any
            more: the method was merged into its weights, `attach` was told not to keep what is tuned, or
            something of it was replaced or unfrozen since.
    """
    refuse_wrapped(model, "detach from")
    if name is not None and name not in list_adapters(model):
        raise unknown("name of an attached method", name, list_adapters(model))
    if name is None or name == getattr(getattr(model, "peft", None), "name", None):
        name = attachment(model).name
        _put_aside(model)
    _forget(model, name)
    return model


def _put_aside(model: nn.Module) -> None:
    """Take the active method off, and keep it among the inactive ones."""
    state = attachment(model)
    if state.change is None:
        reason = "merged into the backbone's weights" if state.merged else "attached with restorable=False"
        raise UserError(
            f"{state.method.name!r} was {reason}, so the backbone is not known: build and load it again"
        )
    if disturbed := state.change.disturbed(model, state.backbone):
        raise UserError(
            f"{disturbed!r} was replaced or unfrozen after {state.method.name!r} was attached, so the "
            f"backbone is not known any more: build and load it again"
        )
    state.change.swap(model)
    del model.peft
    vars(model).setdefault("mosa_inactive", {})[state.name] = state


def _forget(model: nn.Module, name: str) -> Attachment:
    """Return one of the inactive methods, which is none of them any more."""
    inactive = vars(model)["mosa_inactive"]
    found = inactive.pop(name)
    if not inactive:
        del model.mosa_inactive
    return cast(Attachment, found)


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the tuned parameters that a model holds now.

    Returns:
        `adapter` (all but the classifier), `head` (the classifier) and `total` (their sum). MoSA holds
        additional biases for its experts until it is merged.

    Raises:
        UserError: Nothing is attached.
    """
    model = bare(model)
    head = {id(parameter) for parameter in find_head(model).parameters()}
    tuned = tuned_parameters(model).values()
    in_head = sum(parameter.numel() for parameter in tuned if id(parameter) in head)
    total = sum(parameter.numel() for parameter in tuned)
    return ParameterCount(adapter=total - in_head, head=in_head, total=total)
