"""Running statistics of norms: they move only where the norm is tuned, and then belong to the tuned state."""

from typing import Any

from torch import nn


def has_statistics(module: nn.Module) -> bool:
    """Return whether a module normalises by running statistics in evaluation, as BatchNorm does."""
    return getattr(module, "running_var", None) is not None


def is_frozen(norm: nn.Module) -> bool:
    """Return whether no parameter of a norm is tuned."""
    return not any(parameter.requires_grad for parameter in norm.parameters())


def keep_statistics(norm: nn.Module, inputs: Any) -> None:
    """Put a norm that is not tuned into evaluation mode, whatever the model's mode: a forward pre-hook."""
    if norm.training and is_frozen(norm):
        norm.eval()
