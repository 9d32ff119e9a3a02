"""LayerNorm tuning."""

from typing import ClassVar

from torch import nn

from mosa.base.families import ANY_MODEL
from mosa.peft.method import Method


class Norm(Method):
    """Weight and bias of every LayerNorm of the backbone are tuned; nothing is inserted.

    Tuned parameters of a ViT of width d and depth L: 4 d L + 2 d.
    """

    name: ClassVar[str] = "norm"
    reference: ClassVar[str] = "Basu et al., Strong baselines for few-shot tuning, 2023, arXiv 2304.01917"
    families: ClassVar[tuple[str, ...]] = (ANY_MODEL,)

    def apply(self, model: nn.Module, seed: int) -> None:
        for norm in _norms(model):
            norm.requires_grad_(True)

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        return sum(
            parameter.numel() for norm in _norms(model) for parameter in norm.parameters(recurse=False)
        )


def _norms(model: nn.Module) -> list[nn.LayerNorm]:
    return [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
