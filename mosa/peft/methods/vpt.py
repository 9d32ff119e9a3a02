"""Visual prompt tuning, shallow and deep."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mosa.base.errors import UserError
from mosa.base.seeding import generator
from mosa.base.timm import SwinTransformerBlock, SwinTransformerV2Block
from mosa.peft.blocks import BlockView, block_width, find_blocks, part_of, sites_of
from mosa.peft.method import TRAINING, Method


class Vpt(Method):
    """Learned prompt tokens after the class token: x = [cls, prompts, patches].

    deep: every block gets its own prompts, whose outputs are dropped after it; shallow: the first
    block's prompts go through all blocks. Prompts are uniform in +-sqrt(6 / (3 p^2 + d)) for patches of
    p x p pixels and a first block of width d, so the model does not start as the backbone. They are removed
    before the final norm and are not pooled. Prompts have no place in the image: rotary embeddings do not
    turn them (EVA-02, DINOv3), and biases of relative positions are zero for their pairs (BEiT, Swin).
    On Swin and Swin V2, each block's prompts stand before the tokens of every window in its attention, as in
    the method's released code, and only deep. Tuned parameters: prompts x d, summed over the blocks if deep.
    """

    name: ClassVar[str] = "vpt"
    reference: ClassVar[str] = (
        "Jia et al., VPT, ECCV 2022, arXiv 2203.12119, eq. 4-7; initial values and dropout: its released "
        "code, which has another number of prompts for each task, and no dropout of shallow ones"
    )
    families: ClassVar[tuple[str, ...]] = (
        *("ViT", "PostNormViT", "Swin", "EVA", "BEiT", "SwinV2", "RelPos", "ParallelViT"),
    )
    families_reason: ClassVar[str] = "prompts are tokens of an attention, after class tokens or in windows"

    prompts: int = Field(default=10, ge=1, description="Number of prompt tokens of a block.")
    deep: bool = Field(
        default=True, description="New prompts before every block, instead of only before the first."
    )
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropout rate of the prompts.", json_schema_extra=TRAINING
    )

    @property
    def starts_as_backbone(self) -> bool:
        return False

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        kind, embedding = type(model).__name__, getattr(model, "patch_embed", None)
        windows = [isinstance(block, WINDOWS) for block in find_blocks(model)]
        if not hasattr(embedding, "patch_size") or not (hasattr(model, "num_prefix_tokens") or all(windows)):
            return f"{kind} has no patch embedding with class tokens before its blocks: expected a plain ViT"
        if any(windows) and not self.deep:
            return (
                f"deep=false: the prompts of {kind} would have to pass the merging of patches; take deep=true"
            )
        return None

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, "prompts")
        blocks = find_blocks(model)
        height, width = model.patch_embed.patch_size
        bound = math.sqrt(6 / (3 * height * width + block_width(blocks[0])))
        prefix = getattr(model, "num_prefix_tokens", 0)
        for block in blocks if self.deep else blocks[:1]:
            block.prompts = Prompts(self, block_width(block), prefix, bound, rng)
            block.prompts.to(next(block.parameters()))
            if isinstance(block, WINDOWS):
                block.forward = partial(block.prompts.in_windows, block)
            else:
                block.register_forward_pre_hook(block.prompts.insert)
                last = block if self.deep else blocks[-1]
                last.register_forward_hook(block.prompts.remove)
        for block in blocks:
            _admit(part_of(block, sites_of(block).attention), prefix, self.prompts)
        if shared := getattr(model, "rel_pos_bias", None):  # BEiT's, one for all blocks
            shared.forward = _padded(shared.forward, prefix, self.prompts)
        if shared := getattr(model, "shared_rel_pos", None):
            shared.get_bias = _padded(shared.get_bias, prefix, self.prompts)
        if not self.deep:
            model.forward_intermediates = _prompts_between_blocks

    def fork_point(self, model: nn.Module) -> nn.Module:
        first = find_blocks(model)[0]
        return first if isinstance(first, WINDOWS) else first.prompts

    def parameters(self, model: nn.Module, training: bool = False) -> int:
        blocks = find_blocks(model)
        return sum(self.prompts * block_width(block) for block in (blocks if self.deep else blocks[:1]))


def _prompts_between_blocks(*args: Any, **kwargs: Any) -> None:
    """Take the place of timm's `forward_intermediates`, which would return the prompts as image tokens."""
    raise UserError(
        "forward_intermediates: the tokens between blocks hold the prompts of deep=false; call "
        "forward_features, or take deep=true, whose prompts end in each block"
    )


