"""Attach a method to a model, run its forward passes, save and load what it tunes, and merge it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mosa.base.errors import LISTED, UserError, plain
from mosa.base.tensors import misfit
from mosa.base.words import count
from mosa.peft.blocks import call_projections, find_blocks, find_head, passes_can_separate
from mosa.peft.choice import choice_of
from mosa.peft.method import Batches, Method, build_method
from mosa.peft.proof import Structure, blank_copy, example_images, unreached, watch_calls
from mosa.peft.routing import Passes, is_stochastic, repeat_batch
from mosa.peft.statistics import has_statistics, is_frozen, keep_statistics


@dataclass
class Attachment:
    """The state that `attach` keeps on a model, as `model.peft`.

    Attributes:
        method: The method and its options.
        passes: How many passes a forward stacks.
        buffers: Names of the buffers that belong to the tuned state: those of inserted modules, and the
            running statistics of norms that are tuned.
        hooks: Handles of the hooks on the model and on its norms with running statistics.
        fork: Handle of the hook that separates the passes inside the model; None: they separate at its input.
        switched: Attentions that call their fused projection because the method wraps it.
    """

    method: Method
    passes: Passes
    hooks: list[RemovableHandle]
    fork: RemovableHandle | None = None
    buffers: tuple[str, ...] = ()
    switched: list[nn.Module] = field(default_factory=list)


class ParameterCount(NamedTuple):
    """Numbers of tuned parameters: without the classifier, of the classifier, and together."""

    adapter: int
    head: int
    total: int


class StepError(Exception):
    """The training step of a blank copy raised, or gave no output for each image."""


def attach(
    model: nn.Module,
    method: str | Method,
    *,
    seed: int = 0,
    verify: bool = True,
    data: Batches | Mapping[str, Tensor] | None = None,
    **options: Any,
) -> nn.Module:
    """Attach a method to a built and loaded timm model, in place; freeze everything that it does not tune.

    The output of the model does not change, except for methods whose `starts_as_backbone` is false; up to
    rounding where the method wraps a projection of BEiT, EVA or Swin V2, whose bias is added apart then.
    Every method tunes the classifier, starting from its present values. The running statistics of a BatchNorm
    are frozen, unless it has a tuned parameter: then they belong to the tuned state. No weight is copied.

    A training step is run on a copy with zeros, or traced where that takes long: every tuned tensor must
    get a gradient. A layer that the model never calls, because it uses only the weight, would be wrapped
    in vain.

    Args:
        model: A model made by `timm.create_model`, with its weights loaded.
        method: Name of a method (see `list_methods`), or a method from `build_method`.
        seed: Seeds initial values, partitions and routing; the global generator is not touched.
        verify: Run that step, on images of the size that timm states for the model. It takes some 50 ms for
            a small model, and half a second for a ViT-B.
        data: What a method that chooses what it tunes (such as `gps`) chooses from: batches of training
            images and their labels, such as a DataLoader; or a saved tuned state, whose choice is taken.
        **options: Options of the method by name, such as `bottleneck=64`; none with a method that is built.

    Returns:
        The same model.

    Raises:
        UserError: Unknown method or option, a value that is not allowed, options of a method that is built
            already, no data for a method that chooses, a model that the method does not fit (`Method.unfit`
            gives the reason), that is on the meta device, or that has a method attached already, a tuned
            tensor without effect, or a step that fails. The model is as it was then.

    Example:
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
        >>> model = mosa.peft.attach(model, "mosa", bottleneck=16, experts=4)
    """
    if attached := getattr(model, "peft", None):
        raise UserError(
            f"the model has {attached.method.name!r} attached already: build a new model, "
            f"because a second method would freeze and wrap the first"
        )
    method = _built(method, options)
    head = find_head(model)
    if reason := method.unfit(model):
        raise UserError(reason)
    _refuse_meta(model)
    before = Structure(model)
    images = example_images(model) if verify else None
    try:
        _insert(model, method, seed, head, choice_of(model, method, data, seed))
        reason = _fault(model, images) if verify else None
    except StepError as error:
        reason = str(error)
        before.restore()
        _check_backbone(model, images)
    except Exception:
        before.restore()
        raise
    if reason:
        before.restore()
        raise UserError(f"{method.name} does not fit {type(model).__name__}: {reason}")
    return model


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
    model.peft = Attachment(method, passes, passes.register(model))
    if method.wraps_qkv:
        model.peft.switched = call_projections(model)
    # On the CPU, as the generators are; and new layers draw before they are initialised.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        if choice is None:
            method.apply(model, seed)
        else:
            method.insert(model, seed, choice)
    head.requires_grad_(True)
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
    model.peft.buffers = tuple(
        f"{prefix}.{name}"
        for prefix, module in (inserted | tuned).items()
        for name, _ in module.named_buffers(recurse=False)
    )
    model.peft.hooks += [norm.register_forward_pre_hook(keep_statistics) for norm in norms.values()]


def _fault(model: nn.Module, images: Tensor) -> str | None:
    """Return why a training step would not reach all that is tuned; None if it would.

    A copy is run, so that neither the model nor any generator changes.

    Raises:
        StepError: The step fails.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        twin = blank_copy(model, images.device).train()
        called = watch_calls(twin)
        passes = twin.peft.method.passes
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
    state = model.peft
    if state.method.feature_consistency:
        for block in find_blocks(model)[:6]:
            block.register_forward_hook(state.passes.keep_features)
    fork_point = state.method.fork_point(model) if passes_can_separate(model) else None
    if fork_point is not None and not any(is_stochastic(module) for module in backbone):
        state.fork = fork_point.register_forward_pre_hook(state.passes.separate)


