"""Which methods fit which architectures, by their names alone: the workflow's head must not import timm."""

from collections.abc import Sequence

from mosa.base.methods import misfit
from mosa.experiment.validation import method_schemas

# Starts of timm's names, by the family of the blocks that these architectures are made of.
PREFIXES = {
    "ViT": ("vit_", "deit_", "deit3_", "beit3_", "eva_large", "flexivit_", "mosa_vit_", "test_vit"),
    "PostNormViT": (),
    "Swin": ("swin_",),
    "ConvNeXt": ("convnext_", "convnextv2_", "test_convnext"),
    "EVA": ("eva_giant", "eva02_"),
    "BEiT": ("beit_", "beitv2_"),
    "SwinV2": ("swinv2_tiny", "swinv2_small", "swinv2_base", "swinv2_large"),
    "RelPos": (),
    "CaiT": ("cait_",),
    "XCiT": ("xcit_",),
    "Hiera": ("hiera_",),
    "ParallelViT": (),
    "MViT": ("mvitv2_",),
    "SAM": ("samvit_", "sam2_hiera_"),
    "PVT": ("pvt_v2_",),
    "Twins": ("twins_",),
    "TinyViT": ("tiny_vit_",),
    "MaxViT": ("maxvit_", "maxxvit_", "maxxvitv2_", "coatnet_", "coatnext_"),
}
# Parts of names that start as a ViT's, of architectures with another family's blocks.
PARTS = {
    "EVA": ("dinov3", "lingbot", "rope", "sapiens2", "vit_pe_"),
    "RelPos": ("relpos",),
    "PostNormViT": ("_rpn_",),
    "ParallelViT": ("pwee_", "_xp_"),
}
# And of those with several branches in parallel, which no family has.
OTHER_BLOCKS = ("_18x2_", "_pm_")


def family_of(architecture: str) -> str | None:
    """Return the family of an architecture, by its name.

    Args:
        architecture: timm's name, such as "swin_tiny_patch4_window7_224".

    Returns:
        One of `PREFIXES`, such as "ViT"; None where the name does not say it.
    """
    if architecture.startswith(("vit_", "test_vit_")):
        for family, parts in PARTS.items():
            if any(part in architecture for part in parts):
                return family
    if any(part in architecture for part in OTHER_BLOCKS):
        return None
    return next((family for family, starts in PREFIXES.items() if architecture.startswith(starts)), None)


def unfit(method: str, architecture: str, families: Sequence[str] | None = None) -> str | None:
    """Return why a method does not fit an architecture, whatever its options; None if it may.

    An architecture of no known family is left to `mosa.peft.attach`, which sees the model.

    Args:
        method: Name of a method.
        architecture: timm's name of an architecture.
        families: Those that the method declares; None: it is a method of the package, or of a plugin in use.

    Returns:
        One sentence, such as "vpt does not fit Swin (fits ViT)".
    """
    family = family_of(architecture)
    if families is None:
        families = method_schemas()[method]["families"]
    return family and misfit(method, family, families)
