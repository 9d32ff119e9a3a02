"""RLRR: residual low-rank rescaling of weights."""

import math
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import QKV, find_blocks, projections_of
from mosa.peft.method import TRAINING
from mosa.peft.methods.ssf import Ssf, affine_layers, insert_scale, merge_scale


class Rlrr(Ssf):
    """Every weight of a Linear layer is rescaled by a residual of rank one: W' = W + W * (s_l s_r^T).

    * is elementwise, q, k and v have vectors of their own, and biases change as well: b' = b + f. s_l and s_r
    are uniform in +-sqrt(6) and +-sqrt(6 / in) (He), so the model does not start as the backbone; f is zero.
    Convolutions and LayerNorms get the scale and shift of ssf, as in the released code. Merging leaves only
    the backbone's modules. A layer without a bias gets no f, because merging must not add a bias. Tuned
    parameters of a ViT of width d and depth L: 31 d L + 4 d.
    """

    name: ClassVar[str] = "rlrr"
    reference: ClassVar[str] = (
        "Dong et al., Low-rank rescaled vision transformer fine-tuning, CVPR 2024, arXiv 2403.19067, section "
        "3; defaults: its released code"
    )

    spread: float = Field(
        default=0.02,
        ge=0,
        description="Standard deviation of ssf's initial scale around 1 and shift around 0.",
        json_schema_extra=TRAINING,
    )

    @property
    def starts_as_backbone(self) -> bool:
        return False

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "rlrr")
        fused = _fused(model)
        for layer in affine_layers(model):
            if isinstance(layer, nn.Linear):
                layer.rlrr = Rescaling(layer, 3 if layer in fused else 1, rng).to(layer.weight)
                layer.forward = partial(layer.rlrr.linear, layer)
            else:
                insert_scale(layer, self.spread, rng)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        for layer in affine_layers(model):
            if isinstance(layer, nn.Linear):
                weight, bias = layer.rlrr(layer)
                layer.weight.copy_(weight)
                if bias is not None:
                    layer.bias.copy_(bias)
                del layer.rlrr, layer.forward
            else:
                merge_scale(layer)

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        fused, count = _fused(model), 0
        for layer in affine_layers(model):
            count += len(layer.weight) * (1 + (layer.bias is not None))
            if isinstance(layer, nn.Linear):
                count += layer.in_features * (3 if layer in fused else 1)
        return count


def _fused(model: nn.Module) -> set[nn.Module]:
    """Return the layers whose rows are q, k and v."""
    found = (projection for block in find_blocks(model) for projection in projections_of(block))
    return {projection.layer for projection in found if projection.rows == QKV}


class Rescaling(nn.Module):
    """The rescaling of a Linear layer's weight and the change of its bias.

    Args:
        layer: The layer.
        parts: Equal parts of its rows that each have their own s_r.
        rng: Draws the initial values.

    Shape:
        The layer -> weight (out, in) and bias (out,), or None.
    """

    def __init__(self, layer: nn.Linear, parts: int, rng: torch.Generator) -> None:
        super().__init__()
        left, right = torch.empty(layer.out_features, 1), torch.empty(parts, layer.in_features)
        bound = math.sqrt(6)
        self.left = nn.Parameter(left.uniform_(-bound, bound, generator=rng))
        bound = math.sqrt(6 / layer.in_features)
        self.right = nn.Parameter(right.uniform_(-bound, bound, generator=rng))
        self.bias = None if layer.bias is None else nn.Parameter(torch.zeros(layer.out_features))

    def forward(self, layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
        parts = self.left.unflatten(0, (len(self.right), -1))
        residual = (parts * self.right.unsqueeze(1)).flatten(0, 1)
        weight = torch.addcmul(layer.weight, layer.weight, residual)
        return weight, None if self.bias is None else layer.bias + self.bias

    def linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """Run the layer with its rescaled weight: its `forward`."""
        return F.linear(x, *self(layer))
