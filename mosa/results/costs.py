"""What a variant costs: parameters, compute, time, memory. Each is declared once, for tables and axes."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from mosa.results.aggregate import MEAN_OVER_TASKS, Section

_MIB = 2**20
BACKBONE_IS_ONE = (
    "Inference FLOPs: of one image after merging, relative to the backbone with the classifier and nothing "
    "else."
)


class Cost(NamedTuple):
    """A cost, of which less is better.

    Attributes:
        label: Head of its column and label of its axis.
        form: Format of one value.
        of: Function of a section; returns the mean over tasks by variant, NaN where tasks are missing or the
            records do not give it.
    """

    label: str
    form: str
    of: Callable[[Section], pd.Series]


def _measured(column: str) -> Callable[[Section], pd.Series]:
    def of(section: Section) -> pd.Series:
        unknown = pd.Series(float("nan"), section.runs.index)
        runs = section.runs[["variant", "task"]].assign(value=section.runs.get(column, unknown))
        by_task = runs.groupby(["variant", "task"])["value"].mean()
        complete = section.n[MEAN_OVER_TASKS] > 0
        return by_task.groupby("variant").mean().reindex(section.variants).where(complete)

    return of


def _relative_inference_flops(section: Section) -> pd.Series:
    flops, unit = (_measured(f"{name}_per_image")(section) for name in ("inference_flops", "backbone_flops"))
    return flops / unit


COSTS = {
    "adapter_parameters": Cost(
        "tuned parameters without head", "{:,.0f}", lambda section: section.parameters["adapter_mean"]
    ),
    "storage_mib": Cost(
        "stored per task (MiB)", "{:.2f}", lambda section: 4 * section.parameters["total_mean"] / _MIB
    ),
    "training_flops": Cost("FLOPs of a training run", "{:.3g}", lambda section: section.compute["flops"]),
    "image_passes": Cost("image-passes", "{:,.0f}", lambda section: section.compute["image_passes"]),
    "train_seconds": Cost("training seconds", "{:.1f}", _measured("train_seconds")),
    "peak_memory_mib": Cost("peak memory (MiB)", "{:,.0f}", _measured("peak_memory_mib")),
    "inference_overhead": Cost("inference FLOPs (backbone = 1)", "{:.3f}", _relative_inference_flops),
}
