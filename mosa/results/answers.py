"""What the runs of a section said of every test image, read from the predictions beside their records."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from mosa.base.errors import UserError
from mosa.base.words import count
from mosa.data.class_names import known_classes
from mosa.results.aggregate import Section
from mosa.results.per_image import agreement, ensemble, reliability
from mosa.results.predictions import NotKept, Predictions, read

NOTHING = (
    "No run here kept its predictions, from which this is made: keep.predictions (docs/predictions.md) keeps "
    "those of runs that are done from now on, and `mosa plan` says how to have those of earlier ones."
)


@dataclass(frozen=True, eq=False)
class OfTask:
    """The answers of all runs on one task.

    Attributes:
        task: The task.
        labels: The right classes, int64 (images,).
        ids, classes: Names of images and classes, as in `mosa.results.predictions.read`.
        predicted: Predicted classes (images,) of each seed, by variant in display order.
        binned: What `mosa.results.per_image.reliability` counts, of each seed, by variant.
    """

    task: str
    labels: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    predicted: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    binned: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def correct(self, variant: str) -> np.ndarray:
        """Return whether each image is classified right (seeds, images)."""
        return np.stack([predicted == self.labels for predicted in self.predicted[variant].values()])

    def accuracy(self, variant: str) -> float:
        """Return the accuracy, mean over seeds, as a fraction."""
        return float(self.correct(variant).mean())

    @property
    def best(self) -> str | None:
        """The variant with the highest accuracy among those with every seed that occurs; None: none has."""
        seeds = set().union(*self.predicted.values())
        complete = [variant for variant, ours in self.predicted.items() if len(ours) == len(seeds)]
        return max(complete, key=self.accuracy, default=None)

    def common(self, variant: str, other: str) -> list[int]:
        """Return the seeds that two variants have."""
        return [seed for seed in self.predicted[variant] if seed in self.predicted[other]]


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of a section's runs.

    Attributes:
        tasks: Those tasks of which a run kept its predictions, in display order.
        lacking: Number of runs without predictions.
        runs: Number of runs.
    """

    tasks: list[OfTask]
    lacking: int
    runs: int

    @property
    def note(self) -> str:
        """A sentence on the runs that kept no predictions; empty if all did."""
        if not self.tasks:
            return NOTHING
        if not self.lacking:
            return ""
        lacking = f"{self.lacking} of {count(self.runs, 'run')}"
        return f"Left out, as they kept no predictions: {lacking}; `mosa plan` names them."


@lru_cache(maxsize=64)  # every table and plot asks
def answers(section: Section) -> Answers:
    """Read the predictions of a section's runs.

    Raises:
        UserError: A file is damaged, is not the one that a record names, or runs saw other images.
    """
    found, lacking = [], 0
    for task in section.task_names:
        of_task = None
        for variant, seed, one in _kept(section, task):
            if one is None:
                lacking += 1
                continue
            if of_task is None:
                of_task = OfTask(task, one.labels, one.ids, _class_names(section, task, one))
            elif not np.array_equal(of_task.labels, one.labels):
                raise UserError(
                    f"{task}: the predictions of {variant} seed {seed} are of other images than those of "
                    "other runs; repeat the run"
                )
            of_task.predicted.setdefault(variant, {})[seed] = one.predicted.astype(np.int32)
            shares = one.probabilities.max(axis=1)
            of_task.binned.setdefault(variant, {})[seed] = reliability(shares, one.correct)
        if of_task is not None:
            found.append(of_task)
    return Answers(found, lacking, len(section.runs))


def _class_names(section: Section, task: str, one: Predictions) -> tuple[str, ...]:
    """Return the names of classes; those of a demo's task where runs are older than the names."""
    known = known_classes(f"{section.benchmark}/{task}")
    numbers = tuple(map(str, range(len(one.classes))))
    return known if one.classes == numbers and len(known) == len(numbers) else one.classes


def _kept(
    section: Section, task: str, seed: int | None = None
) -> Iterator[tuple[str, int, Predictions | None]]:
    """Yield the predictions of each run on a task, in display order of the variants; None: it kept none."""
    for variant, number, path, digest in _files(section).get(task, ()):
        if seed not in (None, number):
            continue
        try:
            yield variant, number, read(Path(path), digest) if digest else None
        except NotKept:
            yield variant, number, None