def attachment(model: nn.Module) -> Attachment:
    """Return what is attached to a model.

    Raises:
        UserError: Nothing is attached.
    """
    if not hasattr(model, "peft"):
        raise UserError(f"{type(model).__name__} has no method attached: call mosa.peft.attach first")
    return model.peft


def forward_passes(model: nn.Module, images: Tensor, passes: int) -> Tensor:
    """Run several forward passes over the same images at once, with independent experts and dropout.

    What precedes the first stochastic module is computed once for all passes.

    Args:
        model: A model with a method attached; its modules that are in training mode draw.
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
    state.passes.requested = passes
    return model(images)


def merge(model: nn.Module) -> nn.Module:
    """Bring a model into its inference form, in place: experts into one layer, LoRA into the weights.

    The output in evaluation does not change. A merged MoSA model is a plain adapter model with the
    merged weights; a merged LoRA model has the backbone's exact modules and nothing attached.

    Returns:
        The same model.

    Raises:
        UserError: Nothing is attached.
    """
    state = attachment(model)
    state.method = state.method.fold(model)
    if state.fork is not None:
        state.fork.remove()
        state.fork = None
    state.buffers = tuple(name for name in state.buffers if _has_buffer(model, name))
    if state.method is None:
        _detach(model)
    return model


def _has_buffer(model: nn.Module, name: str) -> bool:
    owner, _, buffer = name.rpartition(".")
    try:
        return buffer in model.get_submodule(owner)._buffers
    except AttributeError:  # the module is merged
        return False


def _detach(model: nn.Module) -> None:
    for hook in model.peft.hooks:
        hook.remove()
    for attention in model.peft.switched:
        attention.qkv_bias_separate = False
    del model.peft


def tuned_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the tuned parameters and their buffers by name: what differs from the backbone.

    Buffers are those of the method's modules, and the running statistics of norms that are tuned.

    Returns:
        Detached tensors that share memory with the model; safetensors can save them as they are.

    Raises:
        UserError: Nothing is attached.
    """
    buffers = attachment(model).buffers
    tuned = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    return tuned | {name: model.get_buffer(name) for name in buffers if model.get_buffer(name) is not None}


def load_tuned_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load what `tuned_state_dict` returned into a model with the same method and options, in place.

    Returns:
        The same model.

    Raises:
        UserError: Names or shapes differ: the state was made for another method, other options, or
            another number of classes; or a value is not finite, or no plain tensor. Nothing is loaded then.
    """
    own = tuned_state_dict(model)
    name = attachment(model).method.name
    state = {str(key): value for key, value in state.items()}
    for kind, names in (("lacks", own.keys() - state.keys()), ("has", state.keys() - own.keys())):
        if names:
            raise UserError(
                f"the state does not fit the attached method {name!r}: it {kind} "
                f"{count(len(names), 'tensor')} that the model "
                f"{'needs' if kind == 'lacks' else 'does not have'}, such as {min(names)!r}; "
                f"attach the method and options that the state was made with"
            )
    for key, value in state.items():
        reason = misfit(value, own[key])
        if reason is not None:
            if reason.startswith("shape"):
                reason = (
                    f"has {reason}; use the options and the number of classes that the state was made with"
                )
            raise UserError(f"the state does not fit the attached method {name!r}: {key!r} {reason}")
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)
    return model


def save_tuned(model: nn.Module, path: str | Path) -> None:
    """Save the tuned state as safetensors, with the method and its options as metadata.

    Raises:
        UserError: Nothing is attached.
    """
    metadata = {"mosa.method": json.dumps(_describe(model), sort_keys=True)}
    state = {name: value.contiguous() for name, value in tuned_state_dict(model).items()}
    save_file(state, path, metadata=metadata)


def load_tuned(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a file of `save_tuned` into a model with the same method and options, in place.

    Returns:
        The same model.

    Raises:
        UserError: The file is not one of `save_tuned`, or was made for other options.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved = json.loads(metadata.get("mosa.method", "null"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); expected a file of save_tuned"
        ) from None
    except Exception:  # whatever a broken or foreign file makes safetensors and json raise
        raise UserError(f"{path}: cannot be read as safetensors; expected a file of save_tuned") from None
    own = _describe(model)
    if not isinstance(saved, dict):
        raise UserError(f"{path}: names no method in its metadata; expected a file of save_tuned")
    if saved != own:
        differing = sorted(key for key in saved | own if saved.get(key) != own.get(key))[:LISTED]
        raise UserError(
            f"{path}: made for "
            + ", ".join(f"{key}={saved.get(key)!r}" for key in differing)
            + "; the model has "
            + ", ".join(f"{key}={own.get(key)!r}" for key in differing)
            + "; attach the method with the options of the file"
        )
    return load_tuned_state_dict(model, state)


def _describe(model: nn.Module) -> dict[str, Any]:
    method = attachment(model).method
    return {"method": method.name} | method.model_dump()


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the tuned parameters that a model holds now.

    Returns:
        `adapter` (all but the classifier), `head` (the classifier) and `total` (their sum). MoSA holds
        additional biases for its experts until it is merged.

    Raises:
        UserError: Nothing is attached.
    """
    attachment(model)
    head = {id(parameter) for parameter in find_head(model).parameters()}
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    in_head = sum(parameter.numel() for parameter in tuned if id(parameter) in head)
    total = sum(parameter.numel() for parameter in tuned)
    return ParameterCount(adapter=total - in_head, head=in_head, total=total)
