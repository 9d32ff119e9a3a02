"""MoSA: the adapter whose projections are split among stochastically activated sparse experts."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from mosa.peft.adapter import Adapter
from mosa.peft.blocks import block_width, find_blocks
from mosa.peft.method import Method
from mosa.peft.split import check_experts, fold_splits, split_projections


class Mosa(Adapter):
    """The adapter with split projections; a random expert per block and pass; merged after training.

    Loss: CE(z1, y) + consistency * 1/2 [KL(sg p2 || p1) + KL(sg p1 || p2)] over two passes with
    independent experts and dropout. Merged, it is a plain adapter of the same size; while it is
    trained, each split projection holds N biases instead of one.
    """

    name: ClassVar[str] = "mosa"
    reference: ClassVar[str] = "Zhang et al., MoSA, 2023, arXiv 2312.02923"

    experts: int = Field(4, ge=1, le=256, description="Number N of sparse experts that share the weights.")
    split: Literal["up", "down", "both"] = Field(
        "up", description="Which projections are split; the others stay dense and shared."
    )
    split_bias: bool = Field(
        False, description="Share the biases out among the experts too, instead of one full bias each."
    )
    merge: Literal["mean", "sum"] = Field(
        "mean", description="Merge the experts into their mean, or into the sum of their changes."
    )
    consistency: float = Field(
        1.0, ge=0, description="Weight of the symmetric KL term between two passes; 0 trains with one pass."
    )

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names of the split projections within a branch."""
        return ("down", "up") if self.split == "both" else (self.split,)

    def check(self, model: nn.Module) -> None:
        for block in find_blocks(model):
            width, bias = block_width(block), {"up": block_width(block), "down": self.bottleneck}
            check_experts((width, self.bottleneck), self.experts)
            if self.split_bias:
                for name in self.split_names:
                    check_experts((bias[name],), self.experts)

    def apply(self, model: nn.Module, seed: int) -> None:
        super().apply(model, seed)
        split_projections(
            model,
            [(block.adapter, name) for block in find_blocks(model) for name in self.split_names],
            seed=seed,
            experts=self.experts,
            split_bias=self.split_bias,
            merge=self.merge,
        )

    def fork_point(self, model: nn.Module) -> nn.Module:
        first = find_blocks(model)[0].adapter
        return first.down if "down" in self.split_names else first.drop

    def fold(self, model: nn.Module) -> Method:
        fold_splits(model)
        return Adapter(**self.model_dump(include=set(Adapter.model_fields) - {"consistency"}))

    def trained_block_parameters(self, width: int) -> int:
        biases = {"up": width, "down": self.bottleneck}
        copies = 0 if self.split_bias else self.experts - 1
        return self.block_parameters(width) + copies * sum(biases[name] for name in self.split_names)
