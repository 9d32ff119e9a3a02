"""What a variant costs: parameters, compute, time, memory. Each is declared once, for tables and axes."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pandas as pd

from mosa.experiment.validation import methods_on_features
from mosa.results.aggregate import Section

MIB = 2**20
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


def measured(runs: pd.DataFrame, column: str) -> pd.Series:
    """Return what each run's record gives of a cost; NaN where it does not, or measured something else.

    The peak memory on a CPU is that of the whole process, libraries and data included: not the run's.
    """
    values = runs.get(column, pd.Series(float("nan"), runs.index)).astype(float)
    if column == "peak_memory_mib" and "device_type" in runs:
        values = values.where(runs["device_type"] != "cpu")
    return values


def about_features(methods: Iterable[str]) -> str:
    """Return a sentence on the methods whose seconds are without the backbone's; empty if there is none."""
    found = sorted(set(methods) & methods_on_features())
    if not found:
        return ""
    return (
        f"{' and '.join(found)}: the frozen backbone's features are computed once and kept, so the seconds "
        "of most runs are without them."
    )


def _measured(column: str) -> Callable[[Section], pd.Series]:
    def of(section: Section) -> pd.Series:
        runs = section.runs[["variant", "task"]].assign(value=measured(section.runs, column))
        by_task = runs.groupby(["variant", "task"])["value"].mean()
        over_tasks = by_task.groupby("variant").agg(lambda values: values.mean(skipna=False))
        complete = by_task.groupby("variant").size() == len(section.task_names)
        return over_tasks.where(complete).reindex(section.variants)

    return of


def _relative_inference_flops(section: Section) -> pd.Series:
    flops, unit = (_measured(f"{name}_per_image")(section) for name in ("inference_flops", "backbone_flops"))
    return flops / unit


COSTS = {
    "adapter_parameters": Cost(
        "tuned parameters without head", "{:,.0f}", lambda section: section.parameters["adapter_mean"]
    ),
    "storage_mib": Cost(
        "stored per task (MiB)", "{:.2f}", lambda section: 4 * section.parameters["total_mean"] / MIB
    ),
    "training_flops": Cost("FLOPs of a training run", "{:.3g}", lambda section: section.compute["flops"]),
    "image_passes": Cost("image-passes", "{:,.0f}", lambda section: section.compute["image_passes"]),
    "train_seconds": Cost("training seconds", "{:.1f}", _measured("train_seconds")),
    "peak_memory_mib": Cost("peak memory (MiB)", "{:,.0f}", _measured("peak_memory_mib")),
    "inference_overhead": Cost("inference FLOPs (backbone = 1)", "{:.3f}", _relative_inference_flops),
}
