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
    Linear,
    PatchDropout,
    PatchDropoutWithIndices,
    evo_norm,
    filter_response_norm,
    norm,
    norm_act,
)
from timm.models import get_deprecated_models  # noqa: E402
from timm.models.beit import Beit  # noqa: E402
from timm.models.beit import Block as BeitBlock  # noqa: E402
from timm.models.cait import LayerScaleBlock, LayerScaleBlockClassAttn  # noqa: E402
from timm.models.convnext import ConvNeXt, ConvNeXtBlock  # noqa: E402
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm  # noqa: E402
from timm.models.hiera import HieraBlock  # noqa: E402
from timm.models.hieradet_sam2 import MultiScaleBlock as Sam2Block  # noqa: E402
from timm.models.maxxvit import (  # noqa: E402
    Attention2d,
    PartitionAttention2d,
    PartitionAttentionCl,
    TransformerBlock2d,
)
from timm.models.mvitv2 import MultiScaleBlock as MvitBlock  # noqa: E402
from timm.models.pvt_v2 import Block as PvtBlock  # noqa: E402
from timm.models.swin_transformer import (  # noqa: E402
    SwinTransformer,
    SwinTransformerBlock,
    WindowAttention,
)
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block  # noqa: E402
from timm.models.tiny_vit import TinyVitBlock  # noqa: E402
from timm.models.twins import Block as TwinsBlock  # noqa: E402
from timm.models.vision_transformer import (  # noqa: E402
    Block,
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ResPostBlock,
    VisionTransformer,
)
from timm.models.vision_transformer_relpos import (  # noqa: E402
    RelPosBlock,
    ResPostRelPosBlock,
    VisionTransformerRelPos,
)
from timm.models.vision_transformer_sam import Block as SamBlock  # noqa: E402
from timm.models.volo import VOLO  # noqa: E402
from timm.models.xcit import XCABlock  # noqa: E402

# timm's own normalisation layers: not all of them derive from torch's.
NORMS = tuple(
    cls
    for module in (norm, norm_act, evo_norm, filter_response_norm)
    for cls in vars(module).values()
    if isinstance(cls, type) and cls.__module__ == module.__name__
)

__all__ = [
    "NORMS",
    "VOLO",
    "Attention",
    "Attention2d",
    "Beit",
    "BeitBlock",
    "Block",
    "Conv2dSame",
    "ConvNeXt",
    "ConvNeXtBlock",
    "DiffParallelScalingBlock",
    "DropPath",
    "Eva",
    "EvaBlock",
    "EvaBlockPostNorm",
    "HieraBlock",
    "LayerNorm",
    "LayerNorm2d",
    "LayerScaleBlock",
    "LayerScaleBlockClassAttn",
    "Linear",
    "MvitBlock",
    "ParallelScalingBlock",
    "PartitionAttention2d",
    "PartitionAttentionCl",
    "PatchDropout",
    "PatchDropoutWithIndices",
    "PvtBlock",
    "RelPosBlock",
    "ResPostBlock",
    "ResPostRelPosBlock",
    "Sam2Block",
    "SamBlock",
    "SwinTransformer",
    "SwinTransformerBlock",
    "SwinTransformerV2",
    "SwinTransformerV2Block",
    "TinyVitBlock",
    "TransformerBlock2d",
    "TwinsBlock",
    "VisionTransformer",
    "VisionTransformerRelPos",
    "WindowAttention",
    "XCABlock",
    "get_deprecated_models",
    "timm",
]
