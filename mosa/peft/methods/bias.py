"""BitFit: the biases of the backbone."""

from typing import ClassVar

from torch import nn

from mosa.base.families import ANY_MODEL
from mosa.peft.blocks import find_head
from mosa.peft.method import Method


class Bias(Method):
    """Every bias of the backbone is tuned: of Linear layers, convolutions and norms; nothing is inserted.

    Tuned parameters of a ViT of width d and depth L: 11 d L + 2 d.
    """

    name: ClassVar[str] = "bias"
    reference: ClassVar[str] = "Ben Zaken et al., BitFit, ACL 2022, arXiv 2106.10199"
    families: ClassVar[tuple[str, ...]] = (ANY_MODEL,)

    def apply(self, model: nn.Module, seed: int) -> None:
        for bias in _biases(model):
            bias.requires_grad_(True)

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        return sum(bias.numel() for bias in _biases(model))


def _biases(model: nn.Module) -> list[nn.Parameter]:
    head = set(find_head(model).modules())
    own = (dict(module.named_parameters(recurse=False)) for module in model.modules() if module not in head)
    return [parameters["bias"] for parameters in own if "bias" in parameters]
