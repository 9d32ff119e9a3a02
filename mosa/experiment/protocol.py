"""The protocol: what is trained on, what is evaluated, how images are prepared, and the version of the rules.

The version is part of every record and of the workflow's parameters: raise it when a change of
the code changes results, and everything runs again.
"""

from dataclasses import dataclass

PROTOCOL_VERSION = 2  # 1: crops and flips were one stream, not one for each batch

# stage -> (split that is trained on, split that is evaluated once after the last epoch); None: the task's
STAGES = {"final": (None, "test"), "selection": ("train", "val")}


@dataclass(frozen=True)
class Preset:
    """How a family of published results prepares images.

    Attributes:
        normalization: "weights" (as the backbone was pre-trained) or "imagenet".
        interpolation: Of the resizing, "bicubic" or "bilinear".
        description: What it is, in one sentence.
        source: Where it comes from.
    """

    normalization: str
    interpolation: str
    description: str
    source: str


PRESETS = {
    "demo": Preset(
        "weights", "bicubic", "The demo benchmark, rendered in the size it is shown in.", "This project."
    ),
    "standard": Preset(
        "weights", "bicubic", "Normalised as the backbone was pre-trained, resized bicubically.", "timm."
    ),
    "vpt": Preset(
        "imagenet", "bilinear", "ImageNet statistics for every backbone, resized bilinearly.",
        "VPT's released code: tf_dataset.py for VTAB, json_dataset.py and transforms.py for FGVC. MoSA's "
        "VTAB and FGVC numbers are of this family.",
    ),
    "noah": Preset(
        "imagenet", "bicubic", "ImageNet statistics for every backbone, resized bicubically.",
        "NOAH's released code: build_transform in lib/datasets.py, with direct_resize and no_aug. Adapter, "
        "AdaptFormer and LoRA are usually quoted from this family.",
    ),
}  # fmt: skip
