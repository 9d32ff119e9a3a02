"""Places of branches in a transformer block, and the image that its tokens form."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.seeding import generator
from mosa.base.timm import SwinTransformerBlock
from mosa.peft.blocks import BlockView, block_width, find_blocks
from mosa.peft.method import BranchShape, Method, undefined

Branch = Callable[[Tensor], Tensor]


def beside(
    block: nn.Module, x: Tensor, *args: Any, attention: Branch | None, mlp: Branch | None, **kwargs: Any
) -> Tensor:
    """Run a block with branches beside its attention and its MLP: h = x + Attn(LN1 x) + A(LN1 x), and so on.

    A branch gets what LayerNorm gives the attention or the MLP, and its output is added to the residual
    stream, with a drop path of its own.

    Args:
        block: A block of a ViT or a Swin Transformer.
        x: Its input.
        attention: Branch beside the attention; None: there is none.
        mlp: Branch beside the MLP; None: there is none.
    """
    parts: dict[str, Branch] = {}
    for number, branch in ((1, attention), (2, mlp)):
        if branch is not None:
            parts |= _beside(block, branch, f"norm{number}", f"drop_path{number}")
    return type(block).forward(BlockView(block, **parts), x, *args, **kwargs)


def _beside(block: nn.Module, branch: Branch, norm: str, path: str) -> dict[str, Branch]:
    read = []

    def reading(h: Tensor) -> Tensor:
        read.append(getattr(block, norm)(h))
        return read[0]

    def adding(inner: Tensor) -> Tensor:
        drop_path = getattr(block, path)
        return drop_path(inner) + drop_path(branch(read[0]))

    return {norm: reading, path: adding}


def after_attention(block: Any, x: Tensor, *args: Any, branch: Branch, **kwargs: Any) -> Tensor:
    """Run a block with a branch on h = x + Attn(LN1 x), whose output is added to h.

    Args:
        block: A block of a ViT or a Swin Transformer.
        x: Its input.
        branch: The branch.
    """

    def adding(inner: Tensor) -> Tensor:
        output = block.drop_path1(inner)
        return output + branch(x + output)

    return type(block).forward(BlockView(block, drop_path1=adding), x, *args, **kwargs)


class Image(NamedTuple):
    """How the tokens of a block form an image: `prefix` tokens, then `height` x `width` patches."""

    prefix: int
    height: int
    width: int

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve the patches, and each prefix token as an image of one pixel, with zeros around them.

        Args:
            x: Tokens, (batch, tokens, channels), or (batch, height, width, channels).
            weight: A square kernel of odd side, (channels, channels, side, side), or with a filter for each
                channel (channels, 1, side, side).
            bias: (channels,).

        Returns:
            Of the shape of x.

        Raises:
            UserError: The number of tokens is another one.
        """
        tokens = x.flatten(1, -2)
        if tokens.shape[1] != self.prefix + self.height * self.width:
            raise UserError(
                f"{tokens.shape[1]} tokens are not {self.prefix} and the {self.height}x{self.width} patches "
                f"that the method was attached for: build the model for this size of images"
            )
        alone, patches = tokens.split((self.prefix, self.height * self.width), dim=1)
        maps = patches.transpose(1, 2).unflatten(2, (self.height, self.width))
        middle, groups = weight.shape[-1] // 2, len(weight) // weight.shape[1]
        patches = F.conv2d(maps, weight, bias, padding=middle, groups=groups).flatten(2).transpose(1, 2)
        if self.prefix:  # of a single pixel, the kernel's middle sees all
            tap = weight[:, :, middle, middle]
            alone = F.linear(alone, tap, bias) if groups == 1 else torch.addcmul(bias, alone, tap[:, 0])
            patches = torch.cat((alone, patches), dim=1)
        return patches.reshape(x.shape)


def image_of(model: nn.Module, block: nn.Module) -> Image:
    """Return how the tokens of a block form an image; see `no_image` for models where they do not."""
    swin: Any = block
    if isinstance(block, SwinTransformerBlock):
        return Image(0, *swin.input_resolution)
    vit: Any = model
    return Image(vit.num_prefix_tokens, *vit.patch_embed.grid_size)


def keep_grid(model: nn.Module) -> None:
    """Have a model refuse images whose patches form another grid than its own, also of as many patches."""
    embedding: Any = model.patch_embed
    embedding.register_forward_pre_hook(partial(_refuse_other_grid, tuple(embedding.grid_size)))


def _refuse_other_grid(grid: tuple[int, int], embedding: Any, inputs: tuple[Tensor, ...]) -> None:
    size = tuple(inputs[0].shape[-2:])
    found = tuple(embedding.dynamic_feat_size(size))
    if found != grid:
        given, here, there = ("x".join(map(str, pair)) for pair in (size, found, grid))
        raise UserError(
            f"images of {given} have {here} patches, and the method was attached for {there}: build the "
            f"model for this size of images"
        )


def no_image(model: nn.Module, block: nn.Module) -> str | None:
    """Return why the tokens of a block form no image; None if they do."""
    if isinstance(block, SwinTransformerBlock):
        return None
    embedding = getattr(model, "patch_embed", None)
    if getattr(embedding, "grid_size", None) and hasattr(model, "num_prefix_tokens"):
        return None
    return f"{type(model).__name__} has no patches of an image after its class tokens: expected a plain ViT"


class OnImages(Method):
    """Base of the methods with branches in a block that convolve the image of its tokens.

    A subclass names the branches, builds one (`build_branch`), and runs a block with them (`run`).
    """

    families: ClassVar[tuple[str, ...]] = ("ViT", "Swin")

    bottleneck: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a block has for its branches, from input to output."""
        raise undefined(self, "names")

    def build_branch(self, width: int, image: Image, rng: torch.Generator) -> nn.Module:
        """Return a branch for a block of so many channels."""
        raise undefined(self, "build_branch")

    @staticmethod
    def run(block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run a block with its branches: the block's `forward`."""
        raise NotImplementedError

    def unfit(self, model: nn.Module) -> str | None:
        return super().unfit(model) or no_image(model, find_blocks(model)[0])

    def apply(self, model: nn.Module, seed: int) -> None:
        rng = generator(seed, self.name)
        for block in find_blocks(model):
            for name in self.names:
                branch = self.build_branch(block_width(block), image_of(model, block), rng)
                setattr(block, name, branch.to(cast(nn.LayerNorm, block.norm2).weight))
            block.forward = partial(self.run, block)
        keep_grid(model)

    def branches(self, model: nn.Module) -> list[nn.Module]:
        return [getattr(block, name) for block in find_blocks(model) for name in self.names]

    def fork_point(self, model: nn.Module) -> nn.Module:
        return find_blocks(model)[0]

    def branch_shapes(self, block: nn.Module) -> list[BranchShape]:
        width = block_width(block)
        return [BranchShape(width, self.bottleneck, width, True)] * len(self.names)
