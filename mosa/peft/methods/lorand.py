"""LoRand: adapters whose projections are sums of low-rank products with shared kernels."""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import block_width, find_blocks, sites_of
from mosa.peft.method import Method, above


class LoRand(Method):
    """An adapter on the output of attention and MLP, of synthesised projections: m' = m + Up(GELU(Down(m))).

    Down = sum_i Q_i K_i P_i and Up = sum_i S_i K_i R_i, over `kernels` branches i: P_i and R_i reduce to
    `rank` channels, and each kernel K_i of rank x rank serves both. Factors and biases are uniform, so the
    model does not start as the backbone. Nothing merges away. Tuned parameters per adapter of width d, with
    n branches of rank r and b = d / reduction: n (2 r (d + b) + r^2) + d + b.
    """

    name: ClassVar[str] = "lorand"
    reference: ClassVar[str] = (
        "Yin et al., 1% VS 100%: Parameter-efficient low rank adapter for dense predictions, CVPR 2023, "
        "whose smallest variant the defaults are; initial values: a reimplementation for SAM, as no code of "
        "the authors was found"
    )
    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin")
    families_reason: ClassVar[str] = "it adapts the output of the attention"

    kernels: int = Field(default=2, ge=1, description="Branches n of a projection.")
    rank: int = Field(default=8, ge=1, description="Channels r of a kernel.")
    reduction: int = Field(
        default=2, ge=1, description="The width divided by the channels between Down and Up."
    )

    @property
    def starts_as_backbone(self) -> bool:
        return False

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        narrowest = min(block_width(block) for block in find_blocks(model))
        return above("reduction", self.reduction, narrowest, "the width of the blocks")

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "lorand")
        for block in find_blocks(model):
            sites = sites_of(block)
            for name, site in (("lorand_attention", sites.attention), ("lorand_mlp", sites.mlp)):
                branch = LowRankAdapter(block_width(block), self, rng).to(block.norm2.weight)
                setattr(block, name, branch)
                getattr(block, site).register_forward_hook(branch.add_to_output)

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def block_parameters(self, block: nn.Module) -> int:
        width = block_width(block)
        hidden = width // self.reduction
        factors = self.kernels * (2 * self.rank * (width + hidden) + self.rank**2)
        return 2 * (factors + width + hidden)


class LowRankAdapter(nn.Module):
    """One adapter. The factors of all branches are stacked, so that a projection is three products.

    Args:
        width: Channels d.
        options: The options of LoRand.
        rng: Draws the initial values.

    Shape:
        (..., width) -> (..., width).
    """

    def __init__(self, width: int, options: LoRand, rng: torch.Generator) -> None:
        super().__init__()
        hidden, rank, inner = width // options.reduction, options.rank, options.kernels * options.rank
        self.kernels = nn.Parameter(torch.empty(options.kernels, rank, rank))
        self.p, self.q = nn.Linear(width, inner, bias=False), nn.Linear(inner, hidden)
        self.r, self.s = nn.Linear(hidden, inner, bias=False), nn.Linear(inner, width)
        # The reimplementation draws each factor as (inputs, outputs) in +-1/sqrt(outputs).
        for tensor, outputs in (
            (self.p.weight, rank),
            (self.q.weight, hidden),
            (self.q.bias, width),
            (self.r.weight, rank),
            (self.s.weight, width),
            (self.s.bias, hidden),
            (self.kernels, rank),
        ):
            nn.init.uniform_(tensor, -1 / math.sqrt(outputs), 1 / math.sqrt(outputs), generator=rng)

    def forward(self, m: Tensor) -> Tensor:
        kernel = torch.block_diag(*self.kernels)
        hidden = nn.functional.gelu(self.q(nn.functional.linear(self.p(m), kernel)))
        return self.s(nn.functional.linear(self.r(hidden), kernel))

    def add_to_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add the adapter's output to that of a module (a forward hook)."""
        return output + self(output)
