"""The only module that imports timm directly: torchvision's missing operators are declared before."""

from mosa.base.torchvision import declare_missing_operators

declare_missing_operators()

import timm  # noqa: E402
from timm.layers import DropPath, PatchDropout  # noqa: E402
from timm.models import get_deprecated_models  # noqa: E402
from timm.models.convnext import ConvNeXtBlock  # noqa: E402
from timm.models.swin_transformer import SwinTransformerBlock  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402

__all__ = [
    "Block",
    "ConvNeXtBlock",
    "DropPath",
    "PatchDropout",
    "SwinTransformerBlock",
    "VisionTransformer",
    "get_deprecated_models",
    "timm",
]
