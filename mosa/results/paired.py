"""Differences between variants, paired by seed: how large, how sure, and on how many tasks."""

from typing import NamedTuple

import numpy as np

from mosa.data.metrics import get_metric
from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Section, count
from mosa.results.stats import (
    bootstrap_interval,
    holm,
    probability_of_improvement,
    student_interval,
    wilcoxon_p,
)


class Difference(NamedTuple):
    """A variant minus the reference, over the seeds for which both have all tasks.

    Attributes:
        variant: The variant.
        reference: What it is compared with.
        metric: Name of the metric.
        mean: Difference of the means over tasks, in the metric's unit, averaged over the common seeds.
        low, high: Its 95 % interval over seeds: Student's t on the differences of each seed; NaN for one
            seed. The tasks are fixed, so it does not cover other tasks.
        bootstrap_low, bootstrap_high: The same by a studentised bootstrap of the seeds within each task; NaN
            for fewer than three seeds.
        seeds: Number of common seeds.
        better, equal, worse: Number of tasks on which the variant's mean over these seeds is better, equal as
            printed, or worse.
        tasks: Number of tasks.
        wilcoxon_p: p-value of the signed-rank test over tasks.
        holm_p: The same, adjusted for the number of comparisons with the reference.
        improvement: Probability that a run of the variant beats one of the reference, mean over tasks.
    """

    variant: str
    reference: str
    metric: str
    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan
    bootstrap_low: float = np.nan
    bootstrap_high: float = np.nan
    seeds: int = 0
    better: int = 0
    equal: int = 0
    worse: int = 0
    tasks: int = 0
    wilcoxon_p: float = np.nan
    holm_p: float = np.nan
    improvement: float = np.nan

    @property
    def shown(self) -> str:
        """The difference and its interval as tables print them: "+3.3 [+1.1, +5.5]"."""
        return f"{self._signed(self.mean)} {self._interval(self.low, self.high)}".strip() or MISSING

    @property
    def shown_bootstrap(self) -> str:
        """The bootstrap interval as tables print it."""
        return self._interval(self.bootstrap_low, self.bootstrap_high) or MISSING

    def _signed(self, number: float) -> str:
        return "" if np.isnan(number) else f"{number:+.{get_metric(self.metric).decimals}f}"

    def _interval(self, low: float, high: float) -> str:
        return "" if np.isnan(low) else f"[{self._signed(low)}, {self._signed(high)}]"

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        pair = f"{self.variant} - {self.reference}"
        if not self.seeds:
            return f"{pair}: {MISSING}, as no seed has all tasks of both"
        return (
            f"{pair}: {self.shown} over {count(self.tasks, 'task')} x {count(self.seeds, 'seed')}, "
            f"better on {self.better} of {count(self.tasks, 'task')}"
        )


def named(found: Difference, section: Section) -> Difference:
    """Return a difference whose variants have the names that readers see."""
    return found._replace(variant=section.name(found.variant), reference=section.name(found.reference))


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
    found = [difference(section, variant, reference) for variant in section.variants if variant != reference]
    known = [index for index, one in enumerate(found) if not np.isnan(one.wilcoxon_p)]
    for index, adjusted in zip(known, holm([found[i].wilcoxon_p for i in known]), strict=True):
        found[index] = found[index]._replace(holm_p=float(adjusted))
    return found


def difference(section: Section, variant: str, reference: str) -> Difference:
    """Compare two variants, on the seeds for which both have all tasks; `holm_p` is left out."""
    tasks = [("task", task) for task in section.task_names]
    nothing = Difference(variant, reference, section.metric.name, tasks=len(tasks))
    scores = section.per_seed[[*tasks, MEAN_OVER_TASKS]]
    if not {variant, reference} <= set(scores.index.get_level_values("variant")):
        return nothing
    ours, theirs = (scores.loc[name].dropna() for name in (variant, reference))
    paired = (ours - theirs).dropna()
    if paired.empty:
        return nothing
    by_task = paired[tasks].mean()
    decimals = section.metric.decimals
    printed = [runs.loc[paired.index, tasks].mean().round(decimals) for runs in (ours, theirs)]
    gain = section.sign * (printed[0] - printed[1]).round(decimals)  # above 0 where ours is better
    low, high = student_interval(paired[MEAN_OVER_TASKS])
    bootstrap_low, bootstrap_high = bootstrap_interval(paired[tasks].to_numpy().T)
    return nothing._replace(
        mean=float(paired[MEAN_OVER_TASKS].mean()),
        low=low,
        high=high,
        bootstrap_low=bootstrap_low,
        bootstrap_high=bootstrap_high,
        seeds=len(paired),
        better=int((gain > 0).sum()),
        equal=int((gain == 0).sum()),
        worse=int((gain < 0).sum()),
        wilcoxon_p=wilcoxon_p(by_task),
        improvement=probability_of_improvement(
            [section.sign * ours[task].to_numpy() for task in tasks],
            [section.sign * theirs[task].to_numpy() for task in tasks],
        ),
    )
