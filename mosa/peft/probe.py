"""What a model computes: the features of one image, in a few numbers that a file keeps."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mosa.peft.blocks import find_head
from mosa.peft.proof import example_images
from mosa.peft.structure import Absent, copied

NUMBERS = 64  # of the features that are kept
LARGEST = 1 << 24  # numbers of an image that a file may ask for
# How far they may be apart, as a part of the largest: devices and libraries round differently.
APART, APART_IN_HALF = 0.01, 0.1


def image_shape(model: nn.Module) -> list[int] | None:
    """Return the shape of an image that a model takes; None if nothing says it."""
    try:
        return list(example_images(model).shape[1:])
    except Exception:  # whatever a model of the user's lacks
        return None


def features_of(model: nn.Module, shape: Sequence[int], seed: int = 0) -> list[float] | None:
    """Return some of what the classifier gets of one fixed image in evaluation; None if that cannot be known.

    A copy is run that shares the model's tensors, so nothing of the model changes.

    Args:
        model: The model.
        shape: Shape of the image.
        seed: Of the global generator of the CPU meanwhile, from which a model may draw.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if not tensors or any(tensor.is_meta for tensor in tensors):
        return None
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            like = next(tensor for tensor in tensors if tensor.is_floating_point())
            with torch.autocast(like.device.type, enabled=False):
                found = _input_of_head(_sharing_copy(model), _image(shape).to(like))
    except Exception:  # a model that takes no such image, or a layer that its device or type lacks
        return None
    if found is None or not found.numel():
        return None
    spread = found.flatten()[:: max(1, found.numel() // NUMBERS)][:NUMBERS]
    values = [float(f"{value:.6g}") for value in spread.tolist()]
    return values if all(map(math.isfinite, values)) else None


def differ(found: Sequence[float], expected: Sequence[float], dtype: torch.dtype) -> bool:
    """Return whether two features of the same image are further apart than by rounding."""
    allowed = APART if dtype in (torch.float32, torch.float64) else APART_IN_HALF
    most = max(map(abs, expected))
    return len(found) != len(expected) or any(
        abs(one - other) > allowed * most for one, other in zip(found, expected, strict=True)
    )


def _image(shape: Sequence[int]) -> Tensor:
    """Return one image, (1, *shape), which needs no generator."""
    values = torch.arange(math.prod(shape), dtype=torch.float64, device="cpu")
    return values.mul(12.9898).sin().view(1, *shape)


def _sharing_copy(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation, of modules of its own with the tensors of the model."""
    other = [vars(model).get("mosa_inactive"), getattr(vars(model).get("peft"), "change", None)]
    memo: dict[int, Any] = {id(each): Absent for each in other if each is not None}  # with other tensors
    caches = (value for module in model.modules() for value in vars(module).values())
    cached = (each for cache in caches if isinstance(cache, dict) for each in cache.values())
    for tensor in chain(model.parameters(), model.buffers(), cached):
        if isinstance(tensor, Tensor):
            memo[id(tensor)] = tensor
    return copied(model, memo).train().eval()  # the first drops what a layer keeps of earlier evaluations


def _input_of_head(model: nn.Module, images: Tensor) -> Tensor | None:
    """Run a model, and return the first tensor that its classifier is called with."""
    found: list[Tensor] = []
    for module in find_head(model).modules():
        module.register_forward_pre_hook(lambda module, inputs: found.extend(inputs[:1]))
    model(images)
    return found[0] if found and isinstance(found[0], Tensor) else None
