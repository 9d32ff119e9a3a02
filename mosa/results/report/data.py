"""What the page's script computes with, draws and shows: the numbers of every section, and every run."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from scipy import stats

from mosa.base.words import count
from mosa.data.metrics import METRICS, Metric
from mosa.experiment.curves import is_number
from mosa.results.aggregate import MISSING, Results, Section, shown_names
from mosa.results.choices import scope_of
from mosa.results.costs import COSTS, MIB, about_features, measured
from mosa.results.learned import COLUMN, without_learning
from mosa.results.plots.chart import Axis, Chart, Point, Series
from mosa.results.plots.scaling import REFERENCES, SIZE_OPTIONS, method_curves
from mosa.results.provenance import code_of
from mosa.results.settings import section_settings, value_text
from mosa.results.stats import CONFIDENCE
from mosa.results.style import MethodStyle, method_styles
from mosa.search.choose import describe, metric_of

_DECIMALS = 12  # of a score that the page gets, so that its means are exact


def page_data(results: Results, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the data that the page's script needs at once: all of the sections, and the trials."""
    styles = method_styles([*results.frame["method"], *(choice["method"] for choice in choices)])
    swept = {(one.benchmark, one.backbone): one for one in results.swept}
    pairs = [(one, swept[one.benchmark, one.backbone]) for one in results.compared]
    sections = [_Numbers(section, sweep).data(styles, results.order or ()) for section, sweep in pairs]
    most = max(section.full_n for section in [*results.compared, *results.swept])
    quantiles = [0, 0, *(float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) for n in range(2, most + 1))]
    return {
        "sections": sections,
        "metrics": {metric.name: _metric(metric) for metric in METRICS.values()},
        "costs": {name: {"label": cost.label, "form": cost.form} for name, cost in COSTS.items()},
        "quantiles": quantiles,
        "trials": trials_chart(choices, styles).as_data() if choices else None,
    }


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name, "label": metric.label, "unit": metric.unit, "decimals": metric.decimals,
        "higher": metric.higher_is_better, "least": 30 * 10**-metric.decimals, "floor": metric.floor,
    }  # fmt: skip


