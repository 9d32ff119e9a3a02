"""Attach a method to a model."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mosa.base.errors import UserError, shown
from mosa.peft.attached import (
    DEFAULT,
    Attachment,
    attachment,
    count_of,
    list_adapters,
    tuned_parameters,
)
from mosa.peft.blocks import (
    call_projections,
    find_blocks,
    find_head,
    passes_can_separate,
)
from mosa.peft.choice import choice_of
from mosa.peft.classifier import reset_classifier
from mosa.peft.merge import become_backbone
from mosa.peft.method import Batches, Chosen, Method, build_method
from mosa.peft.parallel import refuse_wrapped
from mosa.peft.proof import StepError, check_backbone, example_images, fault
from mosa.peft.routing import Passes, is_stochastic
from mosa.peft.statistics import has_statistics, is_frozen, keep_statistics
from mosa.peft.structure import Change, Structure, Watch, shared_places
from mosa.peft.switch import put_aside


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
    Every method tunes the classifier, starting from its present values. By default, what is tuned of the
    model are new parameters, also the classifier's: build the optimiser after `attach`, as an earlier one
    trains none of them. The running statistics of a BatchNorm are frozen, unless it has a tuned parameter:
    then they belong to the tuned state.

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
        >>> import mosa.peft
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
        >>> model = mosa.peft.attach(model, "mosa", bottleneck=16, experts=4)
        >>> mosa.peft.count_parameters(model)
        ParameterCount(adapter=87744, head=1930, total=89674)
    """
    refuse_wrapped(model, "attach to")
    _refuse_inference(model)
    if name is not None and (not isinstance(name, str) or not name):
        raise UserError(f"name={shown(name)}: expected a name, or None for a model that has one method alone")
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
        parameters = {parameter: name for name, parameter in model.named_parameters()}
        _insert(model, method, seed, find_head(model), choice_of(model, method, data, seed))
        kept = set(model.parameters())
        if lost := [name for parameter, name in parameters.items() if parameter not in kept]:
            raise UserError(
                f"{method.name} does not fit {type(model).__name__}: what it inserts would replace "
                f"{lost[0]!r}; give the model's own module another name"
            )
        reason = None if images is None else fault(model, images)
    except StepError as error:
        reason = str(error)
        before.restore()
        check_backbone(model, cast(Tensor, images))
    if reason:
        raise UserError(f"{method.name} does not fit {type(model).__name__}: {reason}")
    state = attachment(model)
    state.backbone = shared_places(model, before.tensors)
    if restorable:
        state.change = Change(model, before, state.buffers)
    state.watch = Watch(model)


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
        put_aside(model)
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
        become_backbone(model, [])


def _inserted(model: nn.Module, state: Attachment) -> bool:
    """Return whether a method has modules or parameters of its own in a model."""
    own = {id(place.value) for place in state.backbone.values()}
    own |= {id(each) for each in find_head(model).parameters()}
    return any(id(each) not in own for each in model.parameters())


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
            f"{type(model).__name__} is on the meta device, where tensors have no values: build and load it "
            "on a CPU or a GPU before a method is attached"
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
        raise UserError(
            f"method {shown(method)}: expected a name, such as 'mosa', or what build_method returns"
        )
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


def _hook_passes(model: nn.Module, backbone: set[nn.Module]) -> None:
    """Keep the features that two passes compare, and compute once what precedes their first difference."""
    state = attachment(model)
    if state.method.feature_consistency:
        for block in find_blocks(model)[:6]:
            state.hooks.append(block.register_forward_hook(state.passes.keep_features))
    fork_point = state.method.fork_point(model) if passes_can_separate(model) else None
    if fork_point is not None and not any(is_stochastic(module) for module in backbone):
        state.fork = fork_point.register_forward_pre_hook(state.passes.separate)
