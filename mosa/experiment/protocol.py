"""The protocol: what is trained on and evaluated, how images are prepared, and the version of the rules."""

from dataclasses import dataclass

from mosa.base.errors import unknown

# stage -> (split that is trained on, split that is evaluated once after the last epoch); None: the task's
STAGES = {"final": (None, "test"), "selection": ("train", "val")}


@dataclass(frozen=True)
class Preset:
    """How a family of published results prepares images.

    Attributes:
        normalization: "weights" (as the backbone was pre-trained) or "imagenet".
        interpolation: Used for resizing, see `mosa.data.task.INTERPOLATIONS`.
        version: Of the rules, in every specification: raise it when a change of the code changes results,
            and all runs of the protocol are done again.
        description: What it is, in one sentence.
        source: Where it comes from.
        direct: Interpolation where images are resized straight to the square; None: as everywhere.
    """

    normalization: str
    interpolation: str
    description: str
    source: str
    version: int
    direct: str | None = None

    def interpolation_for(self, resize: str) -> str:
        """Return the interpolation of images that are resized "direct" or "shorter"."""
        return self.direct or self.interpolation if resize == "direct" else self.interpolation


# Version 2: crops and flips are a stream for each batch. Version 3 of vpt: the resizing of TensorFlow 1.
PRESETS = {
    "demo": Preset(
        "weights", "bicubic", "The demo benchmark, rendered in the size it is shown in.", "This project.",
        version=2,
    ),
    "standard": Preset(
        "weights", "bicubic", "Normalised as the backbone was pre-trained, resized bicubically.", "timm.",
        version=2,
    ),
    "vpt": Preset(
        "imagenet", "bilinear",
        "ImageNet statistics for every backbone, resized bilinearly; VTAB as TensorFlow 1 did, without "
        "antialiasing.",
        "VPT's released code: tf_dataset.py for VTAB, json_dataset.py and transforms.py for FGVC. MoSA's "
        "VTAB and FGVC numbers are of this family.",
        version=3,
        direct="legacy_bilinear",
    ),
    "noah": Preset(
        "imagenet", "bicubic", "ImageNet statistics for every backbone, resized bicubically.",
        "NOAH's released code: build_transform in lib/datasets.py, with direct_resize and no_aug. Adapter, "
        "AdaptFormer and LoRA are usually quoted from this family.",
        version=2,
    ),
}  # fmt: skip


def get_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        UserError: There is none.
    """
    if name not in PRESETS:
        raise unknown("protocol", name, PRESETS)
    return PRESETS[name]
