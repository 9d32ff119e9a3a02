"""Bi-AdaptFormer: adapters whose weights have one bit."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from mosa.base.seeding import generator
from mosa.peft.blocks import block_width
from mosa.peft.method import TRAINING, BranchShape
from mosa.peft.methods.adapter import Adapter
from mosa.peft.quantized import Quantized, quantize


class BiAdaptformer(Quantized):
    """A bottleneck beside the MLP whose weights are quantised: A(h) = s Q(U) drop(relu(Q(D) h)).

    Q(W) = std q((W - mean) / std) + mean, where q takes a weight to the nearest of 2^bits fixed values, those
    that fit normal weights best; its gradient is the identity's (straight-through). D is Kaiming-uniform, and
    U normal with a deviation of 0.001, cut at twice that, so the model does not start as the backbone. Tuned
    parameters per block: 2 d b. To store one of them for evaluation takes `bits` bits, and two numbers per
    matrix; save_tuned writes the float weights, which training needs, and merging changes nothing.
    """

    name: ClassVar[str] = "bi_adaptformer"

    bottleneck: int = Field(default=32, ge=1, description="Channels b between the two projections.")
    scale: float = Field(
        default=1.0, description="Factor s of the branch; the paper chooses it for each task."
    )
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate after the activation.", json_schema_extra=TRAINING
    )

    @property
    def dense(self) -> Adapter:
        """The adapter that is quantised."""
        own = {"bottleneck": self.bottleneck, "scale": self.scale, "dropout": self.dropout}
        return Adapter(**own, norm=False, activation="relu")

    def apply(self, model: nn.Module, seed: int) -> None:
        self.dense.apply(model, seed)
        rng = generator(seed, "quantized")
        for branch in self.branches(model):
            quantize(branch, self.bits, rng)

    def branches(self, model: nn.Module) -> list[nn.Module]:
        return self.dense.branches(model)

    def fork_point(self, model: nn.Module) -> nn.Module:
        return self.dense.fork_point(model)

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        return [BranchShape(block_width(block), self.bottleneck, block_width(block), False)]
