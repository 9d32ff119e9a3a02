"""The micro ViT of the built-in demo, registered with timm under the name ``mosa_vit_micro``."""

from itertools import pairwise

from torch import nn

from mosa.base.timm import VisionTransformer

from timm.layers import PatchEmbed  # isort: skip
from timm.models import generate_default_cfgs, register_model  # isort: skip


class ConvStem(PatchEmbed):
    """Patch embedding by three 3x3 convolutions of stride 2: one token for each 8x8 pixels.

    A convolutional stem trains faster and more stably than one large-stride projection (Xiao et al.,
    "Early Convolutions Help Transformers See Better", 2021). Its norms do not depend on the batch.
    """

    def __init__(
        self, img_size: int = 32, patch_size: int = 8, in_chans: int = 3, embed_dim: int = 96, **kwargs
    ):
        super().__init__(img_size, patch_size, in_chans, embed_dim, **kwargs)
        if patch_size != 8:
            raise ValueError(f"the convolutional stem makes patches of 8 pixels, got patch_size={patch_size}")
        widths = (in_chans, embed_dim // 3, 2 * embed_dim // 3)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.GroupNorm(1, after), nn.GELU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(widths[-1], embed_dim, 3, 2, 1))


default_cfgs = generate_default_cfgs(
    {
        "mosa_vit_micro.formula": {
            "input_size": (3, 32, 32),
            "fixed_input_size": True,
            "num_classes": 0,
            "pool_size": None,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "first_conv": "patch_embed.proj.0",
            "classifier": "head",
            "license": "apache-2.0",
        }
    }
)


@register_model
def mosa_vit_micro(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """ViT for 32x32 images: 16 tokens of width 96, 4 blocks of 3 heads, average pooling.

    Args:
        pretrained: Not allowed: `mosa.backbones.build.build_backbone` loads and checks the weights.
        **kwargs: Passed on to timm's VisionTransformer, such as num_classes.
    """
    if pretrained:
        raise ValueError(
            "pretrained=True: call mosa.backbones.build.build_backbone with weights='builtin' instead"
        )
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(name, None)
    options = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 96,
        "depth": 4,
        "num_heads": 3,
        "class_token": False,
        "global_pool": "avg",
        "embed_layer": ConvStem,
    }
    model = VisionTransformer(**(options | kwargs))
    model.pretrained_cfg = model.default_cfg = default_cfgs["mosa_vit_micro"].default.to_dict()
    return model
