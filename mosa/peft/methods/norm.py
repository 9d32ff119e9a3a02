"""Tuning of the normalisation layers."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from mosa.peft.blocks import NORM_LAYERS, backbone_modules
from mosa.peft.method import Selection


class Norm(Selection):
    """Weight and bias of every normalisation layer of the backbone are tuned; nothing is inserted.

    By default of every kind: LayerNorm, BatchNorm, GroupNorm, RMSNorm and timm's own, also with an
    activation; not ConvNeXt V2's global response normalisation, a part of its MLP. Tuned parameters of a
    ViT of width d and depth L: 4 d L + 2 d.
    """

    name: ClassVar[str] = "norm"
    reference: ClassVar[str] = "Basu et al., Strong baselines for few-shot tuning, 2023, arXiv 2304.01917"

    kinds: Literal["all", "layer_norm"] = Field(
        default="all",
        description="Which layers: of every kind, or LayerNorms only, which leaves out a norm of another "
        "kind in the stem of a ViT.",
        json_schema_extra={"neutral": "layer_norm"},
    )

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        if not self.selected(model):
            what = "LayerNorm" if self.kinds == "layer_norm" else "normalisation layer"
            return f"{type(model).__name__} has no {what} with a weight or a bias to tune"
        return None

    def selected(self, model: nn.Module) -> list[nn.Parameter]:
        kinds = nn.LayerNorm if self.kinds == "layer_norm" else NORM_LAYERS
        norms = (module for module in backbone_modules(model) if isinstance(module, kinds))
        return [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