@lru_cache(maxsize=64)
def _files(section: Section) -> dict[str, list[tuple[str, int, str, str]]]:
    """Return variant, seed, record and digest of the predictions ("": none) of each run, by task."""
    runs = section.runs
    if "path" not in runs or "predictions_sha256" not in runs:
        runs = runs.assign(path="", predictions_sha256="")
    columns = [runs[name] for name in ("task", "variant", "seed", "path")]
    digests = runs["predictions_sha256"].fillna("")
    place = {variant: number for number, variant in enumerate(section.variants)}
    found: dict[str, list[tuple[str, int, str, str]]] = {}
    for task, variant, seed, path, digest in zip(*columns, digests, strict=True):
        found.setdefault(task, []).append((variant, int(seed), path, digest))
    return {task: sorted(rows, key=lambda row: (place[row[0]], row[1])) for task, rows in found.items()}


@lru_cache(maxsize=64)
def ensembles(section: Section) -> dict[tuple[str, str, str], float]:
    """Return the accuracy of the average of any two variants' probabilities, by task and variants.

    Of each seed that both have, then the mean; as a fraction. One task and seed at a time is in memory.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for of_task in answers(section).tasks:
        for seed in section.seeds:
            shares = {
                variant: one.probabilities.astype(np.float32)
                for variant, _, one in _kept(section, of_task.task, seed)
                if one is not None
            }
            for variant, other in combinations(shares, 2):
                together = ensemble(shares[variant], shares[other]) == of_task.labels
                found.setdefault((of_task.task, variant, other), []).append(float(together.mean()))
    return {key: float(np.mean(values)) for key, values in found.items()}


@lru_cache(maxsize=64)
def pairs(section: Section) -> pd.DataFrame:
    """Return how any two variants agree: one row per task and pair, and per variant with itself.

    Every number is computed for each seed that both have, then averaged. A variant is compared with itself
    over all pairs of its seeds, which is what to expect of the same method.

    Returns:
        Columns task, variant, other, seeds (pairs of runs), and in percent: same, shared_mistakes, the
        accuracies `better` (the higher of the two), oracle and ensemble, and the gains of these two over it;
        kappa. NaN where there is nothing to compare; a variant with itself has no ensemble.
    """
    rows = []
    averaged = ensembles(section)
    for of_task in answers(section).tasks:
        names = list(of_task.predicted)
        for variant, other in [(name, name) for name in names] + list(combinations(names, 2)):
            ours, theirs = of_task.predicted[variant], of_task.predicted[other]
            seeds = [(seed, seed) for seed in of_task.common(variant, other)]
            seeds = list(combinations(ours, 2)) if variant == other else seeds
            if not seeds:
                continue
            found = [agreement(of_task.labels, ours[one], theirs[two]) for one, two in seeds]
            better = [
                max((ours[one] == of_task.labels).mean(), (theirs[two] == of_task.labels).mean())
                for one, two in seeds
            ]
            best, oracle = 100 * np.mean(better), 100 * np.mean([one.oracle for one in found])
            together = 100 * averaged.get((of_task.task, variant, other), np.nan)
            rows.append(
                {
                    "task": of_task.task,
                    "variant": variant,
                    "other": other,
                    "seeds": len(seeds),
                    "same": 100 * np.mean([one.same for one in found]),
                    "shared_mistakes": 100 * _mean([one.shared_mistakes for one in found]),
                    "kappa": _mean([one.kappa for one in found]),
                    "better": best,
                    "oracle": oracle,
                    "ensemble": together,
                    "oracle_gain": oracle - best,
                    "ensemble_gain": together - best,
                }
            )
    return pd.DataFrame(rows, columns=PAIRS)


PAIRS = [
    *("task", "variant", "other", "seeds", "same", "shared_mistakes", "kappa"),
    *("better", "oracle", "ensemble", "oracle_gain", "ensemble_gain"),
]


def _mean(values: list[float]) -> float:
    """Return the mean of what is known; NaN if nothing is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


def matrix(section: Section, column: str) -> pd.DataFrame:
    """Return a column of `pairs`, mean over the tasks that have it, as a symmetric table of variants."""
    found = pairs(section).groupby(["variant", "other"])[column].mean()
    names = [name for name in section.variants if name in set(found.index.get_level_values("variant"))]
    table = pd.DataFrame(np.nan, index=names, columns=names)
    for (variant, other), value in found.items():
        table.loc[variant, other] = table.loc[other, variant] = value
    return table
