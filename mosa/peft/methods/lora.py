"""Low-rank adaptation of the projections of a block."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import PROJECTIONS, QKV, Projection, find_blocks, projections_of
from mosa.peft.layers import InPlaceOf, unchangeable
from mosa.peft.method import TRAINING, BranchShape, Method, above

Target = Literal["q", "k", "v", "proj", "fc1", "fc2"]


class Lora(Method):
    """A low-rank change of projection weights, W' = W + s B A, in every block.

    A is Kaiming-uniform and B is zero, so the model starts as the backbone. After merging, only
    the backbone's weights are left. Tuned parameters per block: r (in + out) for each target; with
    the default targets, 4 r d. q, k and v are rows of one fused layer, or layers of their own. On ConvNeXt,
    only the targets fc1 and fc2 exist.
    """

    name: ClassVar[str] = "lora"
    reference: ClassVar[str] = (
        "Hu et al., LoRA, ICLR 2022, arXiv 2106.09685, eq. 3. Defaults: rank and targets as in MoSA's paper"
    )
    merges_away: ClassVar = True
    rank: int = Field(default=16, ge=1, description="Rank r of the change.")
    targets: list[Target] = Field(
        default=["q", "v"],
        min_length=1,
        description="Projections that are changed: any of q, k, v, proj, fc1, fc2.",
    )
    scale: float = Field(default=1.0, description="Factor s of the change.")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout rate of the input of A.", json_schema_extra=TRAINING
    )

    @field_validator("targets")
    @classmethod
    def _in_order(cls, targets: list[str]) -> list[str]:
        if len(set(targets)) < len(targets):
            raise ValueError("a target is named twice")
        return sorted(targets, key=PROJECTIONS.index)

    @property
    def wraps_qkv(self) -> bool:
        return not set(QKV).isdisjoint(self.targets)

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        for block in find_blocks(model):
            present = [target for projection in projections_of(block) for target in projection.rows]
            if absent := [target for target in self.targets if target not in present]:
                kind = type(block).__name__
                return f"target {absent[0]!r}: {kind} has no such Linear layer; take other targets"
            smallest = min(min(shape.inputs, shape.outputs) for shape in self.branch_shapes(block))
            if reason := above("rank", self.rank, smallest, "the width of the projection"):
                return reason
        layers = [projection.layer for block in find_blocks(model) for projection, _ in self._layers(block)]
        return unchangeable(model, layers)

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "lora")
        for block in find_blocks(model):
            for projection, parts in self._layers(block):
                setattr(projection.owner, projection.name, LoraLinear(projection.layer, parts, self, rng))

    def fold(self, model: nn.Module) -> None:
        for block in find_blocks(model):
            for projection, _ in self._layers(block):
                setattr(projection.owner, projection.name, projection.layer.merged())

    def branches(self, model: nn.Module) -> list[nn.Module]:
        layers = [projection.layer for block in find_blocks(model) for projection, _ in self._layers(block)]
        return [layer.low_rank[part] for layer in layers for part in layer.parts if part is not None]

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        return [
            BranchShape(layer.in_features, self.rank, layer.out_features // len(parts), False)
            for layer, parts in ((projection.layer, parts) for projection, parts in self._layers(block))
            for part in parts
            if part is not None
        ]

    def _layers(self, block: nn.Module) -> list[tuple[Projection, tuple[str | None, ...]]]:
        """Return each layer that is changed, and the change of each part of its rows, or None."""
        chosen = [
            (projection, tuple(row if row in self.targets else None for row in projection.rows))
            for projection in projections_of(block)
        ]
        return [(projection, parts) for projection, parts in chosen if any(parts)]


class LowRank(nn.Module):
    """The product B A as two Linear layers, `up` and `down`.

    Shape:
        (..., inputs) -> (..., outputs).
    """

    def __init__(self, inputs: int, outputs: int, options: Lora, rng: torch.Generator) -> None:
        super().__init__()
        self.drop = nn.Dropout(options.dropout)
        self.down = nn.Linear(inputs, options.rank, bias=False)
        self.up = nn.Linear(options.rank, outputs, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=rng)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(self.drop(x)))


class LoraLinear(InPlaceOf):
    """A Linear layer whose rows are cut into equal parts, each with a low-rank change or none.

    Args:
        linear: The layer that is replaced.
        parts: The name of each part's change, or None: (q, None, v) for timm's fused qkv.
        options: The options of LoRA.
        rng: Draws A.

    Shape:
        (..., in) -> (..., out).
    """

    def __init__(
        self, linear: nn.Linear, parts: tuple[str | None, ...], options: Lora, rng: torch.Generator
    ) -> None:
        super().__init__(linear)
        self.scale, self.parts = options.scale, parts
        outputs = linear.out_features // len(parts)
        self.low_rank = nn.ModuleDict(
            {part: LowRank(linear.in_features, outputs, options, rng) for part in parts if part is not None}
        ).to(linear.weight)
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        chunks = [
            chunk if part is None else chunk + self.scale * self.low_rank[part](x)
            for part, chunk in zip(self.parts, super().forward(x).chunk(len(self.parts), dim=-1), strict=True)
        ]
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=-1)

    def merged(self) -> nn.Linear:
        """Return a plain Linear with the change added to its weight, which is modified in place."""
        with torch.no_grad():
            for part, rows in zip(self.parts, self.weight.chunk(len(self.parts)), strict=True):
                if part is not None:
                    rows += self.scale * self.low_rank[part].up.weight @ self.low_rank[part].down.weight
        return self.plain()
