"""Linear probing."""

from typing import ClassVar

from torch import nn

from mosa.peft.method import Method


class Linear(Method):
    """Only the classifier is tuned, on the frozen features of the backbone."""

    name: ClassVar[str] = "linear"
    reference: ClassVar[str] = "linear probing, the field's common baseline"
    families: ClassVar[tuple[str, ...]] = ("any model with a classifier",)

    def apply(self, model: nn.Module, seed: int) -> None:
        """Insert nothing: the classifier is unfrozen for every method."""

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        return 0
