"""The bottleneck adapter beside the MLP (AdaptFormer placement)."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.peft.blocks import block_width, find_blocks
from mosa.peft.method import Method
from mosa.peft.routing import repeat_batch
from mosa.seeding import generator

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class Adapter(Method):
    """A bottleneck beside the MLP of every block: y = h + MLP(LN2(h)) + s Up(drop(act(Down(LN(h))))).

    h is the residual stream after attention; LN is the branch's own trainable LayerNorm. Down is
    Kaiming-uniform with zero bias and Up is zero, so the model starts as the backbone.
    Tuned parameters per block of width d: 2 b d + 3 d + b.
    """

    name: ClassVar[str] = "adapter"
    reference: ClassVar[str] = "Chen et al., AdaptFormer, NeurIPS 2022, arXiv 2205.13535, eq. 2-3"

    bottleneck: int = Field(64, ge=1, description="Channels b between the two projections.")
    scale: float = Field(0.1, description="Factor s of the branch.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout rate after the activation.")
    activation: Literal["gelu", "relu", "silu"] = Field("gelu", description="Activation of the branch.")

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "adapter")
        for block in find_blocks(model):
            block.adapter = ParallelAdapter(block_width(block), self, rng).to(block.norm2.weight)
            block.norm2.register_forward_pre_hook(block.adapter.read_residual)
            block.register_forward_hook(block.adapter.add_branch)

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0].adapter.drop

    def block_parameters(self, width: int) -> int:
        return 2 * self.bottleneck * width + 3 * width + self.bottleneck


class ParallelAdapter(nn.Module):
    """The branch of one block, fed and added by two hooks, so that timm's block stays as it is.

    Args:
        width: Channels d of the block.
        options: The adapter's options.
        rng: Draws the initial weights.

    Shape:
        (batch, ..., width) -> (passes * batch, ..., width), passes being 1 except where they part.
    """

    def __init__(self, width: int, options: Adapter, rng: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, options.bottleneck)
        self.act = ACTIVATIONS[options.activation]()
        self.drop = nn.Dropout(options.dropout)
        self.up = nn.Linear(options.bottleneck, width)
        self.scale = options.scale
        self.residual: Tensor | None = None
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=rng)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, h: Tensor) -> Tensor:
        return self.scale * self.up(self.drop(self.act(self.down(self.norm(h)))))

    def read_residual(self, norm2: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Keep h, the input of the block's second LayerNorm (a forward pre-hook of it)."""
        self.residual = inputs[0]

    def add_branch(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add the branch to the block's output (a forward hook of the block)."""
        branch, self.residual = self(self.residual), None
        output = repeat_batch(output, len(branch) // len(output))  # the passes may have parted in here
        return output + branch.view_as(output)
