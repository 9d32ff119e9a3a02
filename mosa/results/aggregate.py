"""From one row per run to means and spreads over seeds, without averaging missing runs away."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import pandas as pd

from mosa.base.errors import UserError, unknown
from mosa.base.words import count
from mosa.data.metrics import EXACT, Metric, get_metric
from mosa.results.backbone_flops import backbone_flops
from mosa.results.style import MethodStyle, method_order, method_styles

MISSING = "—"  # what is printed in place of a number that no record gives
MEAN_OVER_TASKS = ("overall", "mean over tasks")
MEAN_OF_GROUPS = ("overall", "mean of groups")
_NAMED = 6  # variants that a sentence lists
DEFAULT_REFERENCE = "adapter"  # what variants are compared with unless another is chosen
_DEFAULT_METRIC = "top1"  # of records that do not name the one their task reports
Key = tuple[str, str]  # ("task" | "group" | "overall", name): one column of a comparison

_RUN = ["benchmark", "task", "backbone", "variant", "seed"]
_REQUIRED = [
    *(*_RUN, "group", "method", "options", "eval_split", "protocol", "protocol_version"),
    *("adapter_parameters", "total_parameters"),
]
_TRAINED = ("method", "options", "epochs", "batch_size", "lr", "specification")
# A column that must have one value within each of these sets of runs, or their numbers are not comparable.
_MUST_AGREE = {
    "eval_split": [],
    "train_split": ["benchmark"],
    "protocol": ["benchmark"],
    "protocol_version": ["benchmark"],
    "group": ["benchmark", "task"],
    "data_digest": ["benchmark", "task", "image_size"],  # of the pack, of which each size has its own
    "architecture": ["backbone"],
    "image_size": ["backbone"],
    "weights_sha256": ["backbone"],
    "input_mean": ["benchmark", "backbone"],
    "input_std": ["benchmark", "backbone"],
    "method": ["variant"],
    "options": ["benchmark", "task", "backbone", "variant"],
    "epochs": ["benchmark", "task", "backbone", "variant"],
    "batch_size": ["benchmark", "task", "backbone", "variant"],
    "lr": ["benchmark", "task", "backbone", "variant"],
    "specification": ["benchmark", "task", "backbone", "variant"],
}
# Those of them that say what was measured; the others say how it was trained.
MEASURED = [name for name in _MUST_AGREE if name not in (*_TRAINED, "group")]


@dataclass(frozen=True, eq=False)
class Section:
    """One benchmark on one backbone: what one table or one row of panels compares.

    Every score is first computed per seed (`per_seed`): the metric on a task; a group mean, the mean over
    the group's tasks; the mean over tasks; the mean of groups (mean of the group means). A seed that
    lacks a task has no mean which includes that task. `mean`, `sd` (sample standard deviation,
    ddof=1, NaN for one seed) and `n` are then taken over the seeds that have the score.

    Scores are compared over the same seeds only: a score is *complete* if it has every seed of the section,
    and the others take part in no ranking, in tables, plots and on the page alike.

    Attributes:
        metric: What the scores are.
        protocol: Name and version.
        groups: Tasks of each group, both in display order.
        methods: Method of each variant; a variant that was asked for but has no run is left out.
        seeds: Every seed that occurs, sorted.
        runs: The rows of the records' frame that the section summarises.
        per_seed: The metric, in its unit; rows (variant, seed), columns `Key`; NaN where missing.
        mean, sd, n: Over seeds; one row per variant in display order, columns `Key`. Means that are equal
            to `EXACT` decimals are equal.
        parameters: Tuned parameters over tasks; one row per variant, columns {adapter,total}_{mean,min,max}.
            Adapter excludes the head and total includes it. A mean is NaN when tasks are missing, unless
            it is the same for all the others.
        compute: What a run's training takes, as a mean over tasks: columns image_passes (forward passes of an
            image) and flops; NaN where tasks are missing or the records do not give it.
        names: Names of variants for readers, where they are not their own.
        chosen_reference: The variant to compare the others with; None: see `reference`.
    """

    metric: Metric
    benchmark: str
    backbone: str
    eval_split: str
    protocol: str
    groups: dict[str, list[str]]
    methods: dict[str, str]
    seeds: list[int]
    runs: pd.DataFrame
    per_seed: pd.DataFrame
    mean: pd.DataFrame
    sd: pd.DataFrame
    n: pd.DataFrame
    parameters: pd.DataFrame
    compute: pd.DataFrame
    names: dict[str, str] = field(default_factory=dict)
    chosen_reference: str | None = None

    @property
    def reference(self) -> str:
        """The variant to compare others with: as chosen if it is here, else `adapter`, else the first."""
        default = DEFAULT_REFERENCE if DEFAULT_REFERENCE in self.methods else self.variants[0]
        return self.chosen_reference if self.chosen_reference in self.variants else default

    def name(self, variant: str) -> str:
        """Return the name of a variant as tables, plots and report show it."""
        return self.names.get(variant, variant)

    @property
    def title(self) -> str:
        """What the section shows, as the title of a figure."""
        return f"{self.benchmark}, {self.backbone}: {self.metric.label}, {self.eval_split} split"

    @property
    def sign(self) -> int:
        """Factor that makes the higher score the better one: 1 or -1."""
        return 1 if self.metric.higher_is_better else -1

    def shown(self, score: float) -> str:
        """Return a score as tables print it, see `Metric.shown`."""
        return self.metric.shown(score)

    @property
    def variants(self) -> list[str]:
        """Variants in display order."""
        return list(self.mean.index)

    @property
    def keys(self) -> list[Key]:
        """Columns in display order: tasks, groups, the two overall means."""
        return list(self.mean.columns)

    @property
    def full_n(self) -> int:
        """Number of seeds that occur: what a complete score has."""
        return len(self.seeds)

    def complete(self, *keys: Key) -> list[str]:
        """Return the variants whose scores have every seed, in display order.

        Args:
            keys: Columns; all of them have to be complete.
        """
        counts = [self.n[key].to_dict() for key in keys]
        return [v for v in self.variants if all(count[v] == self.full_n for count in counts)]

    def best(self, key: Key, among: Iterable[str] | None = None) -> list[str]:
        """Return the variants with the best complete score; several if they are equal as printed.

        Args:
            key: Column.
            among: Variants to choose from; None: all.

        Returns:
            Variants in display order; none unless two complete scores can be compared.
        """
        means = self.mean[key].loc[[v for v in self.complete(key) if among is None or v in set(among)]]
        if len(means) < 2:
            return []
        best = self.shown((self.sign * means).max() * self.sign)
        return [variant for variant, mean in means.items() if self.shown(mean) == best]

    @property
    def about_seeds(self) -> str:
        """A sentence that names the variants whose means lack seeds, and the seeds they have; "" if none."""
        scores = self.per_seed[MEAN_OVER_TASKS].dropna()
        short = [
            f"{self.name(variant)} (has {', '.join(map(str, scores[variant].index))})"
            for variant, n in self.n[MEAN_OVER_TASKS].items()
            if 0 < n < self.full_n
        ]
        if not short:
            return ""
        more = len(short) - _NAMED
        names = ", ".join(short[:_NAMED]) + (f" and {count(more, 'other')}" if more > 0 else "")
        return f"Not ranked, as seeds are missing: {names}."

    @property
    def task_names(self) -> list[str]:
        """Tasks in display order."""
        return [task for tasks in self.groups.values() for task in tasks]


def compare(
    frame: pd.DataFrame, order: Iterable[str] | None = None, metric: str | None = None
) -> list[Section]:
    """Summarise the variants of the main comparison.

    Args:
        frame: One row per run, as from `mosa.results.frame`; the order of the rows does not matter.
        order: The variants to compare, in display order; one without any run is shown as missing.
            None: every variant of the frame.
        metric: Name of the metric to compare by; None: the one that the tasks of a section report.

    Returns:
        One section per benchmark and backbone, sorted by name.

    Raises:
        UserError: Runs that must not be compared (two splits, protocols, data sets or weights),
            a repeated run, no run at all, or none of the variants; an unknown metric, or none named where
            the tasks of a section report different ones.
    """
    frame = _checked(frame, metric)
    order = None if order is None else list(dict.fromkeys(order))
    sections = []
    for _, runs in frame.groupby(["benchmark", "backbone"]):
        chosen = runs if order is None else runs[runs["variant"].isin(order)]
        if len(chosen):
            sections.append(_section(chosen, order or _default_order(chosen), metric))
    if not sections:
        raise UserError(
            f"no record of the variants {', '.join(order or [])}: the records have "
            f"{', '.join(sorted(frame['variant'].unique()))}"
        )
    return sections


def sweep(
    frame: pd.DataFrame, order: Iterable[str] | None = None, metric: str | None = None
) -> list[Section]:
    """Summarise every variant, on the tasks and seeds that the variants outside the comparison were run on.

    A sweep often covers fewer tasks and seeds than the comparison; means are only comparable over the
    same ones, so all variants are summarised on the sweep's. Without variants outside `order`, or
    without `order`, these are all tasks and seeds. Variants are sorted by method, then by tuned parameters.

    Args:
        frame: As in `compare`.
        order: The variants of the main comparison.
        metric: As in `compare`.

    Returns:
        One section per benchmark and backbone, sorted by name.

    Raises:
        UserError: As in `compare`.
    """
    frame = _checked(frame, metric)
    sections = []
    for _, runs in frame.groupby(["benchmark", "backbone"]):
        extra = runs[~runs["variant"].isin(list(order or []))]
        if len(extra):
            runs = runs[runs["task"].isin(extra["task"]) & runs["seed"].isin(extra["seed"])]
        sections.append(_section(runs, _default_order(runs), metric))
    return sections


@dataclass(frozen=True)
class Results:
    """What every table and plot is made from.

    Attributes:
        frame: One row per run, as from `mosa.results.frame`; the order of the rows does not matter.
        order: Variants of the main comparison in display order; None: all.
        metric: Name of the metric to compare by; None: the one that the tasks of a section report.
        reference: Variant of the main comparison to compare the others with; None: see `Section.reference`.
    """

    frame: pd.DataFrame
    order: list[str] | None = None
    metric: str | None = None
    reference: str | None = None

    @cached_property
    def compared(self) -> list[Section]:
        """The sections of the main comparison, see `compare`.

        Raises:
            UserError: As in `compare`, or the reference is none of its variants.
        """
        sections = compare(self.frame, self.order, self.metric)
        known = list(dict.fromkeys(variant for section in sections for variant in section.variants))
        if self.reference is not None and self.reference not in known:
            raise unknown("reference", self.reference, known)
        return [replace(section, chosen_reference=self.reference) for section in sections]

    @cached_property
    def swept(self) -> list[Section]:
        """The sections with every variant, see `sweep`."""
        sections = sweep(self.frame, self.order, self.metric)
        return [replace(section, chosen_reference=self.reference) for section in sections]

    @cached_property
    def styles(self) -> dict[str, MethodStyle]:
        """The style of each method that occurs."""
        return method_styles(self.frame["method"])


def shown_names(runs: pd.DataFrame) -> dict[str, str]:
    """Return the name of each variant that readers see; one that two variants have is shown of neither."""
    if "display_name" not in runs:
        return {}
    names = runs.drop_duplicates("variant").set_index("variant")["display_name"]
    return names[~names.duplicated(keep=False)].to_dict()


def _checked(frame: pd.DataFrame, metric: str | None) -> pd.DataFrame:
    """Return the runs sorted by identity; raise unless they are comparable."""
    metrics = [get_metric(name).name for name in ([metric] if metric else _reported(frame))]
    missing = [column for column in (*_REQUIRED, *metrics) if column not in frame]
    if missing:
        raise UserError(f"the table of records lacks the column(s) {', '.join(missing)}")
    if frame.empty:
        raise UserError("there is no record to summarise: expected at least one finished run")
    for column, within in _MUST_AGREE.items():
        if column in frame:
            _check_agreement(frame, column, within)
    repeated = frame[frame.duplicated(_RUN)]
    if len(repeated):
        run = ", ".join(f"{name} {repeated.iloc[0][name]}" for name in _RUN)
        raise UserError(f"two records of the same run ({run}): keep one of them")
    return frame.sort_values(_RUN).assign(backbone_flops_per_image=backbone_flops)


def _check_agreement(frame: pd.DataFrame, column: str, within: list[str]) -> None:
    """Raise if a column has several values within one of the sets of runs."""
    within = [name for name in within if name in frame]
    values = frame[column].tolist()
    texts = [json.dumps(v, sort_keys=True) if isinstance(v, dict | list) else str(v) for v in values]
    distinct = frame[within].assign(found=texts).drop_duplicates()
    several = distinct[distinct.duplicated(within)].sort_values(within) if within else distinct[1:]
    if several.empty:
        return
    where = several.iloc[0][within]
    found = distinct.loc[(distinct[within] == where).all(axis=1), "found"]
    place = f" for {'/'.join(map(str, where))}" if within else ""
    raise UserError(
        f"records with different {column} cannot be compared{place}: got {', '.join(sorted(found))}; select "
        "the records of one of them"
    )


def _reported(runs: pd.DataFrame) -> list[str]:
    """Return the names of the metrics that the tasks of the runs report, sorted."""
    if "metric" not in runs:
        return [_DEFAULT_METRIC]
    return sorted(runs["metric"].fillna(_DEFAULT_METRIC).unique())


def _metric(runs: pd.DataFrame, name: str | None) -> Metric:
    """Return the metric of this name, by default the one that all tasks of the runs report."""
    names = [name] if name else _reported(runs)
    if len(names) > 1:
        first = runs.iloc[0]
        raise UserError(
            f"the tasks of {first['benchmark']} on {first['backbone']} report different metrics "
            f"({', '.join(names)}): name the one to compare by, such as --metric {names[0]}"
        )
    return get_metric(names[0])


def _section(runs: pd.DataFrame, variants: list[str], metric_name: str | None) -> Section:
    first = runs.iloc[0]
    metric = _metric(runs, metric_name)
    groups = _groups(runs)
    tasks = [task for names in groups.values() for task in names]
    scores = runs.pivot(index=["variant", "seed"], columns="task", values=metric.name)

    per_seed = {("task", task): scores[task] for task in tasks}
    for group, names in groups.items():
        per_seed["group", group] = scores[names].mean(axis=1, skipna=False)
    per_seed[MEAN_OVER_TASKS] = scores[tasks].mean(axis=1, skipna=False)
    group_means = pd.DataFrame({group: per_seed["group", group] for group in groups})
    per_seed[MEAN_OF_GROUPS] = group_means.mean(axis=1, skipna=False)
    per_seed = pd.DataFrame(per_seed)

    over_seeds = per_seed.groupby("variant")
    return Section(
        metric=metric,
        benchmark=str(first["benchmark"]),
        backbone=str(first["backbone"]),
        eval_split=str(first["eval_split"]),
        protocol=f"{first['protocol']} v{first['protocol_version']}",
        groups=groups,
        methods=dict(sorted(zip(runs["variant"], runs["method"], strict=True))),
        seeds=sorted(runs["seed"].unique().tolist()),
        runs=runs,
        per_seed=per_seed,
        mean=over_seeds.mean().round(EXACT).reindex(variants),
        sd=over_seeds.std(ddof=1).reindex(variants),
        n=over_seeds.count().reindex(variants, fill_value=0),
        parameters=_parameters(runs, len(tasks)).reindex(variants),
        compute=_compute(runs, len(tasks)).reindex(variants),
        names=shown_names(runs),
    )


def _groups(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Return the tasks of each group in the benchmark's own order, or by name where it is not known."""
    from mosa.data import catalogue

    benchmark = runs["benchmark"].iloc[0]
    known = catalogue.list_tasks(benchmark) if benchmark in catalogue.list_benchmarks() else []
    place = {task: index for index, task in enumerate(known)}
    rows = runs[["group", "task"]].drop_duplicates().itertuples(index=False)
    groups: dict[str, list[str]] = {}
    for group, task in sorted(rows, key=lambda row: (place.get(row.task, len(place)), row.group, row.task)):
        groups.setdefault(group, []).append(task)
    return groups


