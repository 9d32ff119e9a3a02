"""U-Tuning: a tuner beside any frozen operation of a block."""

from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import block_width, find_blocks
from mosa.peft.method import TRAINING, BranchShape, Method
from mosa.peft.methods.adapter import Adapter, Bottleneck
from mosa.peft.places import beside

PLACES = ("attention", "mlp", "block")


class UTuning(Method):
    """A tuner beside frozen operations: x' = OP(x) + U(x), where OP is the attention, the MLP or the block.

    The tuner is the adapter in its parallel form, U(x) = s Up(drop(GELU(Down(x)))); beside attention and MLP,
    x is what LayerNorm gives them. Down is Kaiming-uniform with zero bias and Up is zero, so the model starts
    as the backbone. Nothing merges away. Tuned parameters per tuner of width d: 2 b d + b + d.
    """

    name: ClassVar[str] = "utuning"
    reference: ClassVar[str] = (
        "Jiang et al., Rethinking efficient tuning methods from a unified perspective, 2023, arXiv "
        "2303.00690, with its parallel adapter as the tuner; the defaults are ours, as no code of the "
        "authors was found"
    )
    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin")
    families_reason: ClassVar[str] = "it stands beside the attention"

    bottleneck: int = Field(default=64, ge=1, description="Channels b between the two projections.")
    places: list[Literal["attention", "mlp", "block"]] = Field(
        default=["attention", "mlp"],
        min_length=1,
        description="Operations with a tuner: any of attention, mlp, block.",
    )
    scale: float = Field(default=1.0, description="Factor s of the tuner.")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout rate before Up.", json_schema_extra=TRAINING
    )

    @field_validator("places")
    @classmethod
    def _in_order(cls, places: list[str]) -> list[str]:
        if len(set(places)) < len(places):
            raise ValueError("a place is named twice")
        return sorted(places, key=PLACES.index)

    @property
    def tuner(self) -> Adapter:
        """The options of a tuner, as those of an adapter's branch."""
        own = {"bottleneck": self.bottleneck, "scale": self.scale, "dropout": self.dropout}
        return Adapter(**own, norm=False, activation="gelu")

    def apply(self, model: nn.Module, seed: int) -> None:
        rng, tuner = generator(seed, "utuning"), self.tuner
        for block in find_blocks(model):
            tuners = {place: Bottleneck(block_width(block), tuner, rng) for place in self.places}
            block.tuners = nn.ModuleDict(tuners).to(block.norm2.weight)
            block.forward = partial(_forward, block)

    def branches(self, model: nn.Module) -> list[nn.Module]:
        return [block.tuners[place] for block in find_blocks(model) for place in self.places]

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        return [BranchShape(block_width(block), self.bottleneck, block_width(block), True)] * len(self.places)


def _forward(block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    tuners = dict(block.tuners.items())
    attention, mlp = tuners.get("attention"), tuners.get("mlp")
    y = beside(block, x, *args, attention=attention, mlp=mlp, **kwargs)
    return y + tuners["block"](x) if "block" in tuners else y
