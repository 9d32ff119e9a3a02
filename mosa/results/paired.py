"""Differences between variants, paired by seed: how large, how sure, and on how many tasks."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from mosa.base.words import count
from mosa.data.metrics import EXACT, get_metric
from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Section
from mosa.results.stats import (
    holm,
    probability_of_improvement,
    smallest_wilcoxon_p,
    student_interval,
    wilcoxon_p,
)

MIN_SEEDS = 3  # of an interval: the spread of two is a single number, and too often small by chance
MIN_TASKS = 6  # of a signed-rank test: the fewest with which it can be significant at 5 %


class Difference(NamedTuple):
    """A variant minus the reference, over the seeds for which both have all tasks.

    Attributes:
        variant: The variant.
        reference: What it is compared with.
        metric: Name of the metric.
        mean: Difference of the means over tasks, in the metric's unit, averaged over the common seeds.
        low, high: Its 95 % interval over seeds: Student's t on the differences of each seed. NaN for fewer
            than three seeds, and where all seeds have the same difference. The tasks are fixed, so it does
            not cover other tasks.
        seeds: Number of common seeds.
        of_seeds: Number of seeds that any variant has.
        better, equal, worse: Number of tasks on which the variant's mean over these seeds is better, equal or
            worse, before rounding. Equal: the same to nine decimals.
        tasks: Number of tasks.
        wilcoxon_p: p-value of the signed-rank test over tasks; NaN for fewer than six, with which it cannot
            be 0.05 or less.
        holm_p: The same, adjusted for the number of comparisons with the reference.
        smallest_holm_p: The smallest value that `holm_p` could have with these tasks and comparisons.
        improvement: Probability that a run of the variant beats one of the reference, mean over tasks.
    """

    variant: str
    reference: str
    metric: str
    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan
    seeds: int = 0
    of_seeds: int = 0
    better: int = 0
    equal: int = 0
    worse: int = 0
    tasks: int = 0
    wilcoxon_p: float = np.nan
    holm_p: float = np.nan
    smallest_holm_p: float = np.nan
    improvement: float = np.nan

    @property
    def shown(self) -> str:
        """The difference and its interval as tables print them: "+3.3 [+1.1, +5.5]"."""
        if not self.seeds:
            return MISSING
        interval = "" if np.isnan(self.low) else f" [{self._signed(self.low)}, {self._signed(self.high)}]"
        return self._signed(self.mean) + interval

    @property
    def shown_with_caveat(self) -> str:
        """The same, and what it cannot say."""
        if not self.seeds:
            return f"{MISSING}, as no seed has all tasks of both"
        return f"{self.shown} ({self.caveat})" if self.caveat else self.shown

    def _signed(self, number: float) -> str:
        return get_metric(self.metric).shown(number, signed=True)

    @property
    def sentence(self) -> str:
        """The comparison in words, and what it cannot say."""
        pair = f"{self.variant} - {self.reference}"
        if not self.seeds:
            return f"{pair}: {self.shown_with_caveat}"
        seeds = count(self.seeds, "seed")
        if self.seeds < self.of_seeds:
            seeds = f"{self.seeds} of {count(self.of_seeds, 'seed')}"
        text = (
            f"{pair}: {self.shown} over {count(self.tasks, 'task')} x {seeds}, "
            f"better on {self.better} of {count(self.tasks, 'task')}"
        )
        return "; ".join(filter(None, [text, self.caveat]))

    @property
    def caveat(self) -> str:
        """Why there is no interval, and whether a test is left to conclude from; empty if there is one."""
        if not self.seeds or not np.isnan(self.low):
            return ""
        if self.seeds >= MIN_SEEDS:
            return "no interval, as it is the same for every seed"
        if self.tasks < MIN_TASKS:
            few = f"{count(self.tasks, 'task')} and {count(self.seeds, 'seed')}"
            return f"nothing can be concluded from {few}"
        return f"no interval, as it takes {MIN_SEEDS} seeds"


def named(found: Difference, section: Section) -> Difference:
    """Return a difference whose variants have the names that readers see."""
    return found._replace(variant=section.name(found.variant), reference=section.name(found.reference))


def differences(section: Section, reference: str | None = None) -> list[Difference]:
    """Compare every variant with one, on the seeds for which both have all tasks.

    Pairing by seed takes out what a seed does to both: the order of the images, and the classifier's start.

    Args:
        section: The runs of one benchmark and backbone.
        reference: The variant to compare with; None: the section's own, see `Section.reference`.

    Returns:
        One difference for each other variant, in display order.
    """
    reference = reference or section.reference
    found = [difference(section, variant, reference) for variant in section.variants if variant != reference]
    known = [index for index, one in enumerate(found) if not np.isnan(one.wilcoxon_p)]
    smallest = smallest_wilcoxon_p(len(section.task_names), len(known))
    for index, adjusted in zip(known, holm([found[i].wilcoxon_p for i in known]), strict=True):
        found[index] = found[index]._replace(holm_p=float(adjusted), smallest_holm_p=smallest)
    return found


def paired_scores(section: Section, variant: str, reference: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of two variants over the seeds for which both have all tasks.

    Returns:
        Of the variant and of the reference: one row per common seed, columns the tasks and the mean over
        tasks; no row if there is no common seed.
    """
    scores = section.per_seed[[*(("task", task) for task in section.task_names), MEAN_OVER_TASKS]]
    known = set(scores.index.get_level_values("variant"))
    ours, theirs = (
        scores.loc[name].dropna() if name in known else scores.iloc[:0].droplevel("variant")
        for name in (variant, reference)
    )
    common = ours.index.intersection(theirs.index)
    return ours.loc[common], theirs.loc[common]


def interval_over_seeds(by_seed: pd.Series) -> tuple[float, float]:
    """Return the 95 % interval of the mean of differences by seed; NaN for fewer than 3, or equal ones."""
    has_spread = len(by_seed) >= MIN_SEEDS and by_seed.nunique() > 1
    return student_interval(by_seed) if has_spread else (np.nan, np.nan)


def difference(section: Section, variant: str, reference: str) -> Difference:
    """Compare two variants, on the seeds for which both have all tasks; `holm_p` is left out."""
    tasks = [("task", task) for task in section.task_names]
    nothing = Difference(variant, reference, section.metric.name, tasks=len(tasks), of_seeds=section.full_n)
    ours, theirs = paired_scores(section, variant, reference)
    if ours.empty:
        return nothing
    by_seed = (ours[MEAN_OVER_TASKS] - theirs[MEAN_OVER_TASKS]).round(EXACT)
    by_task = (ours[tasks].mean().round(EXACT) - theirs[tasks].mean().round(EXACT)).round(EXACT)
    gain = section.sign * by_task  # above 0 where ours is better
    low, high = interval_over_seeds(by_seed)
    return nothing._replace(
        mean=float(by_seed.mean()),
        low=low,
        high=high,
        seeds=len(by_seed),
        better=int((gain > 0).sum()),
        equal=int((gain == 0).sum()),
        worse=int((gain < 0).sum()),
        wilcoxon_p=wilcoxon_p(by_task) if len(tasks) >= MIN_TASKS else np.nan,
        improvement=probability_of_improvement(
            [section.sign * ours[task].round(EXACT).to_numpy() for task in tasks],
            [section.sign * theirs[task].round(EXACT).to_numpy() for task in tasks],
        ),
    )
