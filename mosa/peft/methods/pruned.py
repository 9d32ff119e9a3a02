"""The adapter pruned at random: a single sparse expert."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import find_blocks
from mosa.peft.methods.adapter import Adapter
from mosa.peft.split import partition, too_many_experts


class Pruned(Adapter):
    """The adapter with a random 1/N of the weights of a projection; the others stay zero.

    The baseline that a mixture of sparse adapters must beat: a single sparse one, of a mosa expert's
    size. Only the kept weights are parameters, in training and afterwards.
    """

    name: ClassVar[str] = "pruned"
    reference: ClassVar[str] = "the single sparse adapter of Zhang et al., MoSA, 2023, arXiv 2312.02923"

    keep: int = Field(default=4, ge=1, le=256, description="N: one in N weights is kept.")
    prune: Literal["up", "down", "both"] = Field(default="up", description="Which projections are pruned.")

    @property
    def pruned_names(self) -> tuple[str, ...]:
        """The names of the pruned projections within a branch."""
        return ("down", "up") if self.prune == "both" else (self.prune,)

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        shapes = {shape for block in find_blocks(model) for shape in self.branch_shapes(block)}
        sizes = sorted((shape.hidden, min(shape.inputs, shape.outputs)) for shape in shapes)
        return next(filter(None, (too_many_experts(size, self.keep, option="keep") for size in sizes)), None)

    def apply(self, model: nn.Module, seed: int) -> None:
        super().apply(model, seed)
        rng = generator(seed, "partition")
        for branch in self.branches(model):
            for name in self.pruned_names:
                setattr(branch, name, PrunedLinear(getattr(branch, name), self.keep, rng))

    def block_parameters(self, block: nn.Module) -> int:
        removed = 0
        for shape in self.branch_shapes(block):
            sizes = {"up": shape.outputs * shape.hidden, "down": shape.hidden * shape.inputs}
            removed += sum(sizes[name] - -(-sizes[name] // self.keep) for name in self.pruned_names)
        return super().block_parameters(block) - removed


class PrunedLinear(nn.Module):
    """A Linear of which a random 1/N of the weights exist.

    Args:
        linear: The layer that is replaced; the kept weights start with its values.
        keep: N.
        rng: Draws which are kept.

    Shape:
        (..., in) -> (..., out).

    Attributes:
        values: The kept weights, (1, k): two-dimensional, so that they are decayed like a matrix.
        places: Their indices in the flattened weight, (k,), int64.
    """

    def __init__(self, linear: nn.Linear, keep: int, rng: torch.Generator) -> None:
        super().__init__()
        self.shape = linear.weight.shape
        kept = partition(self.shape, keep, rng).flatten() == 0
        self.register_buffer("places", kept.nonzero().flatten().to(linear.weight.device))
        self.values = nn.Parameter(linear.weight.detach().flatten()[self.places].unsqueeze(0))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = self.values.new_zeros(self.shape.numel()).scatter(0, self.places, self.values[0])
        return F.linear(x, weight.view(self.shape), self.bias)
