"""Partial fine-tuning: the last blocks."""

from typing import ClassVar

from pydantic import Field
from torch import nn

from mosa.peft.blocks import final_norm, find_blocks
from mosa.peft.method import Method


class Partial(Method):
    """The last k blocks and the norm after them are tuned; nothing is inserted."""

    name: ClassVar[str] = "partial"
    reference: ClassVar[str] = (
        "Yosinski et al., 2014, arXiv 1411.1792; as Partial-1 in Jia et al., VPT, ECCV 2022, arXiv 2203.12119"
    )

    blocks: int = Field(1, ge=1, description="Number k of blocks.")

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        depth = len(find_blocks(model))
        if self.blocks > depth:
            return f"blocks={self.blocks}: expected at most {depth}, the depth of the model"
        return None

    def apply(self, model: nn.Module, seed: int) -> None:
        for module in self._tuned(model):
            module.requires_grad_(True)

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        return sum(parameter.numel() for module in self._tuned(model) for parameter in module.parameters())

    def _tuned(self, model: nn.Module) -> list[nn.Module]:
        norm = final_norm(model)
        return find_blocks(model)[-self.blocks :] + ([] if norm is None else [norm])
