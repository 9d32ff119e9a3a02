"""ARC: adapters re-composed from projections that all blocks share."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import find_blocks
from mosa.peft.method import TRAINING
from mosa.peft.methods.repadapter import LinearAdapters, adapted_layers


class Arc(LinearAdapters):
    """A linear adapter before attention and before the MLP, x' = x + P^T C P x + b, where all blocks share P.

    There is a P of r x d before attentions and another before MLPs, for each width d that the blocks have. C,
    diagonal, and b are the block's own. P is Xavier-uniform, C and b are zero, so the model starts as the
    backbone. Because it is linear, W x' is a plain Linear layer again: after merging, only the backbone's
    modules are left. A layer without a bias gets no b, because merging must not add one. Tuned parameters:
    2 r d for each width, and 2 (r + d) per block.
    """

    name: ClassVar[str] = "arc"
    reference: ClassVar[str] = (
        "Dong et al., Efficient adaptation of large vision transformer via adapter re-composing, NeurIPS "
        "2023, arXiv 2310.06234, section 3; defaults: its released code for a ViT"
    )
    attribute: ClassVar[str] = "arc"

    bottleneck: int = Field(default=50, ge=1, description="Channels r between P and its transpose.")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate of these channels.", json_schema_extra=TRAINING
    )

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "arc")
        shared: dict[tuple[int, int], nn.Linear] = {}
        for block in find_blocks(model):
            for place, layer in enumerate(adapted_layers(block)):
                key = (place, layer.in_features)
                first = key not in shared
                if first:
                    shared[key] = nn.Linear(layer.in_features, self.bottleneck, bias=False)
                    nn.init.xavier_uniform_(shared[key].weight, generator=rng)
                self.insert(layer, Recomposed(layer, shared[key], first, self.dropout))

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        blocks = [adapted_layers(block) for block in find_blocks(model)]
        shared = {(place, layer.in_features) for layers in blocks for place, layer in enumerate(layers)}
        own = sum(
            self.bottleneck + (layer.bias is not None) * layer.in_features
            for layers in blocks
            for layer in layers
        )
        return own + sum(self.bottleneck * width for _, width in shared)


class Recomposed(nn.Module):
    """The adapter of one layer's input.

    Args:
        layer: The layer.
        projection: P, shared among the blocks.
        owner: Whether P is registered here; it is the first block's.
        dropout: Dropout rate of the hidden channels.

    Shape:
        (..., d) -> (..., d).
    """

    def __init__(self, layer: nn.Linear, projection: nn.Linear, owner: bool, dropout: float) -> None:
        super().__init__()
        self.shared = (projection,)  # a tuple, because one adapter registers it
        self.projection = projection if owner else None
        self.scale = nn.Parameter(torch.zeros(projection.out_features))
        self.drop = nn.Dropout(dropout)
        self.bias = None if layer.bias is None else nn.Parameter(torch.zeros(layer.in_features))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.shared[0].weight
        return x + F.linear(self.drop(F.linear(x, weight) * self.scale), weight.T, self.bias)

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """Return M (d, d) and b (d,) such that the adapter is x -> x + M x + b."""
        weight = self.shared[0].weight
        return weight.T @ (self.scale.unsqueeze(1) * weight), 0 if self.bias is None else self.bias

    def modify(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Adapt the layer's input (a forward pre-hook)."""
        return (self(inputs[0]), *inputs[1:])
