"""Full fine-tuning."""

from typing import ClassVar

from torch import nn

from mosa.base.families import ANY_MODEL
from mosa.peft.blocks import find_head
from mosa.peft.method import Method


class Full(Method):
    """Every parameter of the backbone is tuned: the reference for what other methods save."""

    name: ClassVar[str] = "full"
    reference: ClassVar[str] = "full fine-tuning, the field's common baseline"
    families: ClassVar[tuple[str, ...]] = (ANY_MODEL,)

    def apply(self, model: nn.Module, seed: int) -> None:
        model.requires_grad_(True)

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        head = sum(parameter.numel() for parameter in find_head(model).parameters())
        return sum(parameter.numel() for parameter in model.parameters()) - head
