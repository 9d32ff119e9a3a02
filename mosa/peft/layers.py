"""Layers of a backbone whose weights a method changes: which may be, and what stands in place of one."""

from collections import Counter
from collections.abc import Iterable

from torch import nn

from mosa.base.timm import Linear

# Exactly these compute W x + b of their weight and bias; what derives from them may compute something else.
LINEAR = (nn.Linear, Linear)
_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


def unchangeable(model: nn.Module, layers: Iterable[nn.Module]) -> str | None:
    """Return why layers cannot be wrapped, or merged into; None if they can.

    A layer has to be what its type says, of its own weight and bias, and in one place: another that shares
    these would change as well, in merging alone.

    Args:
        model: The model, without a method attached.
        layers: Layers of it, each as often as a method would change it.
    """
    layers = list(layers)
    names = {module: name for name, module in model.named_modules()}
    shared, times = shared_parameters(model), Counter(map(id, layers))
    for layer in layers:
        if other := _unlike_its_type(layer):
            return (
                f"{names[layer]!r} is {other}, so that a change of its weight may not be one of its output: "
                f"replace it by a plain layer, or take a method that leaves it alone, such as 'adapter'"
            )
        if times[id(layer)] > 1 or shared.intersection(layer.parameters(recurse=False)):
            return (
                f"{names[layer]!r} is shared by two places of {type(model).__name__}, which would both "
                f"change: give each a copy of its own (copy.deepcopy)"
            )
    return None


def shared_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that several modules of a model have."""
    held = [each for module in model.modules() for each in module._parameters.values() if each is not None]
    return {each for each, times in Counter(held).items() if times > 1}


def _unlike_its_type(layer: nn.Module) -> str | None:
    """Return what a layer is instead of a function of its own weight and bias; None if it is one."""
    kind = type(layer).__name__
    if isinstance(layer, nn.Linear) and type(layer) not in LINEAR:
        return f"a {kind}"
    if "forward" in vars(layer):
        return f"a {kind} with a forward of its own"
    if not {"weight", "bias"} <= layer._parameters.keys():  # weight_norm, prune, parametrize
        return f"a {kind} whose weight is computed"
    return None


def take_hooks(layer: nn.Module, other: nn.Module) -> None:
    """Have a layer call the hooks of the one that it replaces; handles of both remove them from both."""
    for name in _HOOKS:
        vars(layer)[name] = vars(other)[name]


def has_hooks(layer: nn.Module) -> bool:
    """Return whether something is hooked to a layer."""
    hooks = (vars(layer)[name] for name in _HOOKS)
    return any(each for each in hooks if isinstance(each, dict))  # a flag may be left of one that was removed


class InPlaceOf(nn.Linear):
    """Base of the layers that replace a Linear layer, and change what it computes.

    It shares `weight` and `bias` with that layer, under the same names, and its hooks.

    Args:
        linear: The layer that is replaced, of one of the types `LINEAR`.
    """

    kind = nn.Linear  # of layers that were pickled without it

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.kind = type(linear)
        take_hooks(self, linear)

    def plain(self) -> nn.Linear:
        """Return a layer as the one that was replaced, with this one's weight, bias, mode and hooks."""
        linear = self.kind(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        take_hooks(linear, self)
        return linear.train(self.training)
