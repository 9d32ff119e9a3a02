"""Linear probing."""

from typing import ClassVar

from torch import nn

from mosa.peft.method import Selection


class Linear(Selection):
    """Only the classifier is tuned, on the frozen features of the backbone."""

    name: ClassVar[str] = "linear"
    reference: ClassVar[str] = "linear probing, the field's common baseline"
    on_features: ClassVar[bool] = True

    def selected(self, model: nn.Module) -> list[nn.Parameter]:
        return []  # the classifier is unfrozen for every method
