"""Published numbers, each with its source, for comparison with measured ones.

results.csv has one value a row: benchmark, backbone, pretraining, method, family, task (or mean),
metric_percent, params_million, source, note. `family` names the protocol of a number: "vpt" and
"noah" prepare images and choose hyper-parameters differently (docs/protocols.md), "peft-vision" is that
study's own, and "other" is a protocol of the source's own, or one that could not be established.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosa.base.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

RESULTS = Path(__file__).parent / "results.csv"
FAMILIES = ("vpt", "noah", "peft-vision", "other")
COLUMNS = ("benchmark", "backbone", "pretraining", "method", "family", "task", "metric_percent")
COLUMNS += ("params_million", "source", "note")

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
# The method and options that a published name means. Names that are not here have no counterpart, or one
# that their paper does not specify.
_METHODS: dict[str, tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    "Full": ("full", lambda o: True),
    "Linear": ("linear", lambda o: True),
    "Bias": ("bias", lambda o: True),
    "Partial-1": ("partial", lambda o: o.get("blocks") == 1),
    "VPT-Shallow": ("vpt", lambda o: not o.get("deep")),
    "VPT-Deep": ("vpt", lambda o: o.get("deep")),
    "SSF": ("ssf", lambda o: True),
    "LoRA": ("lora", lambda o: o.get("targets") == ["q", "v"]),
    "AdaptFormer": ("adapter", lambda o: o.get("placement") == "adaptformer"),
    "Houlsby Adapter": ("adapter", lambda o: o.get("placement") == "houlsby"),
    "Pfeiffer Adapter": ("adapter", lambda o: o.get("placement") == "pfeiffer"),
    "MoSA": ("mosa", lambda o: o.get("placement") == "adaptformer"),
    "MoSL": ("mosl", lambda o: o.get("targets") == ["q", "v"]),
}


def load_published() -> "pd.DataFrame":
    """Return every published value.

    Returns:
        The columns of results.csv, and in this project's words `benchmark`, `kind` and `name`: a task, a
        group or an overall mean, as the columns of a table are named.

    Raises:
        UserError: The file is damaged.
    """
    import pandas as pd

    frame = pd.read_csv(RESULTS, keep_default_na=False, na_values={"params_million": [""]})
    if tuple(frame.columns) != COLUMNS or not set(frame["family"]) <= set(FAMILIES):
        raise UserError(f"{RESULTS}: is damaged; check the package out again")
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


def published_names(method: str, options: Mapping[str, Any]) -> list[str]:
    """Return the names under which a method with these options is published."""
    base = [name for name, (ours, fits) in _METHODS.items() if ours == method and fits(options)]
    # That study gives its own numbers to the names of others.
    return base + [f"{name} (PEFT-Vision)" for name in base]
