"""The only module that imports timm directly: torchvision's missing operators are declared before."""

from mosa.base.torchvision import declare_missing_operators

declare_missing_operators()

import timm  # noqa: E402
from timm.layers import (  # noqa: E402
    Attention,
    Conv2dSame,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    PatchDropout,
    evo_norm,
    filter_response_norm,
    norm,
    norm_act,
)
from timm.models import get_deprecated_models  # noqa: E402
from timm.models.convnext import ConvNeXt, ConvNeXtBlock  # noqa: E402
from timm.models.swin_transformer import (  # noqa: E402
    SwinTransformer,
    SwinTransformerBlock,
    WindowAttention,
)
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402

# timm's own normalisation layers: not all of them derive from torch's.
NORMS = tuple(
    cls
    for module in (norm, norm_act, evo_norm, filter_response_norm)
    for cls in vars(module).values()
    if isinstance(cls, type) and cls.__module__ == module.__name__
)

__all__ = [
    "NORMS",
    "Attention",
    "Block",
    "Conv2dSame",
    "ConvNeXt",
    "ConvNeXtBlock",
    "DropPath",
    "LayerNorm",
    "LayerNorm2d",
    "PatchDropout",
    "SwinTransformer",
    "SwinTransformerBlock",
    "VisionTransformer",
    "WindowAttention",
    "get_deprecated_models",
    "timm",
]
