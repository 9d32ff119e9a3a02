"""Full fine-tuning."""

from typing import ClassVar

from torch import nn

from mosa.peft.blocks import find_head
from mosa.peft.method import Selection


class Full(Selection):
    """Every parameter of the backbone is tuned: the reference for what other methods save."""

    name: ClassVar[str] = "full"
    reference: ClassVar[str] = "full fine-tuning, the field's common baseline"

    def selected(self, model: nn.Module) -> list[nn.Parameter]:
        head = set(find_head(model).parameters())
        return [parameter for parameter in model.parameters() if parameter not in head]
