"""LayerNorm tuning."""

from typing import ClassVar

from torch import nn

from mosa.peft.method import Selection


class Norm(Selection):
    """Weight and bias of every LayerNorm of the backbone are tuned; nothing is inserted.

    Tuned parameters of a ViT of width d and depth L: 4 d L + 2 d.
    """

    name: ClassVar[str] = "norm"
    reference: ClassVar[str] = "Basu et al., Strong baselines for few-shot tuning, 2023, arXiv 2304.01917"

    def selected(self, model: nn.Module) -> list[nn.Parameter]:
        norms = (module for module in model.modules() if isinstance(module, nn.LayerNorm))
        return [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