class _Numbers:
    """The scores and costs of a section and of its sweep, by variant and task."""

    def __init__(self, section: Section, swept: Section) -> None:
        self.section, self.swept = section, swept
        runs = pd.concat([section.runs, swept.runs])
        self.runs = runs[~runs.index.duplicated()]
        self.variants = list(dict.fromkeys([*section.variants, *swept.variants]))
        groups = {task: group for of in (section, swept) for group, ts in of.groups.items() for task in ts}
        self.tasks = [*section.task_names, *(task for task in groups if task not in section.task_names)]
        self.groups = groups
        self.seeds = sorted({*section.seeds, *swept.seeds})

    def data(self, styles: dict[str, MethodStyle], order: Sequence[str]) -> dict[str, Any]:
        """Return all of it as what JSON can hold."""
        section, swept = self.section, self.swept
        runs = self.runs
        known = [name for name in METRICS if name in runs and runs[name].notna().any()]
        names = {**section.names, **swept.names}
        whole = (
            float(section.runs["model_parameters"].median()) if "model_parameters" in section.runs else None
        )
        return {
            "metric": section.metric.name,
            "benchmark": section.benchmark,
            "backbone": section.backbone,
            "split": section.eval_split,
            "tasks": [{"name": task, "group": self.groups[task]} for task in self.tasks],
            "seeds": self.seeds,
            "variants": [self._variant(variant, names, styles) for variant in self.variants],
            "compared": self._part(section, order),
            "swept": self._part(swept, order),
            "reference": self.variants.index(section.reference),
            "model_parameters": whole,
            "scores": {name: self._by_seed(name) for name in [section.metric.name, *known]},
            "costs": self._costs(runs),
            "swept_costs": self._costs(swept.runs) if len(swept.runs) < len(runs) else None,
            "about_features": about_features([*swept.methods.values(), *section.methods.values()]),
            "nothing": self._nothing(),
        }

    def _part(self, part: Section, order: Sequence[str]) -> dict[str, Any]:
        """Return what the comparison, or the sweep, is over, and its curves."""
        # Both have the order of the sweep, by method and size.
        variants = [v for v in dict.fromkeys([*self.swept.variants, *part.variants]) if v in part.methods]
        by_size = replace(part, mean=part.mean.reindex(variants))
        return {
            "variants": self._places(self.variants, part.variants),
            "tasks": self._places(self.tasks, part.task_names),
            "seeds": self._places(self.seeds, part.seeds),
            "curves": [self._curve(part, *curve) for curve in method_curves(by_size, order)],
        }

    def _curve(self, part: Section, label: str, variants: list[str]) -> dict[str, Any]:
        variants = sorted(variants, key=part.parameters["adapter_max"].to_dict().get)
        settings = section_settings(part)
        sizes = {
            name: [value_text(settings[v][name]) if name in settings[v] else None for v in variants]
            for name in SIZE_OPTIONS
        }
        return {
            "label": label,
            "variants": self._places(self.variants, variants),
            "reference": part.methods[variants[0]] in REFERENCES,
            "sizes": {name: texts for name, texts in sizes.items() if any(texts)},
        }

    def _variant(self, name: str, names: dict[str, str], styles: dict[str, MethodStyle]) -> dict[str, Any]:
        method = self.swept.methods.get(name) or self.section.methods.get(name)
        style = styles[method]._asdict() if method else {"color": "#767676", "marker": "x", "dash": "-"}
        return {"id": name, "name": names.get(name, name), "method": method, **style}

    @staticmethod
    def _places(everything: list, some: Sequence) -> list[int]:
        place = {name: index for index, name in enumerate(everything)}
        return [place[name] for name in some]

    def _by_seed(self, metric: str) -> list[list[list[float | None] | None]]:
        """Return scores by variant, task and seed; None where there is none."""
        variant, task = ({n: i for i, n in enumerate(names)} for names in (self.variants, self.tasks))
        seed = {number: place for place, number in enumerate(self.seeds)}
        table: list = [[None] * len(self.tasks) for _ in self.variants]
        rows = self.runs[["variant", "task", "seed", metric]].itertuples(index=False, name=None)
        for name, of, number, score in rows:
            row = table[variant[name]]
            if row[task[of]] is None:
                row[task[of]] = [None] * len(self.seeds)
            row[task[of]][seed[number]] = None if pd.isna(score) else round(score, _DECIMALS)
        return table

    def _costs(self, runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
        """Return what is known of each cost: means over the seeds of the runs by variant and task."""
        images = measured(runs, "epochs") * measured(runs, "train_examples")
        columns = {name: measured(runs, name) for name in ("train_seconds", "peak_memory_mib")} | {
            "adapter_parameters": measured(runs, "adapter_parameters"),
            "total_parameters": measured(runs, "total_parameters"),
            "storage_mib": 4 * measured(runs, "total_parameters") / MIB,
            "training_flops": images * measured(runs, "train_flops_per_image"),
            "image_passes": images * measured(runs, "passes"),
            "inference_overhead": measured(runs, "inference_flops_per_image"),
        }
        names = [*COSTS, "total_parameters"]
        found = {name: {"values": self._by_task(runs, columns[name])} for name in names}
        found["adapter_parameters"]["same"] = True
        backbone = self._by_task(runs, measured(runs, "backbone_flops_per_image"))
        found["inference_overhead"]["per"] = backbone
        return {name: cost for name, cost in found.items() if all(map(_any, cost.values()))}

    def _by_task(self, runs: pd.DataFrame, values: pd.Series) -> list[list[float | None]]:
        means = values.groupby([runs["variant"], runs["task"]]).mean().to_dict()
        return [[_short(means.get((variant, task))) for task in self.tasks] for variant in self.variants]

    def _nothing(self) -> list[list[int]]:
        """Return variant, task and seed of the runs that learned nothing."""
        return [
            [self.variants.index(run.variant), self.tasks.index(run.task), self.seeds.index(run.seed)]
            for run in without_learning(self.runs)[["variant", "task", "seed"]].itertuples(index=False)
        ]


def _any(values: Any) -> bool:
    return values is True or any(value is not None for row in values for value in row)


def _short(value: float | None, digits: int = 10) -> float | None:
    return None if value is None or pd.isna(value) else float(f"{value:.{digits}g}")


# --- the trials of a search


def trials_chart(choices: Sequence[dict[str, Any]], styles: dict[str, MethodStyle]) -> Chart:
    """Return the trials of each choice over the first number that was searched."""
    found = [(choice, *_searched_number(choice)) for choice in choices]
    several = len({choice["backbone"] for choice in choices}) > 1
    drawn = [(choice, section, key) for choice, section, key in found if key]
    values = [trial[section][key] for choice, section, key in drawn for trial in _scored(choice)]
    return Chart(
        title="Trials",
        x=Axis(
            ", ".join(dict.fromkeys(key for _, _, key in drawn)),
            "log" if min(values, default=0) > 0 else "linear",
        ),
        y=Axis(f"{tuned_by(choices)} on val; large: chosen", unit=_unit(choices), floor=_floor(choices)),
        series=tuple(
            Series(
                ", ".join([scope_of(choice), *[choice["backbone"]] * several, choice["variant"]]),
                styles[choice["method"]],
                _trial_points(choice, section, key),
                joined=_is_alone(choice, section, key),
            )
            for choice, section, key in drawn
        ),
    )


def _trial_points(choice: dict[str, Any], section: str, key: str) -> tuple[Point, ...]:
    """Return a point per trial, from left to right; its name says what else was tried with it."""
    points = []
    several = len({trial["epochs"] for trial in _scored(choice)}) > 1
    for trial in _scored(choice):
        score = trial["score"]
        length = count(trial["epochs"], "epoch") if several else ""
        status = trial["status"] if trial["status"] != "complete" else ""
        chosen = all(trial[part] == values for part, values in choice["chosen"].items())
        parts = [choice["variant"], describe(_others(trial, section, key)), length, status]
        name = ", ".join(filter(None, parts))
        points.append(Point(name, trial[section][key], score, with_digits(choice, score), marked=chosen))
    return tuple(sorted(points, key=lambda point: point.x))


def _others(trial: dict[str, Any], section: str, key: str) -> dict[str, Any]:
    """Return what a trial tried beside one key."""
    parts = {part: dict(trial[part]) for part in ("training", "options")}
    del parts[section][key]
    return parts


def _is_alone(choice: dict[str, Any], section: str, key: str) -> bool:
    """Return whether the trials differ in one key only, so that a line may join them."""
    scored = _scored(choice)
    return all(
        _others(trial, section, key) == _others(scored[0], section, key)
        and trial["epochs"] == scored[0]["epochs"]
        for trial in scored
    )


def _scored(choice: dict[str, Any]) -> list[dict[str, Any]]:
    return [trial for trial in choice["trials"] if trial["score"] is not None]


def _searched_number(choice: dict[str, Any]) -> tuple[str, str]:
    """Return section and key of the first searched number; ("", "") if there is none."""
    for section in ("training", "options"):
        for key in choice["trials"][0][section]:
            if all(is_number(trial[section][key]) for trial in _scored(choice)):
                return section, key
    return "", ""


def with_digits(choice: dict[str, Any], score: float) -> str:
    """Return the score of a trial as it is printed, with one digit more than in tables of means."""
    return metric_of(choice["search"]).shown(score, more=1)


def tuned_by(choices: Sequence[dict[str, Any]]) -> str:
    """Return what trials were compared by, as the title of their scores."""
    return " or ".join(dict.fromkeys(metric_of(choice["search"]).label for choice in choices))


def _unit(choices: Sequence[dict[str, Any]]) -> str:
    units = {metric_of(choice["search"]).unit for choice in choices}
    return units.pop() if len(units) == 1 else ""


def _floor(choices: Sequence[dict[str, Any]]) -> float | None:
    floors = [metric_of(choice["search"]).floor for choice in choices]
    return None if None in floors else 0.0


# --- the runs


def run_data(frame: pd.DataFrame, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return every run, for the list of runs and their details, which the script reads when they are seen.

    Args:
        frame: One row per run.
        metrics: What the list shows of each run.

    Returns:
        `head`, the titles of the list's columns; `runs`, a list per run; and `names` and `shared`, what
        many runs have in common, which they refer to by its place.
    """
    shown = shown_names(frame)
    shared: dict[str, int] = {}
    names: dict[str, int] = {}
    runs = []
    columns = {name: list(frame[name]) for name in (metric.name for metric in metrics)}
    for number, row in enumerate(frame.itertuples(index=False)):
        common = {
            "method": row.method, "options": row.options, "training": row.recipe, "data": row.data_digest,
            "weights": row.weights_sha256 if isinstance(row.weights_sha256, str) else row.weights,
            "versions": row.versions, "device": row.device, "code": code_of(row.commit, row.dirty),
        }  # fmt: skip
        texts = (
            row.benchmark, row.task, row.backbone, row.variant, shown.get(row.variant, row.variant),
            row.method, row.eval_split, row.device_type,
        )  # fmt: skip
        runs.append([
            [names.setdefault(text, len(names)) for text in texts],
            row.seed,
            # One digit more than in the tables of means.
            [_score(metric, columns[metric.name][number]) for metric in metrics],
            f"{row.lr:g}",
            [float(f"{loss:.4g}") for loss in row.train_loss],
            [round(value, 2) for value in (row.prepare_seconds, row.train_seconds, row.eval_seconds)],
            round(row.total_seconds, 1),
            row.created,
            round(row.peak_memory_mib),
            round(row.images_per_second),
            shared.setdefault(json.dumps(common, sort_keys=True), len(shared)),
            getattr(row, COLUMN, ""),
            *_curves(row),
        ])  # fmt: skip
    return {
        "metrics": [metric.label for metric in metrics],
        "runs": runs,
        "names": list(names),
        "shared": [json.loads(text) for text in shared],
    }


def _score(metric: Metric, value: float) -> str:
    return MISSING if pd.isna(value) else metric.shown(value, more=1)


def _curves(row: Any) -> list[dict[str, Any]]:
    """Return terms of the loss and metrics of val by epoch, in a list; an empty one where there are none."""
    found = {
        kind: {name: [_short(value, 5) for value in values] for name, values in curves.items()}
        for kind, curves in (("terms", row.loss_terms), ("val", row.val_curves))
        if curves
    }
    return [found] if found else []
