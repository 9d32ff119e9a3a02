"""Linear probing."""

from typing import ClassVar

from torch import nn

from mosa.base.families import ANY_MODEL
from mosa.peft.method import Method


class Linear(Method):
    """Only the classifier is tuned, on the frozen features of the backbone."""

    name: ClassVar[str] = "linear"
    reference: ClassVar[str] = "linear probing, the field's common baseline"
    families: ClassVar[tuple[str, ...]] = (ANY_MODEL,)

    def apply(self, model: nn.Module, seed: int) -> None:
        """Insert nothing: the classifier is unfrozen for every method."""

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        return 0
