"""LAST: low-rank attention side-tuning."""

from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.peft.side import Side, SideNetwork, draw, model_width


class Last(Side):
    """Low-rank self-attention beside the frozen blocks, which reads their outputs.

    u_0 = z_0 and u_i = F_i(u_(i-1) + z_i), for z_i the tokens after i g blocks and m = L / g; then
    u_m - sum of z_i over i < m takes the place of z_L before the final norm. F_i is T modules in a row,
    f(x) = x + W_o softmax(q k^T / sqrt(r)) v with q, k, v = W_q LN(x), W_k LN(x), W_v LN(x) of r channels.
    W_o is zero at the start, so that every F_i is the identity and the model starts as the backbone. Nothing
    is merged. Tuned parameters: m T (4 d r + 2 d).
    """

    name: ClassVar[str] = "last"
    reference: ClassVar[str] = (
        "Tang et al., LAST, 2024, arXiv 2402.04009. No released code was found, and the recursion follows "
        "summaries of the paper; the LayerNorm, the single head and the defaults are ours"
    )

    rank: int = Field(default=16, ge=1, description="Channels r of queries, keys and values.")
    gap: int = Field(default=1, ge=1, description="Blocks g between two reads.")
    modules: int = Field(default=1, ge=1, description="Attention modules T after each read.")

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        depth = len(model.blocks)
        return f"gap={self.gap}: expected a divisor of {depth}, the depth" if depth % self.gap else None

    def network(self, model: nn.Module, rng: torch.Generator) -> "AttentionSide":
        return AttentionSide(self, model_width(model), len(model.blocks), rng)

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        width = model_width(model)
        return len(model.blocks) // self.gap * self.modules * (4 * width * self.rank + 2 * width)


class AttentionSide(SideNetwork):
    """The network of `Last`.

    Args:
        options: The method's options.
        width: Channels d of the tokens.
        depth: Number of blocks L.
        rng: Draws the initial values.
    """

    def __init__(self, options: Last, width: int, depth: int, rng: torch.Generator) -> None:
        super().__init__(list(range(0, depth + 1, options.gap)))
        self.steps = nn.ModuleList(
            nn.ModuleList(LowRankAttention(width, options.rank, rng) for _ in range(options.modules))
            for _ in self.reads[1:]
        )

    def forward(self, tokens: Iterable[Tensor], rest: Iterable[nn.Module]) -> Tensor:
        tokens = iter(tokens)
        z = total = next(tokens)
        # u_i = z_0 + ... + z_i + change, which is exact where the change is small.
        change = torch.zeros_like(z)
        for step, z in zip(self.steps, tokens, strict=True):
            total = total + z
            for attention in step:
                change = change + attention(total + change)
        return z + change


class LowRankAttention(nn.Module):
    """Self-attention of one narrow head: f(x) - x = W_o attention(LN(x)).

    Args:
        width: Channels d.
        rank: Channels r within.
        rng: Draws W_q, W_k and W_v; W_o is zero.

    Shape:
        (batch, tokens, width) -> the same.
    """

    def __init__(self, width: int, rank: int, rng: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * rank, bias=False)
        self.out = nn.Linear(rank, width, bias=False)
        draw(self, rng)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unsqueeze(1).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q, k, v).squeeze(1))
