"""The scores of several sources side by side, their paired differences, and what differs in their origin.

The first source is the one that the others are compared with. What does not measure the same as there is
shown and marked, and no difference is computed from it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mosa.base.errors import UserError, unknown
from mosa.data.metrics import EXACT, Metric
from mosa.experiment.specification import Specification
from mosa.results.aggregate import MEAN_OVER_TASKS, MEASURED, Section, compare
from mosa.results.frame import to_frame
from mosa.results.paired import Difference, difference, interval_over_seeds
from mosa.results.provenance import code_of
from mosa.results.side_by_side.mistakes import Tested, mistakes
from mosa.results.side_by_side.sources import Source

MEAN = MEAN_OVER_TASKS[1]
_ALWAYS = ("torch", "mosa-benchmark")  # versions that are listed even where they agree


class Score(NamedTuple):
    """What one source has for a variant on a task, and how far it is from the first source.

    Attributes:
        task: Name within the benchmark, or "mean over tasks": over those that all sources have.
        metric: Name of the metric.
        mean, sd, seeds: Over the source's own seeds; NaN and 0 where it has none.
        mark: Number of the reason why it is not compared, from 1 (see `SideBySide.reasons`); 0: it is.
        difference: This minus the first source, over common seeds; NaN where there is none.
        low, high: Its 95 % interval, Student's t over seeds; NaN for fewer than three.
        common: Number of common seeds.
    """

    benchmark: str
    backbone: str
    variant: str
    task: str
    source: str
    metric: str
    mean: float = np.nan
    sd: float = np.nan
    seeds: int = 0
    mark: int = 0
    difference: float = np.nan
    low: float = np.nan
    high: float = np.nan
    common: int = 0


class Changed(NamedTuple):
    """A key of the specification that differs from the first source's.

    Attributes:
        source: The other source.
        variant, key: Of what, dotted: training.lr.
        ours, theirs: The value of the first source, and of the other.
        where: Tasks and backbones of which it holds, such as "demo/digits on micro_vit".
    """

    source: str
    variant: str
    key: str
    ours: Any
    theirs: Any
    where: list[str]


@dataclass(frozen=True)
class SideBySide:
    """Several sources side by side.

    Attributes:
        sources: Names, the first being what the others are compared with.
        headings: What each section shows, by benchmark and backbone.
        metrics: The metric of each section.
        tasks: The tasks that all sources of a section have, over which means are taken.
        scores: A row per benchmark, backbone, variant, task and source, the mean over tasks first.
        reasons: Why marked scores are not compared, by their numbers from 1.
        changed: In what the specifications of shared runs differ.
        same: Number of shared variants on a task and backbone that have one specification, by source.
        origins: Machines, code and versions: for each fact, the values of each source.
        tested: McNemar's tests, where both sources kept predictions.
        against: Within each source, over the tasks of the mean: each variant minus the reference.
    """

    sources: list[str]
    headings: dict[tuple[str, str], str]
    metrics: dict[tuple[str, str], Metric]
    tasks: dict[tuple[str, str], list[str]]
    scores: list[Score]
    reasons: list[str]
    changed: list[Changed]
    same: dict[str, int]
    origins: dict[str, list[list[str]]]
    tested: list[Tested]
    against: dict[tuple[str, str], dict[str, list[Difference]]]


def side_by_side(
    sources: Sequence[Source],
    variants: Sequence[str] | None = None,
    metric: str | None = None,
    reference: str | None = None,
) -> SideBySide:
    """Compare the records of several sources with those of the first.

    Args:
        sources: Two or more, from `opened`.
        variants: Variants to show, in this order; None: all.
        metric: Name of the metric; None: the one that the tasks report.
        reference: Variant that the others are compared with within each source; None: adapter, or the first.

    Raises:
        UserError: Records of one source cannot be compared with one another, no source has a variant or the
            reference, or nothing is shared.
    """
    frames = {source.name: _frame(source) for source in sources}
    known = sorted(set().union(*(frame["variant"] for frame in frames.values())))
    for kind, names, allowed in (
        ("variant", variants or (), known),
        ("reference", [reference] if reference else (), variants or known),
    ):
        for name in names:
            if name not in allowed:
                raise unknown(kind, name, allowed)
    builder = _Builder(frames, variants, metric, reference)
    places = sorted(set().union(*(_places(frame) for frame in frames.values())))
    for place in places:
        builder.add(place)
    changed, same = _specifications(sources)
    return SideBySide(
        [*frames], builder.headings, builder.metrics, builder.tasks, builder.scores, builder.reasons,
        changed, same, _origins(frames), builder.tested, builder.against,
    )  # fmt: skip


def _frame(source: Source) -> pd.DataFrame:
    try:
        return to_frame(source.records)
    except UserError as error:
        raise UserError(f"{source.name}: {error}") from None


def _places(frame: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(frame["benchmark"], frame["backbone"], strict=True))


class _Builder:
    """Collects the sections one by one; see `SideBySide` for what it holds."""

    def __init__(
        self,
        frames: dict[str, pd.DataFrame],
        variants: Sequence[str] | None,
        metric: str | None,
        reference: str | None,
    ) -> None:
        self.frames, self.variants, self.metric, self.reference = frames, variants, metric, reference
        self.base = next(iter(frames))
        self.headings: dict[tuple[str, str], str] = {}
        self.metrics: dict[tuple[str, str], Metric] = {}
        self.tasks: dict[tuple[str, str], list[str]] = {}
        self.scores: list[Score] = []
        self.reasons: list[str] = []
        self.tested: list[Tested] = []
        self.against: dict[tuple[str, str], dict[str, list[Difference]]] = {}

    def add(self, place: tuple[str, str]) -> None:
        """Add the section of a benchmark and a backbone."""
        runs = {name: self._of(frame, place) for name, frame in self.frames.items()}
        runs = {name: found for name, found in runs.items() if len(found)}
        if not runs:
            return
        sections = {name: self._section(name, found) for name, found in runs.items()}
        if len({section.metric.name for section in sections.values()}) > 1:
            found = ", ".join(f"{name} {section.metric.name}" for name, section in sections.items())
            raise UserError(
                f"the sources report different metrics for {place[0]} on {place[1]} ({found}): name the one "
                "to compare by, such as --metric top1"
            )
        in_all = len(runs) == len(self.frames)  # otherwise a source has no task here
        shared = set.intersection(*(set(found["task"]) for found in runs.values())) if in_all else set()
        over_shared = {
            name: self._section(name, found[found["task"].isin(shared)]) if shared else None
            for name, found in runs.items()
        }
        first = next(iter(sections.values()))
        self.headings[place] = f"{place[0]} on {place[1]}: {first.metric.label}, {first.eval_split} split"
        self.tasks[place] = [task for task in first.task_names if task in shared]
        self.metrics[place] = first.metric
        self.against[place] = {
            name: self._against(section) for name, section in over_shared.items() if section is not None
        }
        marks = {name: self._marks(place, name, runs) for name in runs}
        same = {name: shared - marks[name].keys() for name in runs if name != self.base}
        paired = {name: self._paired(name, runs, tasks) for name, tasks in same.items()}
        for name, both in paired.items():
            if both is not None:
                variants = runs[name]["variant"].unique()
                pairs = [(v, _of_source(name, v), _of_source(self.base, v)) for v in variants]
                self.tested += mistakes(both, name, pairs)
        # A mean over tasks has no difference if that on one of them has none.
        paired = {name: both for name, both in paired.items() if same[name] == shared}
        order = self.variants or list(dict.fromkeys(v for one in sections.values() for v in one.variants))
        tasks = list(dict.fromkeys(task for one in sections.values() for task in one.task_names))
        for variant in order:
            for task in [MEAN, *tasks]:
                for name in self.frames:
                    chosen = over_shared if task == MEAN else sections
                    self._score(place, variant, task, name, chosen, marks, paired)

    def _of(self, frame: pd.DataFrame, place: tuple[str, str]) -> pd.DataFrame:
        chosen = (frame["benchmark"] == place[0]) & (frame["backbone"] == place[1])
        if self.variants is not None:
            chosen &= frame["variant"].isin(self.variants)
        return frame[chosen]

    def _section(self, name: str, runs: pd.DataFrame) -> Section:
        try:
            (section,) = compare(runs, self.variants, self.metric)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        return section

    def _against(self, section: Section) -> list[Difference]:
        reference = self.reference or section.reference
        return [difference(section, one, reference) for one in section.variants if one != reference]

    def _marks(self, place: tuple[str, str], name: str, runs: dict[str, pd.DataFrame]) -> dict[str, int]:
        """Return the number of the reason why a task is not compared, for each such task of a source."""
        if name == self.base or self.base not in runs:
            return {}
        found: dict[str, list[str]] = {}
        for task, theirs in runs[name].groupby("task"):
            ours = runs[self.base][runs[self.base]["task"] == task]
            reason = not_the_same(ours, theirs) if len(ours) else ""
            if reason:
                found.setdefault(reason, []).append(str(task))
        marks = {}
        for reason, tasks in found.items():
            where = f"{place[0]} on {place[1]}, {', '.join(tasks)}"
            self.reasons.append(f"{name} is not compared with {self.base} ({where}): {reason}")
            marks |= dict.fromkeys(tasks, len(self.reasons))
        return marks

    def _paired(self, name: str, runs: dict[str, pd.DataFrame], tasks: set[str]) -> Section | None:
        """Return the runs of a source and of the first on tasks, as one section with the variants of both."""
        if self.base not in runs or not tasks:
            return None
        ours, theirs = (runs[one][runs[one]["task"].isin(tasks)] for one in (self.base, name))
        groups = ours.drop_duplicates("task").set_index("task")["group"]
        both = [
            frame.assign(
                variant=[_of_source(one, v) for v in frame["variant"]], group=frame["task"].map(groups)
            )
            for one, frame in ((self.base, ours), (name, theirs))
        ]
        (section,) = compare(pd.concat(both, ignore_index=True), None, self.metric)
        return section

    def _score(
        self,
        place: tuple[str, str],
        variant: str,
        task: str,
        name: str,
        sections: dict[str, Section | None],
        marks: dict[str, dict[str, int]],
        paired: dict[str, Section | None],
    ) -> None:
        score = Score(*place, variant, task, name, self.metrics[place].name)
        section, key = sections.get(name), MEAN_OVER_TASKS if task == MEAN else ("task", task)
        if section is not None and variant in section.mean.index and key in section.mean:
            mean, sd, number = (frame.loc[variant, key] for frame in (section.mean, section.sd, section.n))
            score = score._replace(mean=float(mean), sd=float(sd), seeds=int(number))
        of_source, tasks = marks.get(name, {}), [task]
        if task == MEAN:
            tasks = section.task_names if section is not None else []
        score = score._replace(mark=next((of_source[one] for one in tasks if one in of_source), 0))
        if name != self.base and not score.mark and score.seeds:
            base = sections.get(self.base)
            if task != MEAN and base is not None:
                score = score._replace(**_difference_on(section, base, variant, key))
            elif (both := paired.get(name)) is not None:
                found = difference(both, _of_source(name, variant), _of_source(self.base, variant))
                score = score._replace(
                    difference=found.mean, low=found.low, high=found.high, common=found.seeds
                )
        self.scores.append(score)


def _of_source(name: str, variant: str) -> str:
    return f"{variant} of {name}"


def _difference_on(theirs: Section, ours: Section, variant: str, key: tuple[str, str]) -> dict[str, Any]:
    """Return the fields of a score that hold its difference from the first source on a task."""
    if key not in ours.per_seed or variant not in ours.methods or variant not in theirs.methods:
        return {}
    found = (theirs.per_seed.loc[variant][key] - ours.per_seed.loc[variant][key]).dropna().round(EXACT)
    if found.empty:
        return {}
    low, high = interval_over_seeds(found)
    return {"difference": float(found.mean()), "low": low, "high": high, "common": len(found)}


def not_the_same(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """Return in what two sets of runs on a task do not measure the same, with both values; or ""."""
    found = []
    for column in MEASURED:
        values = [_text(frame[column].iloc[0]) for frame in (theirs, ours)]
        if values[0] != values[1]:
            found.append(f"{column} is {values[0]}, not {values[1]}")
    return ", ".join(found)


def _text(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text[:16] if len(text) == 64 else text


def _specifications(sources: Sequence[Source]) -> tuple[list[Changed], dict[str, int]]:
    """Return how the specifications differ from the first source's, and how many are the same."""
    first, *others = sources
    ours = _by_place(first)
    changed: dict[tuple, Changed] = {}
    same = dict.fromkeys((source.name for source in others), 0)
    for source in others:
        for place, theirs in _by_place(source).items():
            if place not in ours:
                continue
            task, backbone, variant = place
            found = _differences(ours[place], theirs)
            same[source.name] += not found
            for key, values in found.items():
                row = Changed(source.name, variant, key, *values, [])
                at = (*row[:3], *(json.dumps(value, sort_keys=True) for value in values))
                changed.setdefault(at, row).where.append(f"{task} on {backbone}")
    return list(changed.values()), same


