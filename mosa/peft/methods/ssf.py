"""SSF: scaling and shifting features."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.base.timm import Conv2dSame, LayerNorm, LayerNorm2d
from mosa.peft.blocks import backbone_modules, channel_dim, find_blocks
from mosa.peft.layers import LINEAR, unchangeable
from mosa.peft.method import TRAINING, Method

# Exactly these compute an affine function of their weight and bias, into which a scale and a shift merge;
# others may standardise the weight first, or activate the output.
AFFINE = (*LINEAR, nn.Conv2d, Conv2dSame, nn.LayerNorm, LayerNorm, LayerNorm2d)


class Ssf(Method):
    """A learned scale and shift per channel after every layer: y' = gamma y + beta.

    Layers are the Linear layers, convolutions and LayerNorms of the backbone. Merging folds gamma
    and beta into their weights and biases, so that only the backbone's modules are left. A layer without
    a bias gets only a scale, because merging must not add a bias. Tuned parameters of a ViT of width d and
    depth L: 22 d L + 4 d.
    """

    name: ClassVar[str] = "ssf"
    reference: ClassVar[str] = (
        "Lian et al., SSF, NeurIPS 2022, arXiv 2210.08823, eq. 3-4; defaults: its released code"
    )
    merges_away: ClassVar = True

    spread: float = Field(
        default=0.02,
        ge=0,
        description="Standard deviation of the initial gamma around 1 and beta around 0.",
        json_schema_extra=TRAINING,
    )

    @property
    def wraps_qkv(self) -> bool:
        return True

    @property
    def starts_as_backbone(self) -> bool:
        return self.spread == 0

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        for layer in affine_layers(model):
            if type(layer) not in AFFINE or layer.weight is None:
                kind = type(layer).__name__ + (" without a weight" if type(layer) in AFFINE else "")
                return f"a scale and a shift do not merge into the {kind} of {type(model).__name__}"
        return unchangeable(model, affine_layers(model))

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "ssf")
        for layer in affine_layers(model):
            insert_scale(layer, self.spread, rng)

    def fold(self, model: nn.Module) -> None:
        for layer in affine_layers(model):
            merge_scale(layer)

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        return sum(len(layer.weight) * (1 + (layer.bias is not None)) for layer in affine_layers(model))


def affine_layers(model: nn.Module) -> list[nn.Module]:
    """Return the Linear layers, convolutions and LayerNorms of a backbone, from input to output."""
    find_blocks(model)  # raises if the backbone is unknown
    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm)
    return [module for module in backbone_modules(model) if isinstance(module, kinds)]


def insert_scale(layer: nn.Module, spread: float, rng: torch.Generator) -> None:
    """Scale and shift the output of a layer, as `layer.ssf` from now on, before other hooks see it."""
    layer.ssf = ScaleShift(layer, spread, rng).to(layer.weight)
    layer.ssf.handle = layer.register_forward_hook(layer.ssf.modify, prepend=True)


@torch.no_grad()
def merge_scale(layer: nn.Module) -> None:
    """Fold the scale and shift of a layer's output into its weight and bias."""
    scale = layer.ssf.scale
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.mul_(scale).add_(layer.ssf.shift)
    layer.ssf.handle.remove()
    del layer.ssf


class ScaleShift(nn.Module):
    """The scale and shift of one layer's output.

    Args:
        layer: The layer.
        spread: Standard deviation of the initial values.
        rng: Draws them.

    Shape:
        Any, with the channels at the dimension of the layer's output; the output has the same shape.
    """

    def __init__(self, layer: nn.Module, spread: float, rng: torch.Generator) -> None:
        super().__init__()
        channels = len(layer.weight)
        self.view = (-1, 1, 1) if channel_dim(layer) == 1 else (-1,)
        self.scale = nn.Parameter(1 + spread * torch.randn(channels, generator=rng))
        shift = spread * torch.randn(channels, generator=rng)
        self.shift = None if layer.bias is None else nn.Parameter(shift)

    def forward(self, y: Tensor) -> Tensor:
        y = y * self.scale.view(self.view)
        return y if self.shift is None else y + self.shift.view(self.view)

    def modify(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Scale and shift the layer's output (a forward hook)."""
        return self(output)
