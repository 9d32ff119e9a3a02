"""Mona: adapters with depthwise convolutions of several sizes."""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.peft.blocks import block_width
from mosa.peft.method import TRAINING
from mosa.peft.places import Image, OnImages, after_attention

SIZES = (3, 5, 7)  # of the convolutions' kernels


class Mona(OnImages):
    """A convolutional adapter after attention and MLP, on h = x + Attn(LN1(x)) and on y = h + MLP(LN2(h)).

    A(h) = Up(drop(GELU(f + P f))) with f = z + mean(C3 z, C5 z, C7 z), z = Down(s1 LN(h) + s2 h).
    C3, C5 and C7 are depthwise convolutions of the patches, P is a 1 x 1 convolution, and s1 and s2 are
    scales per channel that start as 1e-6 and 1. A class token, which the paper's Swin has not, is convolved
    as an image of one pixel. All layers start as torch's do, so the model does not start as the backbone; the
    released code for detection draws Linear layers anew, normal with a deviation of 0.02 and zero biases.
    Nothing merges away. Tuned parameters per branch of width d: 2 b d + 5 d + b^2 + 88 b.
    """

    name: ClassVar[str] = "mona"
    reference: ClassVar[str] = (
        "Yin et al., 5%>100%, CVPR 2025, arXiv 2408.08345, section 3.2; defaults: its released code"
    )
    families_reason: ClassVar[str] = "it adapts the output of the attention"

    bottleneck: int = Field(default=64, ge=1, description="Channels b of the convolutions.")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate before Up.", json_schema_extra=TRAINING
    )

    @property
    def starts_as_backbone(self) -> bool:
        return False

    @property
    def names(self) -> tuple[str, ...]:
        return ("mona_attention", "mona_mlp")

    def build_branch(self, width: int, image: Image, rng: torch.Generator) -> "MonaBranch":
        return MonaBranch(width, image, self, rng)

    @staticmethod
    def run(block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = after_attention(block, x, *args, branch=block.mona_attention, **kwargs)
        return y + block.mona_mlp(y)

    def block_parameters(self, block: nn.Module) -> int:
        convolutions = sum(size**2 + 1 for size in SIZES) * self.bottleneck
        others = convolutions + self.bottleneck**2 + self.bottleneck + 4 * block_width(block)
        return sum(shape.parameters + others for shape in self.branch_shapes(block))


class MonaBranch(nn.Module):
    """One branch.

    Args:
        width: Channels d of the block.
        image: How the tokens form an image.
        options: The options of Mona.
        rng: Draws the initial weights.

    Shape:
        (batch, ..., width) -> (batch, ..., width).
    """

    def __init__(self, width: int, image: Image, options: Mona, rng: torch.Generator) -> None:
        super().__init__()
        channels = options.bottleneck
        self.norm = nn.LayerNorm(width)
        self.norm_scale = nn.Parameter(torch.full((width,), 1e-6))
        self.scale = nn.Parameter(torch.ones(width))
        self.down = nn.Linear(width, channels)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, size, groups=channels) for size in SIZES)
        self.mix = nn.Linear(channels, channels)
        self.drop = nn.Dropout(options.dropout)
        self.up = nn.Linear(channels, width)
        self.image = image
        for layer in (self.down, *self.convs, self.mix, self.up):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound, generator=rng)
            nn.init.uniform_(layer.bias, -bound, bound, generator=rng)

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return the mean of C3, C5 and C7 as one kernel of 7 x 7, and that of their biases."""
        sides = [(SIZES[-1] - conv.kernel_size[0]) // 2 for conv in self.convs]
        kernel = sum(F.pad(conv.weight, [side] * 4) for conv, side in zip(self.convs, sides, strict=True))
        return kernel / len(SIZES), sum(conv.bias for conv in self.convs) / len(SIZES)

    def forward(self, h: Tensor) -> Tensor:
        z = self.down(self.norm_scale * self.norm(h) + self.scale * h)
        z = z + self.image.convolve(z, *self.kernel())
        return self.up(self.drop(F.gelu(z + self.mix(z))))
