"""What inference takes with the backbone alone, the unit of every variant's inference FLOPs."""

import json
from functools import cache

import pandas as pd

from mosa.base.files import SCHEMAS
from mosa.experiment.validation import merges_away, method_schemas

COUNTED = SCHEMAS / "backbone_flops.json"  # written by `mosa schema`, see mosa.engine.cost.flops
_NEEDED = ["benchmark", "task", "backbone", "method", "options", "inference_flops_per_image"]
_COUNTED_BY = ["architecture", "image_size", "head_parameters"]


def backbone_flops(frame: pd.DataFrame) -> pd.Series:
    """Return the FLOPs of one image in the backbone with the task's classifier, for each run.

    They are those of a run on the same task and backbone whose merged model has no other modules, such as
    linear probing. Without one, they are as counted for the architecture and the image size.

    Args:
        frame: One row per run; the runs of variants that are not shown count, too.

    Returns:
        One value per row; NaN where neither is known.
    """
    if not set(_NEEDED) <= set(frame.columns):
        return pd.Series(float("nan"), frame.index)
    schemas = method_schemas()
    pairs = zip(map(schemas.get, frame["method"]), frame["options"], strict=True)
    plain = frame[[merges_away(*pair) for pair in pairs]]
    place = ["benchmark", "task", "backbone"]
    measured = plain.groupby(place)["inference_flops_per_image"].min().rename("flops")
    found = frame[place].join(measured, on=place)["flops"].astype(float)
    if set(_COUNTED_BY) <= set(frame.columns):
        found = found.fillna(pd.Series(map(_counted, *map(frame.get, _COUNTED_BY)), frame.index, dtype=float))
    return found


def _counted(architecture: str, image_size: float, head_parameters: float) -> float:
    """Return the counted FLOPs of a backbone and its classifier; NaN where they were not counted."""
    name = architecture.partition(".")[0]  # a tag after the dot names weights
    entry = _table().get(f"{name} {image_size:.0f}") if not pd.isna(image_size) else None
    if entry is None:
        return float("nan")
    # The classifier has width x classes weights, each used once, and a bias per class.
    return entry["flops"] + 2 * head_parameters * entry["width"] / (entry["width"] + 1)


@cache
def _table() -> dict[str, dict[str, float]]:
    return json.loads(COUNTED.read_text(encoding="utf-8"))
