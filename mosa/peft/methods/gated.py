"""Softly gated experts: a mixture of adapters that is never merged."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.peft.blocks import block_width, channel_dim
from mosa.peft.methods.adapter import Adapter, Bottleneck


class Gated(Adapter):
    """N adapters in each place, weighted for every token by a softmax gate: A(h) = sum_i g_i(h) A_i(h).

    g = softmax(Gate(h)) with a Linear gate that is zero at the start, so that training starts from the
    plain mean. All experts compute in every pass and remain after training: N times the parameters and the
    compute of the adapter.
    """

    name: ClassVar[str] = "gated"
    reference: ClassVar[str] = "Jacobs et al., Adaptive mixtures of local experts, 1991, on adapters"

    experts: int = Field(default=4, ge=1, description="Number N of experts.")

    def build_branch(self, block: nn.Module, place: nn.Module, rng: torch.Generator) -> "GatedBottleneck":
        branch = GatedBottleneck(block_width(block), self, rng, channel_dim(place))
        return branch.to(next(block.parameters()))

    def branches(self, model: nn.Module) -> list[nn.Module]:
        """Return the gated branches, one for each place."""
        return super().branches(model)

    def block_parameters(self, block: nn.Module) -> int:
        gates = sum(self.experts * (shape.inputs + 1) for shape in self.branch_shapes(block))
        return self.experts * super().block_parameters(block) + gates


class GatedBottleneck(Bottleneck):
    """The experts of one place with their gate.

    Shape:
        As `Bottleneck`.
    """

    def __init__(self, width: int, options: Gated, rng: torch.Generator, dim: int = -1) -> None:
        nn.Module.__init__(self)
        self.experts = nn.ModuleList(Bottleneck(width, options, rng) for _ in range(options.experts))
        self.gate = nn.Linear(width, options.experts)
        self.dim = dim
        for zero in (self.gate.weight, self.gate.bias):
            nn.init.zeros_(zero)

    @property
    def fork(self) -> nn.Module:
        return self

    def forward(self, h: Tensor) -> Tensor:
        h = h.movedim(self.dim, -1)
        weights = self.gate(h).softmax(-1).unsqueeze(-2)
        outputs = torch.stack([expert(h) for expert in self.experts], dim=-1)
        return (outputs * weights).sum(-1).movedim(-1, self.dim)
