"""Visual prompt tuning, shallow and deep."""

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.seeding import generator
from mosa.peft.blocks import block_width, find_blocks
from mosa.peft.method import Method
from mosa.peft.routing import repeat_batch


class Vpt(Method):
    """Learned prompt tokens after the class token: x = [cls, prompts, patches].

    deep: every block gets its own prompts, whose outputs are dropped after it; shallow: the first
    block's prompts go through all blocks. Prompts are uniform in +-sqrt(6 / (3 p^2 + d)) for patches of
    p x p pixels, so the model does not start as the backbone. They are removed before the final norm and
    are not pooled. Tuned parameters: prompts x d, times the number of blocks if deep.
    """

    name: ClassVar[str] = "vpt"
    reference: ClassVar[str] = (
        "Jia et al., VPT, ECCV 2022, arXiv 2203.12119, eq. 4-7; defaults: its released code"
    )
    families: ClassVar[tuple[str, ...]] = ("ViT",)
    families_reason: ClassVar[str] = "prompts are tokens of a global attention"

    prompts: int = Field(10, ge=1, description="Number of prompt tokens of a block.")
    deep: bool = Field(True, description="New prompts before every block, instead of only before the first.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout rate of the prompts.")

    @property
    def starts_as_backbone(self) -> bool:
        return False

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        embedding = getattr(model, "patch_embed", None)
        if not (hasattr(embedding, "patch_size") and hasattr(model, "num_prefix_tokens")):
            kind = type(model).__name__
            return f"{kind} has no patch embedding with class tokens before its blocks: expected a plain ViT"
        return None

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "prompts")
        blocks = find_blocks(model)
        height, width = model.patch_embed.patch_size
        for block in blocks if self.deep else blocks[:1]:
            bound = math.sqrt(6 / (3 * height * width + block_width(block)))
            block.prompts = Prompts(self, block_width(block), model.num_prefix_tokens, bound, rng)
            block.prompts.to(next(block.parameters()))
            block.register_forward_pre_hook(block.prompts.insert)
            last = block if self.deep else blocks[-1]
            last.register_forward_hook(block.prompts.remove)
        if not self.deep:
            model.forward_intermediates = _prompts_between_blocks

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0].prompts

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        blocks = find_blocks(model)
        return sum(self.prompts * block_width(block) for block in (blocks if self.deep else blocks[:1]))


def _prompts_between_blocks(*args: Any, **kwargs: Any) -> None:
    """Take the place of timm's `forward_intermediates`, which would return the prompts as image tokens."""
    raise UserError(
        "forward_intermediates: the tokens between blocks hold the prompts of deep=false; "
        "call forward_features, or take deep=true, whose prompts end in each block"
    )


class Prompts(nn.Module):
    """The prompts of one block, inserted and removed by hooks.

    Args:
        options: The options of VPT.
        width: Channels d.
        prefix: Number of tokens before the prompts (class and register tokens).
        bound: The prompts are drawn from U(-bound, bound).
        rng: Draws them.

    Shape:
        (batch, tokens, d) -> (batch, tokens + prompts, d).
    """

    def __init__(self, options: Vpt, width: int, prefix: int, bound: float, rng: torch.Generator) -> None:
        super().__init__()
        self.prefix = prefix
        self.tokens = nn.Parameter(torch.empty(options.prompts, width).uniform_(-bound, bound, generator=rng))
        self.drop = nn.Dropout(options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        prompts = self.drop(repeat_batch(self.tokens.unsqueeze(0), len(x)))
        return torch.cat((x[:, : self.prefix], prompts, x[:, self.prefix :]), dim=1)

    def insert(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Insert the prompts into a block's input (a forward pre-hook)."""
        return (self(inputs[0]), *inputs[1:])

    def remove(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Remove their tokens from a block's output (a forward hook)."""
        return torch.cat((output[:, : self.prefix], output[:, self.prefix + len(self.tokens) :]), dim=1)
