"""AdaMix: a mixture of dense adapters, of which a random one is active, merged after training."""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.method import Method, weight_of_consistency
from mosa.peft.methods.adapter import Adapter
from mosa.peft.routing import Router, drawn, linear_per_pass


class AdaMix(Adapter):
    """The adapter with N full copies of its projections, one of them active at random; merged to their mean.

    The dense counterpart of mosa, with the same routing and the same loss. Every expert has its own full
    weights, so training holds N times the parameters. Merged, it is a plain adapter.
    """

    name: ClassVar[str] = "adamix"
    reference: ClassVar[str] = "Wang et al., AdaMix, EMNLP 2022, arXiv 2205.12410, eq. 3-5"

    experts: int = Field(default=4, ge=1, le=256, description="Number N of dense experts.")
    copies: Literal["up", "down", "both"] = Field(
        default="both", description="Which projections have experts; the others are shared."
    )
    consistency: float = weight_of_consistency(1.0)

    @property
    def copied_names(self) -> tuple[str, ...]:
        """The names of the projections that have experts."""
        return ("down", "up") if self.copies == "both" else (self.copies,)

    def apply(self, model: nn.Module, seed: int) -> None:
        super().apply(model, seed)
        rng = generator(seed, "experts")
        router = Router(model.peft.passes, seed)
        for branch in self.branches(model):
            for name in self.copied_names:
                setattr(branch, name, DenseExperts(getattr(branch, name), self.experts, router, rng))
        router.register(model)

    def fork_point(self, model: nn.Module) -> nn.Module:
        point, first = super().fork_point(model), self.branches(model)[0]
        return first.down if "down" in self.copied_names and point in set(first.children()) else point

    def fold(self, model: nn.Module) -> Method:
        for branch in self.branches(model):
            for name in self.copied_names:
                setattr(branch, name, getattr(branch, name).merged())
        model.router.remove(model)
        return self.as_plain(Adapter)

    def trained_block_parameters(self, block: nn.Module) -> int:
        copied = 0
        for shape in self.branch_shapes(block):
            sizes = {"up": (shape.hidden + 1) * shape.outputs, "down": (shape.inputs + 1) * shape.hidden}
            copied += sum(sizes[name] for name in self.copied_names)
        return self.block_parameters(block) + (self.experts - 1) * copied


class DenseExperts(nn.Module):
    """A Linear in N full copies, of which the router activates one for each pass.

    Args:
        linear: The layer that is copied. If it is zero, all copies are zero; otherwise the first copy has
            its values and the others are drawn Kaiming-uniform.
        experts: Number of experts N.
        router: Draws the active experts.
        rng: Draws the initial weights.

    Shape:
        (passes * batch, ..., in) -> (passes * batch, ..., out).
    """

    def __init__(self, linear: nn.Linear, experts: int, router: Router, rng: torch.Generator) -> None:
        super().__init__()
        self.experts = experts
        self.active: Tensor | None = None
        weights = linear.weight.detach().clone().repeat(experts, 1, 1)
        if linear.weight.count_nonzero():
            for weight in weights[1:]:
                start = nn.init.kaiming_uniform_(torch.empty(weight.shape), a=math.sqrt(5), generator=rng)
                weight.copy_(start)
        self.weight = nn.Parameter(weights)
        self.bias = nn.ParameterList(  # vectors, which are not decayed
            [nn.Parameter(linear.bias.detach().clone()) for _ in range(experts)]
        )
        router.projections.append(self)

    def forward(self, x: Tensor) -> Tensor:
        biases = torch.stack(tuple(self.bias))
        if not self.training:
            return F.linear(x, self.weight.mean(0), biases.mean(0))
        active = drawn(self.active)
        return linear_per_pass(x, self.weight.index_select(0, active), biases.index_select(0, active))

    def merged(self) -> nn.Linear:
        """Return the mean of the experts as a plain Linear."""
        linear = nn.Linear(self.weight.shape[2], self.weight.shape[1], device="meta")
        linear.weight = nn.Parameter(self.weight.detach().mean(0))
        linear.bias = nn.Parameter(torch.stack(tuple(self.bias)).detach().mean(0))
        return linear.train(self.training)
