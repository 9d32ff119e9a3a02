"""Low-rank adaptation of the query and value projections."""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.errors import UserError
from mosa.peft.blocks import block_width, find_blocks
from mosa.peft.method import Method
from mosa.seeding import generator


class Lora(Method):
    """A low-rank change of the query and value weights: W' = W + s B A, in every block.

    A is Kaiming-uniform and B is zero, so the model starts as the backbone. Merged, nothing but the
    backbone's own weights is left. Tuned parameters per block of width d: 4 r d.
    """

    name: ClassVar[str] = "lora"
    reference: ClassVar[str] = "Hu et al., LoRA, ICLR 2022, arXiv 2106.09685, eq. 3"

    rank: int = Field(16, ge=1, description="Rank r of the change.")
    scale: float = Field(1.0, description="Factor s of the change.")

    def check(self, model: nn.Module) -> None:
        width = min(block_width(block) for block in find_blocks(model))
        if self.rank > width:
            raise UserError(f"rank={self.rank}: expected at most {width}, the width of the projection")

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "lora")
        for block in find_blocks(model):
            block.attn.qkv = LoraQkv(block.attn.qkv, self.rank, self.scale, rng)

    def fold(self, model: nn.Module) -> None:
        for block in find_blocks(model):
            block.attn.qkv = block.attn.qkv.merged()

    def block_parameters(self, width: int) -> int:
        return 4 * self.rank * width


class LoraQkv(nn.Linear):
    """timm's fused qkv projection (rows in the order q, k, v) with a low-rank change of q and v.

    It shares `weight` and `bias` with the layer it replaces, under the same names.

    Shape:
        (..., d) -> (..., 3 d).
    """

    def __init__(self, qkv: nn.Linear, rank: int, scale: float, rng: torch.Generator) -> None:
        super().__init__(qkv.in_features, qkv.out_features, bias=qkv.bias is not None, device="meta")
        self.weight, self.bias = qkv.weight, qkv.bias
        self.scale = scale
        width, out = qkv.in_features, qkv.out_features // 3
        self.q_down, self.v_down = (nn.Linear(width, rank, bias=False) for _ in "qv")
        self.q_up, self.v_up = (nn.Linear(rank, out, bias=False) for _ in "qv")
        for down, up in ((self.q_down, self.q_up), (self.v_down, self.v_up)):
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5), generator=rng)
            nn.init.zeros_(up.weight)
        self.to(qkv.weight)
        self.train(qkv.training)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = super().forward(x).chunk(3, dim=-1)
        q = q + self.scale * self.q_up(self.q_down(x))
        v = v + self.scale * self.v_up(self.v_down(x))
        return torch.cat((q, k, v), dim=-1)

    def merged(self) -> nn.Linear:
        """Return a plain Linear with the change added to its weight, which is modified in place."""
        with torch.no_grad():
            q, _, v = self.weight.chunk(3)
            q += self.scale * self.q_up.weight @ self.q_down.weight
            v += self.scale * self.v_up.weight @ self.v_down.weight
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        return linear.train(self.training)
