"""Projections of low numerical precision: their weights take few values."""

from functools import cache
from itertools import pairwise
from statistics import NormalDist
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.peft.method import Method

Bits = Literal[1, 2, 4]


class Quantized(Method):
    """Base of the methods whose branches have quantised projections."""

    reference: ClassVar[str] = (
        "Jie et al., Revisiting the parameter efficiency of adapters from the perspective of precision "
        "redundancy, ICCV 2023, arXiv 2307.16867, section 3; defaults: its released code"
    )

    bits: Bits = Field(default=1, description="Bits of a weight: 1, 2 or 4.")

    @property
    def starts_as_backbone(self) -> bool:
        return False


@cache
def normal_levels(bits: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the 2^bits values by which normal numbers are rounded with the least mean absolute error.

    Each is the median of the numbers that are rounded to it, and these are those nearest to it.

    Returns:
        The values, in increasing order, and the middles between them.
    """
    normal, levels = NormalDist(), [0.0] * 2**bits
    for _ in range(500):
        middles = [(low + high) / 2 for low, high in pairwise(levels)]
        edges = [0.0, *(normal.cdf(middle) for middle in middles), 1.0]
        levels = [normal.inv_cdf((low + high) / 2) for low, high in pairwise(edges)]
    return tuple(levels), tuple((low + high) / 2 for low, high in pairwise(levels))


class QuantizedLinear(nn.Module):
    """A Linear without bias whose weights take 2^bits values: x W'^T, W' = std Q((W - mean) / std) + mean.

    Q takes each standardised weight to the nearest of the values of `normal_levels`. The gradient takes Q for
    the identity (straight-through), and goes through the mean and the standard deviation of W.

    Args:
        weight: The initial W (out, in), which is the parameter from now on.
        bits: Bits of a weight.

    Shape:
        (..., in) -> (..., out).
    """

    def __init__(self, weight: nn.Parameter, bits: Bits) -> None:
        super().__init__()
        self.weight = weight
        self.levels, self.middles = normal_levels(bits)

    def quantized(self) -> Tensor:
        """Return W'."""
        mean, std = self.weight.mean(), self.weight.std()
        standard = (self.weight - mean) / (std + 1e-5)
        with torch.no_grad():
            nearest = torch.full_like(standard, self.levels[0])
            for middle, level in zip(self.middles, self.levels[1:], strict=True):
                nearest.masked_fill_(standard > middle, level)
        return (nearest + (standard - standard.detach())) * std + mean  # the sum is `nearest`

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.quantized())


def quantize(branch: nn.Module, bits: Bits, rng: torch.Generator) -> None:
    """Quantise the projections `down` and `up` of a branch, and draw the first values of `up`.

    They are normal with a deviation of 0.001, cut at twice that: those of a zero have no two values.
    """
    down, up = (cast(nn.Linear, branch.get_submodule(name)) for name in ("down", "up"))
    start = torch.empty(up.weight.shape)
    nn.init.trunc_normal_(start, std=0.001, a=-0.002, b=0.002, generator=rng)
    with torch.no_grad():
        up.weight.copy_(start)
    branch.down, branch.up = (QuantizedLinear(cast(nn.Parameter, layer.weight), bits) for layer in (down, up))
