"""Tuning of the normalisation layers."""

from typing import ClassVar

from torch import nn

from mosa.peft.blocks import NORM_LAYERS, backbone_modules
from mosa.peft.method import Selection


class Norm(Selection):
    """Weight and bias of every normalisation layer of the backbone are tuned; nothing is inserted.

    Of every kind: LayerNorm, BatchNorm, GroupNorm, RMSNorm and timm's own, also with an activation; not
    ConvNeXt V2's global response normalisation, a part of its MLP. Tuned parameters of a ViT of width d
    and depth L: 4 d L + 2 d.
    """

    name: ClassVar[str] = "norm"
    reference: ClassVar[str] = "Basu et al., Strong baselines for few-shot tuning, 2023, arXiv 2304.01917"

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        if not self.selected(model):
            return f"{type(model).__name__} has no normalisation layer with a weight or a bias to tune"
        return None

    def selected(self, model: nn.Module) -> list[nn.Parameter]:
        norms = (module for module in backbone_modules(model) if isinstance(module, NORM_LAYERS))
        return [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
