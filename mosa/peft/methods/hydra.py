"""Hydra: a parallel and a sequential low-rank branch of a projection."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import find_blocks
from mosa.peft.layers import InPlaceOf, unchangeable
from mosa.peft.method import TRAINING, BranchShape, Method

TARGETS = ("proj", "fc1", "fc2")


class Hydra(Method):
    """A branch on the input and one on the output of a Linear layer: y' = y + s (Bp Ap x + Bs As y).

    y = W x + b is the layer's. A is Xavier-uniform and B is zero, so the model starts as the backbone. Both
    branches are linear and merge into the layer: W' = W + s Bp Ap + s Bs As W. All four projections have
    biases, unless the layer has none, because merging must not add one. After merging, only the backbone's
    weights are left. Tuned parameters for each target: r (in + 3 out) + 2 (r + out).
    """

    name: ClassVar[str] = "hydra"
    reference: ClassVar[str] = (
        "Kim et al., Hydra, 2023, arXiv 2309.06922; defaults: its released code for VTAB-1k, which takes "
        "scale and dropout from a file for each data set"
    )
    merges_away: ClassVar = True
    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin", "ConvNeXt")

    rank: int = Field(default=2, ge=1, description="Rank r of each branch.")
    targets: list[Literal["proj", "fc1", "fc2"]] = Field(
        default=["proj", "fc2"], min_length=1, description="Layers that are changed: any of proj, fc1, fc2."
    )
    scale: float = Field(default=1.0, description="Factor s of the branches.")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout rate between A and B.", json_schema_extra=TRAINING
    )

    @field_validator("targets")
    @classmethod
    def _in_order(cls, targets: list[str]) -> list[str]:
        if len(set(targets)) < len(targets):
            raise ValueError("a target is named twice")
        return sorted(targets, key=TARGETS.index)

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        for block in find_blocks(model):
            for target in self.targets:
                owner, name = place(block, target)
                if not isinstance(getattr(owner, name, None), nn.Linear):
                    kind = type(block).__name__
                    return f"target {target!r}: {kind} has no such Linear layer; take other targets"
        return unchangeable(model, (getattr(owner, name) for owner, name in self._places(model)))

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "hydra")
        for owner, name in self._places(model):
            setattr(owner, name, HydraLinear(getattr(owner, name), self, rng))

    def fold(self, model: nn.Module) -> None:
        for owner, name in self._places(model):
            setattr(owner, name, getattr(owner, name).merged())

    def branches(self, model: nn.Module) -> list[nn.Module]:
        layers = [getattr(owner, name) for owner, name in self._places(model)]
        return [branch for layer in layers for branch in (layer.parallel, layer.sequential)]

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        layers = [getattr(*place(block, target)) for target in self.targets]
        return [
            BranchShape(inputs, self.rank, layer.out_features, layer.bias is not None)
            for layer in layers
            for inputs in (layer.in_features, layer.out_features)
        ]

    def _places(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        return [place(block, target) for block in find_blocks(model) for target in self.targets]


def place(block: nn.Module, target: str) -> tuple[nn.Module | None, str]:
    """Return the module that holds the layer of a target, and the layer's name there."""
    return getattr(block, "attn" if target == "proj" else "mlp", None), target


class HydraBranch(nn.Module):
    """The product B A as two Linear layers, `up` and `down`.

    Shape:
        (..., inputs) -> (..., outputs).
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, options: Hydra, rng: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, options.rank, bias)
        self.drop = nn.Dropout(options.dropout)
        self.up = nn.Linear(options.rank, outputs, bias)
        nn.init.xavier_uniform_(self.down.weight, generator=rng)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.drop(self.down(x)))


class HydraLinear(InPlaceOf):
    """A Linear layer with a parallel and a sequential branch.

    Args:
        linear: The layer that is replaced.
        options: The options of Hydra.
        rng: Draws the initial weights.

    Shape:
        (..., in) -> (..., out).
    """

    def __init__(self, linear: nn.Linear, options: Hydra, rng: torch.Generator) -> None:
        inputs, outputs, bias = linear.in_features, linear.out_features, linear.bias is not None
        super().__init__(linear)
        self.scale = options.scale
        self.parallel = HydraBranch(inputs, outputs, bias, options, rng).to(linear.weight)
        self.sequential = HydraBranch(outputs, outputs, bias, options, rng).to(linear.weight)
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + self.scale * (self.parallel(x) + self.sequential(y))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a plain Linear with the branches in its weight and bias, which are modified in place."""
        (a_p, b_p), (a_s, b_s) = ((each.down, each.up) for each in (self.parallel, self.sequential))
        after = b_s.weight @ a_s.weight
        if self.bias is not None:
            parallel = b_p.weight @ a_p.bias + b_p.bias
            sequential = after @ self.bias + b_s.weight @ a_s.bias + b_s.bias
            self.bias += self.scale * (parallel + sequential)
        self.weight += self.scale * (b_p.weight @ a_p.weight + after @ self.weight)
        return self.plain()
