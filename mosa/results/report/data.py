"""What the page's script draws and shows: charts, and the details of every run."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mosa.data.metrics import get_metric
from mosa.experiment.curves import is_number
from mosa.results.aggregate import Results
from mosa.results.choices import scope_of
from mosa.results.plots.chart import Axis, Chart, Point, Series
from mosa.results.plots.comparison import comparison_chart
from mosa.results.plots.scaling import cost_chart
from mosa.results.provenance import code_of
from mosa.results.style import MethodStyle, method_styles
from mosa.search.choose import describe

TUNED_BY = get_metric("top1")  # what `mosa.search` compares trials by
_AXES = ("adapter_parameters", "training_flops", "image_passes", "train_seconds", "peak_memory_mib")
# Names of plotly's symbols for matplotlib's markers (mosa.results.style).
_SYMBOLS = {
    "X": "x", "x": "x", "P": "cross", "s": "square", "o": "circle", "D": "diamond", "^": "triangle-up",
    "v": "triangle-down", "p": "pentagon", "h": "hexagon", "<": "triangle-left", ">": "triangle-right",
    "*": "star",
}  # fmt: skip
_DASHES = {"--": "dash", "-": "solid", ":": "dot", "-.": "dashdot"}


def page_charts(results: Results, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the charts of the page: of each section against costs and by group, and the trials."""
    methods = [*results.frame["method"], *(choice["method"] for choice in choices)]
    styles = method_styles(methods)
    sections = []
    for section, swept in zip(results.compared, results.swept, strict=True):
        against = {name: cost_chart(swept, name, styles, results.order or ()) for name in _AXES}
        known = {name: chart for name, chart in against.items() if any(s.points for s in chart.series)}
        bars = comparison_chart(section, styles)
        sections.append({"costs": known, "bars": bars, "first": next(iter(known.values()), bars)})
    return {"sections": sections, "trials": _trials_chart(choices, styles)}


def _trials_chart(choices: Sequence[dict[str, Any]], styles: dict[str, MethodStyle]) -> Chart:
    """Return the trials of each choice over the first number that was searched."""
    found = [(choice, *_searched_number(choice)) for choice in choices]
    drawn = [(choice, section, key) for choice, section, key in found if key]
    values = [trial[section][key] for choice, section, key in drawn for trial in _scored(choice)]
    return Chart(
        title="Trials",
        x=Axis(
            ", ".join(dict.fromkeys(key for _, _, key in drawn)),
            "log" if min(values, default=0) > 0 else "linear",
        ),
        y=Axis(f"{TUNED_BY.label} on val; large: chosen", unit=TUNED_BY.unit),
        series=tuple(
            Series(
                f"{scope_of(choice)}, {choice['variant']}",
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
    for trial in _scored(choice):
        score = trial[TUNED_BY.name]
        chosen = all(trial[part] == values for part, values in choice["chosen"].items())
        name = ", ".join(filter(None, [choice["variant"], describe(_others(trial, section, key))]))
        points.append(Point(name, trial[section][key], score, with_digits(score), marked=chosen))
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
    return [trial for trial in choice["trials"] if trial[TUNED_BY.name] is not None]


def _searched_number(choice: dict[str, Any]) -> tuple[str, str]:
    """Return section and key of the first searched number; ("", "") if there is none."""
    for section in ("training", "options"):
        for key in choice["trials"][0][section]:
            if all(is_number(trial[section][key]) for trial in _scored(choice)):
                return section, key
    return "", ""


def with_digits(score: float) -> str:
    """Return the score of a trial as it is printed, with one digit more than in tables of means."""
    return TUNED_BY.shown(score, more=1)


def run_name(row: Any) -> str:
    """Return the name of a run: the path of its record below runs/, without its suffix."""
    return f"{row.benchmark}/{row.task}/{row.backbone}/{row.variant}/seed{row.seed}"


def page_data(results: Results, charts: dict[str, Any]) -> dict[str, Any]:
    """Return the data of the page's script.

    Args:
        results: The records, and how to compare them.
        charts: The charts, from `page_charts`.
    """
    runs, shared = _details(results.frame)
    return {
        "sections": {
            f"section{number}": {
                "costs": {name: chart.as_data() for name, chart in section["costs"].items()},
                "bars": section["bars"].as_data(),
            }
            for number, section in enumerate(charts["sections"])
        },
        "trials": charts["trials"].as_data(),
        "symbols": _SYMBOLS,
        "dashes": _DASHES,
        "runs": runs,
        "shared": shared,
    }


def _details(frame: pd.DataFrame) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """Return the details of each run by its name, and those that many runs share, which are referred to."""
    shared: dict[str, int] = {}
    runs = {}
    for row in frame.itertuples(index=False):
        common = {
            "method": row.method, "options": row.options, "training": row.recipe, "data": row.data_digest,
            "weights": row.weights_sha256 if isinstance(row.weights_sha256, str) else row.weights,
            "versions": row.versions, "device": row.device, "code": code_of(row.commit, row.dirty),
        }  # fmt: skip
        runs[run_name(row)] = [
            shared.setdefault(json.dumps(common, sort_keys=True), len(shared)),
            [float(f"{loss:.4g}") for loss in row.train_loss],
            row.created,
            [round(value, 2) for value in (row.prepare_seconds, row.train_seconds, row.eval_seconds)],
            round(row.peak_memory_mib),
            round(row.images_per_second),
            row.eval_split,
        ]
    return runs, [json.loads(text) for text in shared]
