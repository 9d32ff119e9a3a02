"""BitFit: the biases of the backbone."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from mosa.peft.blocks import backbone_modules
from mosa.peft.method import Selection

# Names of biases in timm's modules and torch's; some attentions keep those of their projections themselves.
BIASES = {"bias", "q_bias", "k_bias", "v_bias", "mlp_bias", "in_proj_bias"}


class Bias(Selection):
    """Every bias of the backbone is tuned: of Linear layers, convolutions and norms; nothing is inserted.

    The tables of relative positions that some attentions add are not tuned: they shift no features.
    Tuned parameters of a ViT of width d and depth L: 11 d L + 2 d.
    """

    name: ClassVar[str] = "bias"
    reference: ClassVar[str] = "Ben Zaken et al., BitFit, ACL 2022, arXiv 2106.10199"

    names: Literal["all", "bias"] = Field(
        default="all",
        description="Which biases: all, with those that some attentions keep as q_bias, k_bias and v_bias, "
        "or only those that are called bias.",
        json_schema_extra={"neutral": "bias"},
    )

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        return None if self.selected(model) else f"{type(model).__name__} has no biases to tune"

    def selected(self, model: nn.Module) -> list[nn.Parameter]:
        own = (dict(module.named_parameters(recurse=False)) for module in backbone_modules(model))
        names = BIASES if self.names == "all" else ("bias",)
        return [parameters[name] for parameters in own for name in names if name in parameters]
