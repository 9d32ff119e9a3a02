"""Published numbers, each with its source, for comparison with measured ones.

results.csv has one value a row: benchmark, backbone, pretraining, method, options, family, task (or mean),
metric_percent, origin, params_million, source, note.

- `options`: what the method was set to, as far as it is known, as a JSON object with this project's names;
  "per task": chosen for each task.
- `family` names the protocol of a number, which may depend on the benchmark: "vpt" and "noah" prepare images
  and choose hyper-parameters differently (docs/protocols.md), "peft-vision" is that study's own, and "other"
  is a protocol of the source's own, or one that could not be established.
- `origin`: "quoted", or "computed" here from quoted values; `note` says from which.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosa.base.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

RESULTS = Path(__file__).parent / "results.csv"
FAMILIES = ("vpt", "noah", "peft-vision", "other")
ORIGINS = ("quoted", "computed")
PER_TASK = "per task"  # of an option: chosen for each task
COLUMNS = ("benchmark", "backbone", "pretraining", "method", "options", "family", "task", "metric_percent")
COLUMNS += ("origin", "params_million", "source", "note")

BENCHMARKS = {"VTAB-1k": "vtab1k", "FGVC": "fgvc", "General image classification": "general"}
_TASKS = {
    "vtab1k": {
        "flowers102": "oxford_flowers102", "pets": "oxford_iiit_pet", "retinopathy": "diabetic_retinopathy",
        "snorb_azim": "smallnorb_azi", "snorb_elev": "smallnorb_ele",
    },
    "fgvc": {
        "CUB-200-2011": "cub", "NABirds": "nabirds", "Oxford Flowers": "flowers", "Stanford Dogs": "dogs",
        "Stanford Cars": "cars",
    },
    "general": {"CIFAR-100": "cifar100"},
}  # fmt: skip
# "mean" is the mean of the three group means on VTAB-1k, and the mean over tasks on FGVC.
_MEANS = {
    "vtab1k": {"mean": ("overall", "mean of groups"), "mean_over_tasks": ("overall", "mean over tasks")},
    "fgvc": {"mean": ("overall", "mean over tasks")},
    "general": {},
}
# Backbones of the published tables, by architecture and by kind (or tag) of the weights.
_BACKBONES = {
    ("vit_base_patch16_224", "npz"): ("ViT-B/16", "ImageNet-21k supervised"),
    ("vit_base_patch16_224", "hub:orig_in21k"): ("ViT-B/16", "ImageNet-21k supervised"),
    ("vit_base_patch16_224", "mae"): ("ViT-B/16", "ImageNet-1k MAE"),
    ("vit_base_patch16_224", "hub:mae"): ("ViT-B/16", "ImageNet-1k MAE"),
    ("vit_base_patch16_224", "mocov3"): ("ViT-B/16", "ImageNet-1k MoCo v3"),
    ("swin_base_patch4_window7_224", "swin"): ("Swin-B", "ImageNet-21k supervised"),
    ("swin_base_patch4_window7_224", "hub:ms_in22k"): ("Swin-B", "ImageNet-21k supervised"),
    ("vit_large_patch16_224", "npz"): ("ViT-L/16", "ImageNet-21k supervised"),
    ("vit_large_patch16_224", "hub:orig_in21k"): ("ViT-L/16", "ImageNet-21k supervised"),
}
# Names of the files that these weights are published as, VPT's copies included. Others may be of the same
# kind: those of AugReg are npz, too.
_FILES = {
    ("ViT-B/16", "ImageNet-21k supervised"): ("ViT-B_16.npz", "imagenet21k_ViT-B_16.npz"),
    ("ViT-B/16", "ImageNet-1k MAE"): ("mae_pretrain_vit_base.pth",),
    ("ViT-B/16", "ImageNet-1k MoCo v3"): (
        "vit-b-300ep.pth.tar", "linear-vit-b-300ep.pth.tar", "mocov3_linear-vit-b-300ep.pth.tar"
    ),
    ("Swin-B", "ImageNet-21k supervised"): ("swin_base_patch4_window7_224_22k.pth",),
    ("ViT-L/16", "ImageNet-21k supervised"): ("ViT-L_16.npz", "imagenet21k_ViT-L_16.npz"),
}  # fmt: skip
IMAGE_SIZE = 224  # of all published values
# The method that a published name means. Names that are not here have no counterpart, or one that their
# source does not specify.
_METHODS = {
    "Full": "full", "Linear": "linear", "Bias": "bias", "Partial-1": "partial", "VPT-Shallow": "vpt",
    "VPT-Deep": "vpt", "SSF": "ssf", "LoRA": "lora", "AdaptFormer": "adapter", "Houlsby Adapter": "adapter",
    "Pfeiffer Adapter": "adapter", "MoSA": "mosa", "MoSL": "mosl", "Convpass": "convpass", "GPS": "gps",
    "SPT-LoRA": "spt", "FacT-TT": "fact", "FacT-TK": "fact", "SCT": "sct", "RepAdapter": "repadapter",
    "Hydra": "hydra", "LST": "lst", "DTL": "dtl", "LAST": "last", "U-Tuning": "utuning", "ARC": "arc",
    "Prefix Tuning": "prefix", "E2VPT": "e2vpt", "RLRR": "rlrr", "Bi-AdaptFormer": "bi_adaptformer",
    "Bi-LoRA": "bi_lora",
}  # fmt: skip
# That study gives its own numbers to the names of others, some for two sizes.
_STUDY = " (PEFT-Vision)"
_SIZED = {
    "LoRA-8": "lora",
    "LoRA-16": "lora",
    "Houlsby Adapter-8": "adapter",
    "Houlsby Adapter-64": "adapter",
}
_METHODS |= {f"{name}{_STUDY}": method for name, method in (_METHODS | _SIZED).items()}
# Options that make another method rather than another setting of one.
_KINDS = ("placement", "deep", "targets", "blocks", "form")


def load_published() -> "pd.DataFrame":
    """Return every published value.

    Returns:
        The columns of results.csv, `options` as mappings, and in this project's words `benchmark`, `kind` and
        `name`: a task, a group or an overall mean, as the columns of a table are named.

    Raises:
        UserError: The file is damaged.
    """
    import pandas as pd

    frame = pd.read_csv(RESULTS, keep_default_na=False, na_values={"params_million": [""]})
    known = tuple(frame.columns) == COLUMNS and set(frame["family"]) <= set(FAMILIES)
    if not known or not set(frame["origin"]) <= set(ORIGINS):
        raise UserError(f"{RESULTS}: is damaged; check the package out again")
    frame["options"] = [json.loads(text or "{}") for text in frame["options"]]
    frame["benchmark"] = frame["benchmark"].map(BENCHMARKS)
    keys = [_key(benchmark, task) for benchmark, task in zip(frame["benchmark"], frame["task"], strict=True)]
    frame["kind"], frame["name"] = zip(*keys, strict=True)
    return frame


def _key(benchmark: str, task: str) -> tuple[str, str]:
    if task in _MEANS[benchmark]:
        return _MEANS[benchmark][task]
    if task.startswith("mean_"):
        return "group", task.removeprefix("mean_")
    return "task", _TASKS[benchmark].get(task, task)


def published_backbone(architecture: str, kind: str | None, weights: str) -> tuple[str, str] | None:
    """Return backbone and pre-training as the published tables name them, or None."""
    return _BACKBONES.get((architecture, weights)) or _BACKBONES.get((architecture, kind or ""))


def published_file(place: tuple[str, str], weights: str) -> str:
    """Return the name of the file that published weights are in; "": these are of that name, or a tag."""
    name = weights.replace("\\", "/").rpartition("/")[2]
    return "" if weights.startswith("hub:") or name in _FILES[place] else _FILES[place][0]


def method_of(name: str) -> str | None:
    """Return the method that a published name means, or None."""
    return _METHODS.get(name)


def is_same_kind(published: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Return whether options are those of the method as published; its size and other settings may differ.

    Args:
        published: The options that a value was published for.
        options: Those of a run by the same method.
    """
    return all(options.get(key) == published[key] for key in _KINDS if key in published)
