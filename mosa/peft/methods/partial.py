"""Partial fine-tuning: the last blocks."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from mosa.peft.blocks import FAMILIES, families_of, final_norm, find_blocks
from mosa.peft.method import Selection


class Partial(Selection):
    """The last k blocks and the norm after them are tuned; nothing is inserted."""

    name: ClassVar[str] = "partial"
    reference: ClassVar[str] = (
        "Yosinski et al., 2014, arXiv 1411.1792; as Partial-1 in Jia et al., VPT, ECCV 2022, arXiv 2203.12119"
    )
    families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)

    blocks: int = Field(default=1, ge=1, description="Number k of blocks.")

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        if "XCiT" in families_of(model):
            return f"{type(model).__name__} has other blocks, of class attention, after those that are known"
        depth = len(find_blocks(model))
        if self.blocks > depth:
            return f"blocks={self.blocks}: expected at most {depth}, the depth of the model"
        return None

    def selected(self, model: nn.Module) -> list[nn.Parameter]:
        norm = final_norm(model)
        tuned = find_blocks(model)[-self.blocks :] + ([] if norm is None else [norm])
        return [parameter for module in tuned for parameter in module.parameters()]
