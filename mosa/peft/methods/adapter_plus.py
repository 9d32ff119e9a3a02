"""Adapter+: a bottleneck adapter after the block, scaled for each channel."""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.base.timm import DropPath
from mosa.peft.blocks import block_width, channel_dim, find_blocks, stream_of, with_stream
from mosa.peft.method import TRAINING, BranchShape, Method


class AdapterPlus(Method):
    """A bottleneck branch after every block, with a learned scale for each channel: y' = y + s A(y).

    A(y) = DropPath(Up(GELU(Down(y)))), s is a vector that starts as ones, and there is no LayerNorm.
    Down and Up are normal with deviation 0.01, cut at twice that, as in Houlsby's adapter, so the model
    starts near the backbone, not as it. Nothing merges away. Tuned parameters per block of width d:
    2 b d + b + 2 d.
    """

    name: ClassVar[str] = "adapter_plus"
    reference: ClassVar[str] = (
        "Steitz & Roth, Adapters strike back, CVPR 2024, arXiv 2406.06820, section 3; defaults: its "
        "released code"
    )

    bottleneck: int = Field(default=8, ge=1, description="Channels b between the two projections.")
    spread: float = Field(
        default=0.01,
        gt=0,
        description="Standard deviation of the initial projections.",
        json_schema_extra=TRAINING,
    )
    drop_path: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Rate at which the branch is dropped for an image in training.",
        json_schema_extra=TRAINING,
    )

    @property
    def starts_as_backbone(self) -> bool:
        return False

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "adapter_plus")
        for block in find_blocks(model):
            block.adapter = ScaledBottleneck(block_width(block), self, rng, channel_dim(block))
            block.adapter.to(next(block.parameters()))
            block.register_forward_hook(block.adapter.add_to_output)

    def branches(self, model: nn.Module) -> list[nn.Module]:
        return [block.adapter for block in find_blocks(model)]

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        return [BranchShape(block_width(block), self.bottleneck, block_width(block), True)]

    def block_parameters(self, block: nn.Module) -> int:
        return super().block_parameters(block) + block_width(block)


class ScaledBottleneck(nn.Module):
    """The branch of one block.

    Args:
        width: Channels d of the block.
        options: The options of Adapter+.
        rng: Draws the initial weights.
        dim: Dimension of the channels, -1 or 1.

    Shape:
        (batch, ..., width), or with the channels at `dim`; the output has the same shape.
    """

    def __init__(self, width: int, options: AdapterPlus, rng: torch.Generator, dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, options.bottleneck)
        self.act = nn.GELU()
        self.up = nn.Linear(options.bottleneck, width)
        self.drop_path = DropPath(options.drop_path) if options.drop_path else nn.Identity()
        self.scale = nn.Parameter(torch.ones(width))
        self.dim = dim
        for layer in (self.down, self.up):
            bound = 2 * options.spread
            nn.init.trunc_normal_(layer.weight, std=options.spread, a=-bound, b=bound, generator=rng)
            nn.init.zeros_(layer.bias)

    def forward(self, y: Tensor) -> Tensor:
        y = y.movedim(self.dim, -1)
        return (self.scale * self.drop_path(self.up(self.act(self.down(y))))).movedim(-1, self.dim)

    def add_to_output(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
        """Add the branch on a block's output to that output (a forward hook)."""
        stream = stream_of(output)
        return with_stream(output, stream + self(stream))
