"""SCT: salient channels, chosen from training images."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mosa.base.seeding import generator
from mosa.peft.blocks import BlockView, block_width, find_blocks, passes_can_separate, sites_of
from mosa.peft.choice import classified, taken
from mosa.peft.method import Batches, Chosen, above
from mosa.peft.structure import evaluating


class Sct(Chosen):
    """A linear layer on the K salient channels of h, after the attention: h_S' = h_S + s (W h_S + b).

    S are the channels of largest importance: the mean over classes of the L2 norm of a channel in all patches
    of all training images of a class, before anything is tuned. In a block of width d there are K = d / n of
    them, rounded down. W is normal with a deviation of 0.02, so the model does not start as the backbone, and
    b is zero. Nothing merges. Tuned parameters per block: K^2 + K.
    """

    name: ClassVar[str] = "sct"
    reference: ClassVar[str] = (
        "Zhao et al., SCT, IJCV 2023, arXiv 2309.08513, section 3; defaults: its released code, where s "
        "depends on the task"
    )
    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin")
    families_reason: ClassVar[str] = "it adapts what comes out of the attention"
    chosen: ClassVar[tuple[str, ...]] = ("channels",)

    keep: int = Field(default=8, ge=1, description="n: one in n channels is salient.")
    scale: float = Field(default=0.15, description="Factor s of the layer.")

    @property
    def starts_as_backbone(self) -> bool:
        return False

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        if not passes_can_separate(model):  # its rows of tokens may be no images, and begin with others
            return (
                f"{type(model).__name__} may not keep the patches of an image apart: expected a ViT or a Swin"
            )
        narrowest = min(block_width(block) for block in find_blocks(model))
        return above("keep", self.keep, narrowest, "the width of the blocks")

    def choose(self, model: nn.Module, batches: Batches, seed: int) -> dict[str, Tensor]:
        names = {block: name for name, block in model.named_modules()}
        blocks = find_blocks(model)
        found = importance(model, blocks, batches)
        return {
            f"{names[block]}.sct.channels": salient(score, block_width(block) // self.keep)
            for block, score in zip(blocks, found, strict=True)
        }

    def insert(self, model: nn.Module, seed: int, choice: Mapping[str, Tensor]) -> None:
        rng = generator(seed, "sct")
        names = {block: name for name, block in model.named_modules()}
        for block in find_blocks(model):
            like = next(block.parameters())
            width = block_width(block)
            channels = taken(choice, f"{names[block]}.sct.channels", like, width, (width // self.keep,))
            block.sct = SalientChannels(channels, self.scale, rng).to(like)
            block.forward = partial(block.sct.after_attention, block)

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def block_parameters(self, block: nn.Module) -> int:
        channels = block_width(block) // self.keep
        return channels**2 + channels


@torch.no_grad()
def importance(model: nn.Module, blocks: list[nn.Module], batches: Batches) -> list[Tensor]:
    """Return the class-aware importance of the channels of each block's h, (width,).

    The model evaluates meanwhile, so that nothing is drawn.

    Args:
        model: A model without a method.
        blocks: Its blocks.
        batches: Images and labels.

    Raises:
        UserError: The model has no class for a label.
    """
    prefix = getattr(model, "num_prefix_tokens", 0)
    sums: dict[nn.Module, Tensor] = {}
    squares: dict[nn.Module, Tensor] = {}

    def read(block: nn.Module, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        patches = inputs[0].flatten(1, -2)[:, prefix:]
        squares[block] = patches.float().square().sum(1)  # (batch, width)

    hooks = [
        getattr(block, sites_of(block).residual).register_forward_pre_hook(partial(read, block))
        for block in blocks
    ]
    try:
        with evaluating(model):
            for images, labels in batches:
                labels = classified(model, labels, "sct")
                model(images)
                for block, found in squares.items():
                    sums.setdefault(block, found.new_zeros(model.num_classes, found.shape[1]))
                    sums[block].index_add_(0, labels, found)
    finally:
        for hook in hooks:
            hook.remove()
    totals = (sums[block] for block in blocks)
    return [total[total.any(1)].sqrt().mean(0) for total in totals]  # of the classes that are there


def salient(importance: Tensor, count: int) -> Tensor:
    """Return the channels of largest importance, (count,), int64, in increasing order."""
    return importance.topk(count).indices.sort().values


class SalientChannels(nn.Module):
    """The layer on the salient channels of one block, connected by the block's `forward`.

    Args:
        channels: The channels, (K,), int64.
        scale: Factor s of the layer.
        rng: Draws W.

    Shape:
        (..., width) -> (..., K), the change of the salient channels.
    """

    def __init__(self, channels: Tensor, scale: float, rng: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("channels", channels)
        self.linear, self.scale = nn.Linear(len(channels), len(channels)), scale
        nn.init.trunc_normal_(self.linear.weight, std=0.02, generator=rng)
        nn.init.zeros_(self.linear.bias)

    def forward(self, h: Tensor) -> Tensor:
        return self.scale * self.linear(h.index_select(-1, self.channels))

    def after_attention(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run a block, and change the salient channels of h: the block's `forward`."""
        site = sites_of(block).attended

        def adding(inner: Tensor) -> Tensor:
            output = getattr(block, site)(inner)
            change = self(x + output)
            return output.index_add(-1, self.channels, change.to(output.dtype))

        return type(block).forward(BlockView(block, **{site: adding}), x, *args, **kwargs)
