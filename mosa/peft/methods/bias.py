"""BitFit: the biases of the backbone."""

from typing import ClassVar

from torch import nn

from mosa.peft.blocks import find_head
from mosa.peft.method import Selection


class Bias(Selection):
    """Every bias of the backbone is tuned: of Linear layers, convolutions and norms; nothing is inserted.

    Tuned parameters of a ViT of width d and depth L: 11 d L + 2 d.
    """

    name: ClassVar[str] = "bias"
    reference: ClassVar[str] = "Ben Zaken et al., BitFit, ACL 2022, arXiv 2106.10199"

    def selected(self, model: nn.Module) -> list[nn.Parameter]:
        head = set(find_head(model).modules())
        own = (
            dict(module.named_parameters(recurse=False)) for module in model.modules() if module not in head
        )
        return [parameters["bias"] for parameters in own if "bias" in parameters]
