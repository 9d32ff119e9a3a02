"""Differences between variants, paired by seed: how large, how sure, and on how many tasks."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from mosa.analysis.aggregate import MEAN_OVER_TASKS, Section, count
from mosa.analysis.columns import MISSING, heading
from mosa.analysis.render import escape_markdown

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """A variant minus the reference.

    Attributes:
        variant: The variant.
        reference: What it is compared with.
        mean: Difference of the means over tasks, in points of top-1, averaged over the common seeds.
        low, high: 95 % interval of it over seeds: Student's t on the differences of each seed; NaN for one
            seed. The tasks are fixed, so it speaks of these tasks.
        seeds: Number of seeds that both have complete.
        better: Number of tasks on which the variant's mean over these seeds is higher.
        tasks: Number of tasks.
    """

    variant: str
    reference: str
    mean: float
    low: float
    high: float
    seeds: int
    better: int
    tasks: int

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        pair = f"{self.variant} - {self.reference}"
        if not self.seeds:
            return f"{pair}: {MISSING}, as no seed has all tasks of both"
        interval = "" if np.isnan(self.low) else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return (
            f"{pair}: {self.mean:+.1f}{interval} over {count(self.tasks, 'task')} x "
            f"{count(self.seeds, 'seed')}, better on {self.better} of {count(self.tasks, 'task')}"
        )


def reference_of(section: Section) -> str:
    """Return the variant that the others are compared with: `adapter` if it is there, else the first."""
    return "adapter" if "adapter" in section.methods else section.variants[0]


def differences(section: Section, reference: str | None = None) -> list[Difference]:
    """Compare every variant with one, on the seeds for which both have all tasks.

    Pairing by seed takes out what a seed does to both: the order of the images, and the classifier's start.

    Args:
        section: The runs of one benchmark and backbone.
        reference: The variant to compare with; None: see `reference_of`.

    Returns:
        One difference for each other variant, in display order.
    """
    reference = reference or reference_of(section)
    return [_difference(section, variant, reference) for variant in section.variants if variant != reference]


def _difference(section: Section, variant: str, reference: str) -> Difference:
    tasks = [("task", task) for task in section.task_names]
    scores = section.per_seed[[*tasks, MEAN_OVER_TASKS]]
    both = [name in scores.index.get_level_values("variant") for name in (variant, reference)]
    if not all(both):
        return Difference(variant, reference, np.nan, np.nan, np.nan, 0, 0, len(tasks))
    paired = (scores.loc[variant] - scores.loc[reference]).dropna()
    overall = paired[MEAN_OVER_TASKS]
    low = high = np.nan
    if len(paired) > 1:
        error = stats.sem(overall)
        margin = error * stats.t.ppf((1 + CONFIDENCE) / 2, len(paired) - 1)
        low, high = overall.mean() - margin, overall.mean() + margin
    better = int((paired[tasks].mean() > 0).sum()) if len(paired) else 0
    return Difference(variant, reference, overall.mean(), low, high, len(paired), better, len(tasks))


def differences_table(sections: list[Section]) -> pd.DataFrame:
    """Return the differences of all sections as plain numbers, one row per section and variant."""
    rows = [
        {"benchmark": section.benchmark, "backbone": section.backbone} | difference._asdict()
        for section in sections
        for difference in differences(section)
    ]
    return pd.DataFrame(rows, columns=["benchmark", "backbone", *Difference._fields])


def differences_text(sections: list[Section]) -> str:
    """Return the differences of all sections as a Markdown list."""
    lines = []
    for section in sections:
        lines += [f"## {escape_markdown(heading(section))}", ""]
        lines += [f"- {escape_markdown(difference.sentence)}" for difference in differences(section)]
        lines += [
            "",
            "Points of top-1, mean over tasks, paired by seed; in brackets the 95 % interval over seeds "
            "(Student's t). The tasks are fixed: the interval speaks of these tasks.",
            "",
        ]
    return "\n".join(lines)