def _parameters(runs: pd.DataFrame, num_tasks: int) -> pd.DataFrame:
    counts = runs.groupby(["variant", "task"])[["adapter_parameters", "total_parameters"]].mean()
    by_variant = counts.groupby("variant")
    incomplete = by_variant.size() < num_tasks
    table = {}
    for name in ("adapter", "total"):
        column = by_variant[f"{name}_parameters"]
        low, high = column.min(), column.max()
        table[f"{name}_mean"] = column.mean().mask(incomplete & (low != high))
        table[f"{name}_min"], table[f"{name}_max"] = low, high
    # A head has the task's size: the totals of some tasks do not give those of others.
    table["total_mean"] = table["total_mean"].mask(incomplete)
    return pd.DataFrame(table)


def _compute(runs: pd.DataFrame, num_tasks: int) -> pd.DataFrame:
    columns = ["epochs", "train_examples", "passes", "train_flops_per_image"]
    epochs, examples, passes, flops = (runs.get(column, pd.Series(pd.NA, runs.index)) for column in columns)
    images = epochs.astype("Float64") * examples.astype("Float64")
    totals = runs[["variant", "task"]].assign(
        image_passes=images * passes.astype("Float64"), flops=images * flops.astype("Float64")
    )
    by_variant = totals.groupby(["variant", "task"]).mean().groupby("variant")
    complete = by_variant.size() == num_tasks
    return by_variant.mean().astype(float).where(complete)


def _default_order(runs: pd.DataFrame) -> list[str]:
    variants = runs.groupby("variant").agg(
        method=("method", "first"), size=("adapter_parameters", "max"), name=("variant", "first")
    )
    place = {method: index for index, method in enumerate(method_order(variants["method"]))}
    rows = sorted(variants.itertuples(index=False), key=lambda row: (place[row.method], row.size, row.name))
    return [row.name for row in rows]