def _by_place(source: Source) -> dict[tuple[str, str, str], str]:
    """Return a specification, as text, for each task, backbone and variant of a source."""
    found: dict[tuple[str, str, str], str] = {}
    for record, _ in source.records:
        what = record["specification"]
        place = (what["task"], what["backbone"]["name"], what["variant"])
        if place not in found:
            found[place] = json.dumps(what)
    return found


@cache
def _specification(text: str) -> Specification:
    return Specification.model_validate(json.loads(text))


def _differences(ours: str, theirs: str) -> dict[str, tuple[Any, Any]]:
    return _specification(ours).differences(_specification(theirs)) if ours != theirs else {}


def _origins(frames: dict[str, pd.DataFrame]) -> dict[str, list[list[str]]]:
    """Return machines, code and versions: for each fact, the values of each source."""
    versions = {
        name: pd.DataFrame(list(frame["versions"])).reindex(index=range(len(frame)))
        for name, frame in frames.items()
    }
    facts = {
        "machine": [_distinct(frame["device"]) for frame in frames.values()],
        "code": [_distinct(map(code_of, frame["commit"], frame["dirty"])) for frame in frames.values()],
    }
    for package in sorted(set().union(*versions.values())):
        values = [
            _distinct(table[package].dropna()) if package in table else [] for table in versions.values()
        ]
        if package in _ALWAYS or any(value != values[0] for value in values):
            facts[package] = values
    return facts


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted(set(values))
