"""Networks beside a frozen trunk, through which no gradient passes: none of its activations is kept."""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.seeding import generator
from mosa.base.timm import VisionTransformer
from mosa.peft.blocks import BlockView, block_width, find_blocks
from mosa.peft.method import Method, undefined


class Side(Method):
    """Base of the methods whose tuned network stands beside the blocks, and reads their tokens.

    z_i are the tokens after i blocks, z_0 the embedded patches. The trunk, up to the last tokens that are
    read, runs without a graph; what the network returns takes the place of z_L before the final norm.
    """

    families: ClassVar[tuple[str, ...]] = ("ViT",)
    on_features: ClassVar[bool] = True
    families_reason: ClassVar[str] = "the network beside the blocks needs tokens of one width and number"

    def unfit(self, model: nn.Module) -> str | None:
        if reason := super().unfit(model):
            return reason
        blocks: Any = getattr(model, "blocks", ())
        if not isinstance(model, VisionTransformer) or list(blocks) != find_blocks(model):
            return (
                f"{type(model).__name__} does not run its blocks in a row: expected timm's VisionTransformer"
            )
        if self.feature_consistency:
            return "feature_consistency: the blocks of a trunk are the same in both passes, so it is zero"
        return None

    def network(self, model: nn.Module, rng: torch.Generator) -> "SideNetwork":
        """Return the network for a model, with values drawn from `rng`."""
        raise undefined(self, "network")

    def apply(self, model: nn.Module, seed: int) -> None:
        vit: Any = model
        vit.side = self.network(vit, generator(seed, self.name)).to(next(vit.blocks.parameters()))
        vit.forward_features = partial(vit.side.run, vit)
        vit.forward_intermediates = _without_the_network


def _without_the_network(*args: Any, **kwargs: Any) -> None:
    """Take the place of timm's `forward_intermediates`, whose last tokens would be the trunk's."""
    raise UserError(
        "forward_intermediates: the tuned network stands beside the blocks, and acts on their last output "
        "only; call forward_features"
    )


class SideNetwork(nn.Module):
    """A network beside the blocks of a ViT. It keeps nothing of a call.

    Args:
        reads: After how many blocks tokens are read, ascending; 0: before the first.

    Shape:
        Tokens of shape (batch, tokens, width), one for each of `reads` -> those that take the place of the
        last block's output, of the same shape.
    """

    def __init__(self, reads: list[int]) -> None:
        super().__init__()
        self.reads = reads

    def forward(self, tokens: Iterable[Tensor], rest: Iterable[nn.Module]) -> Tensor:
        """Compute the last tokens.

        Args:
            tokens: What is read, in order.
            rest: The blocks after the trunk.
        """
        raise NotImplementedError

    def run(self, model: VisionTransformer, images: Tensor, **masks: Any) -> Tensor:
        """Run the trunk, and the network beside it: the model's `forward_features`.

        Raises:
            UserError: The attention is to be masked, which the network's is not.
        """
        if any(value is not None and value is not False for value in masks.values()):
            raise UserError(f"{', '.join(masks)}: attention beside the blocks is not masked")
        return self._features(model, images, lambda x: self(self.trunk(model, x), self.rest(model)))

    def read(self, model: VisionTransformer, images: Tensor) -> Tensor:
        """Return all that the network reads of a batch, (batch, reads, tokens, width)."""
        found: list[Tensor] = []

        def reading(x: Tensor) -> Tensor:
            found.extend(self.trunk(model, x))
            return x

        self._features(model, images, reading)
        return torch.stack(found, dim=1)

    def before(self, model: VisionTransformer) -> list[nn.Module]:
        """Return the parts of a model that what is read depends on: the embedding, and the trunk's blocks."""
        blocks: Any = model.blocks
        blocks = blocks[: self.reads[-1]]
        return [model.patch_embed, model.pos_drop, model.patch_drop, model.norm_pre, blocks]

    def rest(self, model: VisionTransformer) -> nn.Sequential:
        """Return the blocks after the trunk."""
        blocks: Any = model.blocks
        return blocks[self.reads[-1] :]

    def trunk(self, model: VisionTransformer, x: Tensor) -> Iterator[Tensor]:
        """Yield the tokens that are read, from the tokens before the first block."""
        blocks: Any = model.blocks
        x = x.detach()
        for number in range(self.reads[-1] + 1):
            if number:
                with torch.no_grad():
                    x = blocks[number - 1](x)
            if number in self.reads:
                yield x

    @staticmethod
    def _features(model: VisionTransformer, images: Tensor, blocks: Any) -> Tensor:
        view: Any = BlockView(model, blocks=blocks, grad_checkpointing=False)  # what has no graph needs none
        return type(model).forward_features(view, images)


class OnTrunk(nn.Module):
    """All of a model that comes after what its network reads: what is trained on kept tokens.

    Shape:
        What `SideNetwork.read` returns -> logits (batch, classes).
    """

    model: Any

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.peft, self.model = model.peft, model

    def forward(self, read: Tensor) -> Tensor:
        side = self.model.side
        return self.model.forward_head(self.model.norm(side(read.unbind(1), side.rest(self.model))))


def draw(module: nn.Module, rng: torch.Generator) -> None:
    """Initialise the Linear layers of a module: Kaiming-uniform, with zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def model_width(model: nn.Module) -> int:
    """Return the number of channels of a ViT's tokens."""
    return block_width(find_blocks(model)[0])
