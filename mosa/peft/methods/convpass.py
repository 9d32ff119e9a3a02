"""Convpass: convolutional bypasses of the attention and the MLP."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.peft.method import TRAINING
from mosa.peft.places import Image, OnImages, beside


class Convpass(OnImages):
    """A convolutional branch beside attention and MLP: A(h) = s Up(drop(act(Conv(act(Down(h)))))).

    h is what LayerNorm gives the attention or the MLP, and act is QuickGELU. Conv is a 3 x 3 convolution of
    the patches; a class token is convolved as an image of one pixel. Down is Xavier-uniform, Conv is the
    identity and Up is zero, so the model starts as the backbone. Nothing merges away. Tuned parameters per
    branch of width d: 2 r d + 9 r^2 + 2 r + d.
    """

    name: ClassVar[str] = "convpass"
    reference: ClassVar[str] = (
        "Jie & Deng, Convolutional bypasses are better vision transformer adapters, 2022, arXiv 2207.07039, "
        "defaults: its released code, which takes the scale from a file for each data set"
    )
    families_reason: ClassVar[str] = "it stands beside the attention"

    bottleneck: int = Field(default=8, ge=1, description="Channels r of the convolution.")
    mlp: bool = Field(
        default=True, description="A branch beside the MLP, too, instead of only beside the attention."
    )
    scale: float = Field(default=1.0, description="Factor s of the branch.")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate before Up.", json_schema_extra=TRAINING
    )
    start: Literal["identity", "xavier"] = Field(
        default="identity",
        description="Initial convolution; the released code takes it from a file for each data set.",
        json_schema_extra=TRAINING,
    )

    @property
    def names(self) -> tuple[str, ...]:
        return ("convpass_attention", "convpass_mlp") if self.mlp else ("convpass_attention",)

    def build_branch(self, width: int, image: Image, rng: torch.Generator) -> "ConvBranch":
        return ConvBranch(width, image, self, rng)

    @staticmethod
    def run(block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        mlp = getattr(block, "convpass_mlp", None)
        return beside(block, x, *args, attention=block.convpass_attention, mlp=mlp, **kwargs)

    def block_parameters(self, block: nn.Module) -> int:
        convolution = 9 * self.bottleneck**2 + self.bottleneck
        return sum(shape.parameters + convolution for shape in self.branch_shapes(block))


class ConvBranch(nn.Module):
    """One branch.

    Args:
        width: Channels d of the block.
        image: How the tokens form an image.
        options: The options of Convpass.
        rng: Draws the initial weights.

    Shape:
        (batch, ..., width) -> (batch, ..., width).
    """

    def __init__(self, width: int, image: Image, options: Convpass, rng: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Linear(width, options.bottleneck)
        self.conv = nn.Conv2d(options.bottleneck, options.bottleneck, 3, padding=1)
        self.drop = nn.Dropout(options.dropout)
        self.up = nn.Linear(options.bottleneck, width)
        self.image, self.scale = image, options.scale
        nn.init.xavier_uniform_(self.down.weight, generator=rng)
        if options.start == "xavier":
            nn.init.xavier_uniform_(self.conv.weight, generator=rng)
        else:
            nn.init.dirac_(self.conv.weight)
        for zero in (self.down.bias, self.conv.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, h: Tensor) -> Tensor:
        inner = self.image.convolve(quick_gelu(self.down(h)), self.conv.weight, self.conv.bias)
        return self.scale * self.up(self.drop(quick_gelu(inner)))


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)
