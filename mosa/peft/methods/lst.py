"""Ladder side-tuning."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.timm import Block
from mosa.peft.blocks import find_blocks
from mosa.peft.side import Side, SideNetwork, draw, model_width

MLP_RATIO = 4


class Lst(Side):
    """A ladder of narrow blocks beside the frozen ones, which reads their outputs through gates.

    h_0 = D_0 z_0 and h_i = Block_i(g_i h_(i-1) + (1 - g_i) D_i z_i) with g_i = sigmoid(a_i / t), for z_i the
    tokens after i blocks; U h_L takes the place of z_L before the final norm. Blocks have the width
    w = d / r; D and U have no bias, and a_i starts at zero. The model does not start as the backbone. Blocks
    are drawn anew; the paper also has them cut out of the backbone's. Nothing is merged. Tuned parameters:
    L (12 w^2 + 13 w + d w + 1) + 2 d w.
    """

    name: ClassVar[str] = "lst"
    reference: ClassVar[str] = (
        "Sung et al., LST, NeurIPS 2022, arXiv 2206.06522, section 3; gates and defaults: its released code"
    )

    reduction: int = Field(default=8, ge=1, description="Width of the blocks over that of the ladder, r.")
    temperature: float = Field(default=0.1, gt=0, description="Temperature t of the gates.")

    @property
    def starts_as_backbone(self) -> bool:
        return False

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        width, heads = model_width(model), find_blocks(model)[0].attn.num_heads
        if width % (self.reduction * heads):
            return (
                f"reduction={self.reduction}: expected a divisor of {width // heads}, the width of each of "
                f"the {heads} heads"
            )
        return None

    def network(self, model: nn.Module, rng: torch.Generator) -> "Ladder":
        ladder = Ladder(self, model_width(model), find_blocks(model)[0].attn.num_heads, len(model.blocks))
        draw(ladder, rng)
        return ladder

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        width, depth = model_width(model), len(model.blocks)
        narrow = width // self.reduction
        block = (4 + 2 * MLP_RATIO) * narrow**2 + (9 + MLP_RATIO) * narrow
        return depth * (block + width * narrow + 1) + 2 * width * narrow


class LadderBlock(Block):
    """A block of the ladder: a type of its own, as it is none of the backbone's blocks."""


class Ladder(SideNetwork):
    """The ladder; see `Lst`.

    Args:
        options: The method's options.
        width: Channels d of the tokens.
        heads: Heads of the attention, as many as the backbone has.
        depth: Number of blocks L.
    """

    def __init__(self, options: Lst, width: int, heads: int, depth: int) -> None:
        super().__init__(list(range(depth + 1)))
        narrow = width // options.reduction
        self.temperature = options.temperature
        self.down = nn.ModuleList(nn.Linear(width, narrow, bias=False) for _ in range(depth + 1))
        self.gates = nn.ParameterList(torch.zeros(1) for _ in range(depth))
        self.blocks = nn.ModuleList(
            LadderBlock(narrow, heads, MLP_RATIO, qkv_bias=True) for _ in range(depth)
        )
        self.up = nn.Linear(narrow, width, bias=False)

    def forward(self, tokens: Iterable[Tensor], rest: Iterable[nn.Module]) -> Tensor:
        first, *lower = (down(z) for down, z in zip(self.down, tokens, strict=True))
        h = first
        for gate, block, z in zip(self.gates, self.blocks, lower, strict=True):
            share = torch.sigmoid(gate / self.temperature)
            h = block(share * h + (1 - share) * z)
        return self.up(h)