# Blocks whose attention is among the tokens of a window.
WINDOWS = (SwinTransformerBlock, SwinTransformerV2Block)


def _admit(attention: nn.Module | None, prefix: int, prompts: int) -> None:
    """Have an attention take prompts after its first tokens as tokens without a place in the image."""
    if hasattr(attention, "num_prefix_tokens"):  # rotary embeddings turn the others
        attention.num_prefix_tokens += prompts
    if hasattr(attention, "cpb_mlp"):  # Swin V2's bias
        attention.forward = partial(_without_places, attention, prompts)
    elif getattr(attention, "relative_position_bias_table", None) is not None:
        attention._get_rel_pos_bias = _padded(attention._get_rel_pos_bias, prefix, prompts)
    elif getattr(attention, "rel_pos", None) is not None:
        attention.rel_pos.get_bias = _padded(attention.rel_pos.get_bias, prefix, prompts)


def _padded(bias: Callable[[], Tensor], prefix: int, prompts: int) -> Callable[[], Tensor]:
    """Return a method's bias, (..., tokens, tokens), with zeros for prompts after the first tokens."""
    return partial(_pad, bias.__func__, bias.__self__, prefix, prompts)


def _pad(bias: Callable[[nn.Module], Tensor], owner: nn.Module, prefix: int, prompts: int) -> Tensor:
    values = F.pad(bias(owner), (0, prompts, 0, prompts))
    tokens = torch.arange(values.shape[-1], device=values.device)
    order = torch.cat((tokens[:prefix], tokens[-prompts:], tokens[prefix:-prompts]))
    return values[..., order, :][..., order]


def _without_places(attention: nn.Module, prompts: int, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run Swin V2's attention on prompts and a window's tokens: the attention's `forward`.

    It looks biases up in a table, and takes 16 sigmoid of them. Pairs with a prompt get an entry more, minus
    infinity, whose bias is 0.
    """

    def table(coordinates: Tensor) -> Tensor:
        values = attention.cpb_mlp(coordinates).flatten(0, -2)
        return torch.cat((values, values.new_full((1, values.shape[1]), -torch.inf)))

    index = attention.relative_position_index
    entries = attention.relative_coords_table[..., 0].numel()
    index = F.pad(index, (prompts, 0, prompts, 0), value=entries)
    view = BlockView(attention, cpb_mlp=table, relative_position_index=index, window_size=(1, len(index)))
    return type(attention).forward(view, x, mask)


class Prompts(nn.Module):
    """The prompts of one block, inserted and removed by hooks, or within its `forward`.

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
        prompts = self.drop(self.tokens.unsqueeze(0).repeat(x.shape[0], 1, 1))
        return torch.cat((x[:, : self.prefix], prompts, x[:, self.prefix :]), dim=1)

    def insert(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Insert the prompts into a block's input (a forward pre-hook)."""
        return (self(inputs[0]), *inputs[1:])

    def remove(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Remove their tokens from a block's output (a forward hook)."""
        return torch.cat((output[:, : self.prefix], output[:, self.prefix + len(self.tokens) :]), dim=1)

    def in_windows(self, block: nn.Module, x: Tensor) -> Tensor:
        """Run a block of windows with the prompts before the tokens of each in its attention: its `forward`.

        They are those of an image in all of its windows. Where the block normalises before the attention, it
        does so to them.
        """
        prompts = self.drop(self.tokens.unsqueeze(0).repeat(x.shape[0], 1, 1))
        if isinstance(block, SwinTransformerBlock):
            prompts = block.norm1(prompts)

        def attend(windows: Tensor, mask: Tensor | None) -> Tensor:
            count = len(self.tokens)
            if mask is not None:
                mask = F.pad(mask, (count, 0, count, 0))
            first = prompts.repeat_interleave(windows.shape[0] // x.shape[0], dim=0)
            return block.attn(torch.cat((first, windows), dim=1), mask=mask)[:, count:]

        view = BlockView(block, attn=attend)
        view._attn = partial(type(block)._attn, view)
        return type(block).forward(view, x)
