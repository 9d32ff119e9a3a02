"""The parts of a model that methods use: its blocks, their sites and widths, and its classifier."""

from typing import Any, NamedTuple

from torch import nn

from mosa.base.errors import UserError
from mosa.base.timm import (
    NORMS,
    Block,
    ConvNeXt,
    ConvNeXtBlock,
    LayerNorm2d,
    SwinTransformer,
    SwinTransformerBlock,
    VisionTransformer,
)

# Layers that standardise their input, whatever their own activation. A GlobalResponseNorm is none: it weighs
# the channels within an MLP.
NORM_LAYERS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase, *NORMS)


class Sites(NamedTuple):
    """Names of the modules of a block that can feed a branch or take its output.

    Attributes:
        residual: Its input is the residual stream before the MLP; None where that is the block's own input.
        attention: The attention; None where there is none.
        attended: What it adds to the block's input is its output; None where there is no attention.
        mlp: Its output is added to the residual stream.
    """

    residual: str | None
    attention: str | None
    attended: str | None
    mlp: str


# Exactly these types, by the family's name. The transformers compute `h = x + attn(norm1(x));
# y = h + mlp(norm2(h))`, ConvNeXt `y = x + mlp(norm(conv(x)))`, up to layer scale and drop path.
# A subclass or a look-alike may compute something else, so it is refused.
FAMILIES = {"ViT": Block, "Swin": SwinTransformerBlock, "ConvNeXt": ConvNeXtBlock}
_FAMILY_OF = {block: name for name, block in FAMILIES.items()}
SITES = {
    Block: Sites("norm2", "attn", "drop_path1", "mlp"),
    SwinTransformerBlock: Sites("norm2", "attn", "drop_path1", "mlp"),
    ConvNeXtBlock: Sites(None, None, None, "mlp"),
}


class BlockView:
    """A block of which some parts are other functions, for one call: its type's `forward` runs on it.

    Args:
        block: The block, which is not changed.
        **parts: Functions by the names of the parts whose place they take.
    """

    def __init__(self, block: nn.Module, **parts: Any) -> None:
        self.__dict__.update(parts, viewed=block)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["viewed"], name)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model, from input to output.

    Raises:
        UserError: The model has no block of a type whose structure is known.
    """
    blocks = [module for module in model.modules() if type(module) in SITES]
    if not blocks:
        raise UserError(no_known_block(model))
    return blocks


def families_of(model: nn.Module) -> list[str]:
    """Return the families that a model's blocks belong to; none if it has no block of a known type."""
    return list(dict.fromkeys(_FAMILY_OF[type(m)] for m in model.modules() if type(m) in _FAMILY_OF))


def no_known_block(model: nn.Module) -> str:
    """Return the message for a model without a block of a known type."""
    known = ", ".join(f"{cls.__module__}.{cls.__name__}" for cls in SITES)
    return (
        f"{type(model).__name__} has no block that this method understands: expected a timm model "
        f"made of {known}; use 'full' or 'linear', which work on any model with a classifier"
    )


def block_width(block: nn.Module) -> int:
    """Return the number of channels of a block's residual stream."""
    norm = block.norm if isinstance(block, ConvNeXtBlock) else block.norm2
    return norm.normalized_shape[0]


def channel_dim(module: nn.Module) -> int:
    """Return the dimension of the channels in a module's output: 1 after convolutions, otherwise the last."""
    layer = getattr(module, "fc1", module)  # an MLP has the layout of its layers
    return 1 if isinstance(layer, ConvNeXtBlock | nn.Conv2d | LayerNorm2d) else -1


def passes_can_separate(model: nn.Module) -> bool:
    """Return whether a batch may be repeated at a block, because all that follows takes its rows as they are.

    MobileViT folds patches into the batch around its blocks, and CrossViT has two streams.
    """
    return isinstance(model, VisionTransformer | SwinTransformer | ConvNeXt)


def final_norm(model: nn.Module) -> nn.Module | None:
    """Return the normalisation layer between the last block and the classifier, or None."""
    last_block = find_blocks(model)[-1]
    modules = list(model.modules())
    after = modules[modules.index(list(last_block.modules())[-1]) + 1 :]
    return next((module for module in after if isinstance(module, NORM_LAYERS)), None)


def backbone_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model outside its classifier, each once, from input to output."""
    head = set(find_head(model).modules())
    return [module for module in model.modules() if module not in head]


def find_head(model: nn.Module) -> nn.Module:
    """Return the classifier of a timm model, or a ModuleList of the classifiers of a distilled one.

    Raises:
        UserError: The model has no `get_classifier()`.
    """
    if not hasattr(model, "get_classifier"):
        raise UserError(
            f"{type(model).__name__} has no get_classifier(): expected a model made by timm.create_model"
        )
    head = model.get_classifier()
    return head if isinstance(head, nn.Module) else nn.ModuleList(head)
