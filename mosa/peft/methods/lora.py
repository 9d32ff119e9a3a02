"""Low-rank adaptation of the projections of a block."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import find_blocks
from mosa.peft.method import BranchShape, Method

Target = Literal["q", "k", "v", "proj", "fc1", "fc2"]
QKV = ("q", "k", "v")  # the order of the rows of timm's fused projection


class Lora(Method):
    """A low-rank change of projection weights, W' = W + s B A, in every block.

    A is Kaiming-uniform and B is zero, so the model starts as the backbone. After merging, only
    the backbone's weights are left. Tuned parameters per block: r (in + out) for each target; with
    the default targets, 4 r d. On ConvNeXt, only the targets fc1 and fc2 exist.
    """

    name: ClassVar[str] = "lora"
    reference: ClassVar[str] = (
        "Hu et al., LoRA, ICLR 2022, arXiv 2106.09685, eq. 3. Defaults: rank and targets as in MoSA's paper"
    )
    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin", "ConvNeXt")

    rank: int = Field(16, ge=1, description="Rank r of the change.")
    targets: list[Target] = Field(
        ["q", "v"], min_length=1, description="Projections that are changed: any of q, k, v, proj, fc1, fc2."
    )
    scale: float = Field(1.0, description="Factor s of the change.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate of the input of A.")

    @field_validator("targets")
    @classmethod
    def _in_order(cls, targets: list[str]) -> list[str]:
        if len(set(targets)) < len(targets):
            raise ValueError("a target is named twice")
        return sorted(targets, key=[*QKV, "proj", "fc1", "fc2"].index)

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        for block in find_blocks(model):
            for target in self.targets:
                owner, name = place(block, target)
                if not isinstance(getattr(owner, name, None), nn.Linear):
                    kind = type(block).__name__
                    return f"target {target!r}: {kind} has no such Linear layer; take other targets"
            smallest = min(min(shape.inputs, shape.outputs) for shape in self.branch_shapes(block))
            if self.rank > smallest:
                return f"rank={self.rank}: expected at most {smallest}, the width of the projection"
        return None

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "lora")
        for block in find_blocks(model):
            for owner, name, parts in self._layers(block):
                setattr(owner, name, LoraLinear(getattr(owner, name), parts, self, rng))

    def fold(self, model: nn.Module) -> None:
        for block in find_blocks(model):
            for owner, name, _ in self._layers(block):
                setattr(owner, name, getattr(owner, name).merged())

    def branches(self, model: nn.Module) -> list[nn.Module]:
        layers = [
            getattr(owner, name) for block in find_blocks(model) for owner, name, _ in self._layers(block)
        ]
        return [layer.low_rank[part] for layer in layers for part in layer.parts if part is not None]

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        shapes = []
        for target in self.targets:
            owner, name = place(block, target)
            layer = getattr(owner, name)
            outputs = layer.out_features // (len(QKV) if target in QKV else 1)
            shapes.append(BranchShape(layer.in_features, self.rank, outputs, False))
        return shapes

    def _layers(self, block: nn.Module) -> list[tuple[nn.Module, str, tuple[str | None, ...]]]:
        """Return each layer that is changed: its owner, its name, and the branch of each part of its rows."""
        fused = tuple(target if target in self.targets else None for target in QKV)
        layers = [(block.attn, "qkv", fused)] if any(fused) else []
        return layers + [(*place(block, target), (target,)) for target in self.targets if target not in QKV]


def place(block: nn.Module, target: str) -> tuple[nn.Module | None, str]:
    """Return the module that holds the layer of a target, and the layer's name there."""
    if target in ("fc1", "fc2"):
        return block.mlp, target
    return getattr(block, "attn", None), "qkv" if target in QKV else target


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


class LoraLinear(nn.Linear):
    """A Linear layer whose rows are cut into equal parts, each with a low-rank change or none.

    It shares `weight` and `bias` with the layer it replaces, under the same names.

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
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
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
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        return linear.train(self.training)
