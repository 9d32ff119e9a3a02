"""Proof that an attached method acts: one training step of a copy that is blank."""

import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mosa.base.errors import UserError, plain
from mosa.peft.attached import attachment, forward_passes
from mosa.peft.blocks import description_of
from mosa.peft.structure import copied

IMAGES = 2  # BatchNorm wants more than one value per channel
# Parameters times pixels up to which computing with zeros takes less time than tracing the shapes.
COMPUTED = 5e10


class StepError(Exception):
    """The training step of a blank copy raised, or gave no output for each image."""


def blank_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a model whose parameters and buffers are zeros on a device."""
    inactive = vars(model).get("mosa_inactive")
    memo: dict[int, Any] = {} if inactive is None else {id(inactive): {}}  # they are no part of the model
    for tensor in chain(model.parameters(), model.buffers()):
        zeros = torch.zeros_like(tensor, device=device, requires_grad=False)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(zeros, tensor.requires_grad) if is_parameter else zeros
    for cache in (value for module in model.modules() for value in vars(module).values()):
        for tensor in cache.values() if isinstance(cache, dict) else ():
            if isinstance(tensor, Tensor) and not tensor.is_leaf:  # of an earlier forward (TinyViT, LeViT)
                memo[id(tensor)] = torch.zeros_like(tensor, device=device)
    return copied(model, memo)


def example_images(model: nn.Module) -> Tensor:
    """Return blank images of the shape that a model takes, (2, channels, height, width).

    They are on the CPU if the model is small and in float32 or float64, and otherwise on the device meta,
    where only shapes are traced.
    """
    described = description_of(model)
    config = (described and described._asdict()) or getattr(model, "pretrained_cfg", None) or {}
    channels, *size = config.get("input_size") or (3, 224, 224)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or size
    stem = config.get("first_conv")
    stem = stem if isinstance(stem, str) else next(iter(stem or ()), "")
    layers = dict(model.named_modules())
    channels = getattr(layers.get(stem), "in_channels", channels)
    dtype, parameters = next(model.parameters()).dtype, sum(value.numel() for value in model.parameters())
    small = parameters * math.prod(size) <= COMPUTED and dtype in (torch.float32, torch.float64)
    return torch.zeros(IMAGES, channels, *size, dtype=dtype, device="cpu" if small else "meta")


def watch_calls(model: nn.Module) -> set[nn.Module]:
    """Return the set that the modules of a model enter when they are called."""
    called: set[nn.Module] = set()
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, inputs: called.add(module))
    return called


def fault(model: nn.Module, images: Tensor) -> str | None:
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


def check_backbone(model: nn.Module, images: Tensor) -> None:
    """Raise if the model cannot be run without a method, either."""
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        try:
            blank_copy(model, images.device).train()(images)
        except Exception as error:
            raise UserError(
                f"{type(model).__name__} itself cannot be run on images of {tuple(images.shape[1:])}, to "
                f"see that all that is tuned has an effect: {type(error).__name__}: {plain(str(error))}; "
                "attach with verify=False, and test the gradients on your data"
            ) from error


def unreached(model: nn.Module, output: Tensor, called: set[nn.Module]) -> str | None:
    """Return which tensors that require a gradient get none, and why; None if all get one.

    Args:
        model: The model that was run.
        output: Its output.
        called: The modules that were called, see `watch_calls`.
    """
    tuned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not tuned:
        return "the model has nothing of what it tunes, and no classifier"
    gradients = (
        torch.autograd.grad(output.sum(), tuple(tuned.values()), allow_unused=True)
        if output.requires_grad
        else [None] * len(tuned)
    )
    without = [name for name, gradient in zip(tuned, gradients, strict=True) if gradient is None]
    if not without:
        return None
    count = f"{len(without)} of {len(tuned)} tuned tensors do not act on the output, such as {without[0]!r}"
    bypassed = _outermost_not_called(model, without[0], called)
    if bypassed is None:
        return count
    owner = model.get_submodule(bypassed.rpartition(".")[0])
    return f"{count}, because {type(owner).__name__} never calls {bypassed!r}"


def _outermost_not_called(model: nn.Module, parameter: str, called: set[nn.Module]) -> str | None:
    """Return the name of the first module on the way to a parameter that has a forward and was not called."""
    names = parameter.split(".")[:-1]
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        module = model.get_submodule(name)
        if module not in called and type(module).forward is not nn.Module.forward:
            return name
    return None
