"""Whether a tensor that was read from a file can be copied into a model's."""

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def unusable(value: object) -> str | None:
    """Return why something that a file holds cannot be copied from at all; None: it is a plain tensor."""
    if not isinstance(value, Tensor):
        return f"is of type {type(value).__name__}, not a tensor"
    if value.is_nested or value.layout != torch.strided:
        return "is a sparse tensor"
    if value.is_quantized:
        return "is quantised"
    if value.device.type == "meta":
        return "has a shape but no values (a tensor of the device meta)"
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return "repeats fewer values than its shape has"
    return None


def misfit(value: object, like: Tensor) -> str | None:
    """Return why something that a file holds cannot be copied into a tensor as it is, or None.

    Args:
        value: What the file holds.
        like: The model's tensor; floating-point numbers of any precision fit one of another.
    """
    reason = unusable(value)
    if reason is not None or not isinstance(value, Tensor):
        return reason
    if value.shape != like.shape:
        return f"shape {tuple(value.shape)}, expected {tuple(like.shape)}"
    if value.dtype != like.dtype and not (value.dtype in FLOATS and like.dtype in FLOATS):
        return f"has values of type {_name(value.dtype)}, expected {_name(like.dtype)}"
    if like.is_floating_point() and not value.to(like.dtype).isfinite().all():
        return "has values that are not finite"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
