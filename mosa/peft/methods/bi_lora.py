"""Bi-LoRA: low-rank changes whose factors have one bit."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import find_blocks
from mosa.peft.method import TRAINING
from mosa.peft.methods.lora import Lora, LowRank
from mosa.peft.quantized import Quantized, quantize


class BiLora(Quantized, Lora):
    """A low-rank change of projection weights with quantised factors, W' = W + s Q(B) Q(A), in every block.

    Q is that of bi_adaptformer. A is Kaiming-uniform and B normal with a deviation of 0.001, cut at twice
    that, so the model does not start as the backbone. After merging, only the backbone's weights are left.
    Tuned parameters: as lora's. Unmerged, one takes as many bits to store as in bi_adaptformer.
    """

    name: ClassVar[str] = "bi_lora"

    rank: int = Field(default=32, ge=1, description="Rank r of the change.")
    scale: float = Field(
        default=1.0, description="Factor s of the change; the paper chooses it for each task."
    )
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate between A and B.", json_schema_extra=TRAINING
    )

    def apply(self, model: nn.Module, seed: int) -> None:
        super().apply(model, seed)
        rng = generator(seed, "quantized")
        for block in find_blocks(model):
            for (owner, name, _), _ in self._layers(block):
                low_rank = getattr(owner, name).low_rank
                for part, branch in low_rank.items():
                    quantize(branch, self.bits, rng)
                    low_rank[part] = DropBetween(branch)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        for branch in self.branches(model):
            for factor in (branch.down, branch.up):
                factor.weight.copy_(factor.quantized())
        super().fold(model)


class DropBetween(nn.Module):
    """The product B A of a `LowRank`, whose dropout comes after A.

    Shape:
        (..., inputs) -> (..., outputs).
    """

    def __init__(self, branch: LowRank) -> None:
        super().__init__()
        self.down, self.drop, self.up = branch.down, branch.drop, branch.up

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.drop(self.down(x)))
