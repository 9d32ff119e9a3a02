"""Where methods hold on to a model: its transformer blocks, their widths and its classifier."""

from torch import nn

from mosa._timm import Block, SwinTransformerBlock
from mosa.errors import UserError

# Exactly these types: both compute `h = x + attn(norm1(x)); y = h + mlp(norm2(h))`, up to layer scale
# and drop path. A subclass or a look-alike may compute something else, so it is refused.
SUPPORTED_BLOCKS = (Block, SwinTransformerBlock)


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of a model, from input to output.

    Raises:
        UserError: The model has no block of a type whose structure is known.
    """
    blocks = [module for module in model.modules() if type(module) in SUPPORTED_BLOCKS]
    if not blocks:
        known = ", ".join(f"{cls.__module__}.{cls.__name__}" for cls in SUPPORTED_BLOCKS)
        raise UserError(
            f"{type(model).__name__} has no block that this method understands: expected a timm model "
            f"made of {known}; use 'full' or 'linear', which work on any model with a classifier"
        )
    return blocks


def block_width(block: nn.Module) -> int:
    """Return the number of channels of a block's residual stream."""
    return block.norm2.normalized_shape[0]


def find_head(model: nn.Module) -> nn.Module:
    """Return the classifier of a timm model.

    Raises:
        UserError: The model does not say which module classifies, or has several.
    """
    if not hasattr(model, "get_classifier"):
        raise UserError(
            f"{type(model).__name__} has no get_classifier(): expected a model made by timm.create_model"
        )
    head = model.get_classifier()
    if not isinstance(head, nn.Module):
        raise UserError(f"{type(model).__name__} has {len(head)} classifiers: expected a model with one")
    return head
