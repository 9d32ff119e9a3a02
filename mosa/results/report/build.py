"""What the report shows, gathered from records, and written with a template that escapes every string."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from mosa.base.errors import UserError
from mosa.base.files import written_atomically
from mosa.data.metrics import Metric, get_metric
from mosa.experiment.curves import is_number
from mosa.experiment.outputs import KINDS, read_outputs
from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Results, Section, count
from mosa.results.paired import differences
from mosa.results.plots.chart import Axis, Chart, Point, Series
from mosa.results.plots.comparison import comparison_chart
from mosa.results.plots.scaling import cost_chart
from mosa.results.provenance import code_of, mixture
from mosa.results.style import MethodStyle, method_styles
from mosa.results.tables.columns import (
    Column,
    by_task,
    caption,
    compute_columns,
    heading,
    in_words,
    overview,
)
from mosa.results.tables.efficiency import efficiency_columns, efficiency_table
from mosa.search.choose import describe
from mosa.search.table import scope_of

_FOLDER = Path(__file__).parent
_TUNED_BY = get_metric("top1")  # what `mosa.search` compares trials by
_SMALL = 0.25  # of the backbone's parameters: what counts as parameter-efficient in the summary
_AXES = ("adapter_parameters", "training_flops", "image_passes", "train_seconds", "peak_memory_mib")
# Names of plotly's symbols for matplotlib's markers (mosa.results.style).
_SYMBOLS = {
    "X": "x", "x": "x-thin", "P": "cross", "s": "square", "o": "circle", "D": "diamond", "^": "triangle-up",
    "v": "triangle-down", "p": "pentagon", "h": "hexagon", "<": "triangle-left", ">": "triangle-right",
    "*": "star",
}  # fmt: skip
_DASHES = {"--": "dash", "-": "solid", ":": "dot", "-.": "dashdot"}


class Missing(NamedTuple):
    """A run without a record, and why."""

    path: str
    reason: str


def missing_runs(paths: Iterable[Path], results: Path) -> list[Missing]:
    """Return the runs that left no record, with the last line of their logs.

    Args:
        paths: Where the records of all runs would be.
        results: The results folder, which has runs/ and logs/.
    """
    found = []
    for path in paths:
        if path.is_file():
            continue
        log = results / "logs" / "train" / path.relative_to(results / "runs").with_suffix(".log")
        found.append(Missing(path.as_posix(), _last_words(log)))
    return found


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "not run yet"
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["its log is empty"])[-1].removeprefix("error: ")


def write_report(
    frame: pd.DataFrame,
    output: Path,
    order: Iterable[str] | None = None,
    title: str = "Benchmark",
    config: str = "",
    choices: Sequence[dict[str, Any]] = (),
    missing: Sequence[Missing] = (),
    metric: str | None = None,
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Write the report; the same records give the same bytes.

    Args:
        frame: One row per run, as from `mosa.records.read_table`.
        output: The HTML file.
        order: Variants of the comparison in display order; None: all.
        title: Name of the experiment.
        config: The config, as YAML, to be shown.
        choices: What was tuned, as in tables/chosen.json.
        missing: Runs without a record.
        left_out: Why variants have no runs on a backbone, by both.
        metric: Name of the metric to compare by; None: the one that the tasks report.

    Raises:
        UserError: The records cannot stand in one table, or the file cannot be written.
    """
    frame = frame.sort_values(["benchmark", "task", "backbone", "variant", "seed"])
    results = Results(frame, None if order is None else list(order), metric)
    sections = results.compared
    metrics = _metrics_of_runs(sections)
    charts = _charts(results, choices)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html").render(
        title=title,
        sections=[
            _section(section, f"section{number}") | charts["sections"][number]
            for number, section in enumerate(sections)
        ],
        totals=_totals(frame, missing),
        metrics=metrics,
        tuned_by=_TUNED_BY,
        trials=charts["trials"],
        runs=[_run(row, metrics) for row in frame.itertuples(index=False)],
        choices=[_choice(choice) for choice in choices],
        missing=missing,
        left_out=left_out or {},
        files=[
            {"kind": kind, "names": ", ".join(output.files), "shows": output.described}
            for kind in KINDS
            for output in read_outputs(kind)
        ],
        provenance=_provenance(frame),
        config=config,
        split=", ".join(sorted(frame["eval_split"].unique())),
        # Not text of ours to be escaped: the style sheet and scripts, and data escaped for a script element.
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
        script=Markup((_FOLDER / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(_plotly().replace("</script", "<\\/script")),
        data=Markup(_json_in_html(_data(results, charts))),
        MISSING=MISSING,
    )
    with written_atomically(output) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError("the report needs plotly, for its plots: pip install plotly") from None
    return get_plotlyjs()


def _json_in_html(data: Any) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# --- words


def _totals(frame: pd.DataFrame, missing: Sequence[Missing]) -> dict[str, Any]:
    hours = frame["total_seconds"].sum() / 3600
    return {
        "runs": len(frame),
        "wanted": len(frame) + len(missing),
        "variants": frame["variant"].nunique(),
        "tasks": frame[["benchmark", "task"]].drop_duplicates().shape[0],
        "backbones": frame["backbone"].nunique(),
        "seeds": frame["seed"].nunique(),
        "hours": f"{hours:.1f}" if hours >= 0.1 else f"{hours:.2f}",
        "last": max(frame["created"])[:16].replace("T", " ") + " UTC",
    }


def _summary(section: Section) -> list[str]:
    """Say in words what the comparison found."""
    means = section.mean[MEAN_OVER_TASKS].dropna()
    if means.empty:
        return ["No variant has all tasks with one seed, so there is no mean to compare."]
    sentences = [
        f"{'Highest' if section.sign > 0 else 'Lowest'} mean over {count(len(section.task_names), 'task')}: "
        f"{_score(section, _best(section, means))}."
    ]
    if "model_parameters" in section.runs:
        whole = section.runs["model_parameters"].median()
        small = means[section.parameters["adapter_mean"].reindex(means.index) < _SMALL * whole]
        if len(small) and _best(section, small) != _best(section, means):
            best = _score(section, _best(section, small))
            sentences.append(f"Among those that tune less than {_SMALL:.0%} of the parameters: {best}.")
    unequal = section.n[MEAN_OVER_TASKS]
    short = [variant for variant in section.variants if unequal[variant] < section.full_n]
    if short:
        sentences.append(f"Runs are missing of {', '.join(short)}: their means are marked, or left out.")
    return sentences + [sentence for sentence in [mixture(section.runs)] if sentence]


def _best(section: Section, means: pd.Series) -> str:
    return (section.sign * means).idxmax()


def _score(section: Section, variant: str) -> str:
    sd = section.sd.loc[variant, MEAN_OVER_TASKS]
    spread = "" if pd.isna(sd) else f" ± {section.shown(sd)}"
    score = f"{variant}, {section.shown(section.mean.loc[variant, MEAN_OVER_TASKS])}{spread}"
    return f"{score} {section.metric.unit}".rstrip()


# --- tables


def _section(section: Section, name: str) -> dict[str, Any]:
    columns = overview(section) + compute_columns(section) + by_task(section)
    return {
        "id": name,
        "heading": heading(section),
        "summary": _summary(section),
        "differences": [difference.sentence for difference in differences(section)],
        "columns": [{"title": " ".join(column.title.split()), "group": column.group} for column in columns],
        "rows": [
            {"variant": variant, "method": section.methods.get(variant, MISSING), "cells": cells}
            for variant, cells in zip(section.variants, _cells(columns), strict=True)
        ],
        "caption": caption(section),
        "metric_in_words": in_words(section),
        "efficiency": _efficiency(section),
    }


def _cells(columns: list[Column]) -> list[list[dict[str, Any]]]:
    shown = (
        [
            {
                "value": cell.value,
                "sd": cell.sd,
                "note": cell.note,
                "rank": "best" if cell.best else "second" if cell.second else "",
                "sort": "" if cell.value == MISSING else cell.value.replace(",", ""),
            }
            for cell in column.cells
        ]
        for column in columns
    )
    return [list(row) for row in zip(*shown, strict=True)]


def _efficiency(section: Section) -> dict[str, Any]:
    columns = efficiency_columns(section)
    columns.pop("pareto")
    rows = []
    for row in efficiency_table([section]).to_dict("records"):
        cells = [
            {"sort": "", "value": MISSING}
            if pd.isna(row[name])
            else {"sort": row[name], "value": form.format(row[name])}
            for name, (_, form) in columns.items()
        ]
        rows.append({"variant": row["variant"], "cells": cells, "pareto": bool(row["pareto"])})
    return {"titles": [title for title, _ in columns.values()], "rows": rows}


def _metrics_of_runs(sections: list[Section]) -> list[Metric]:
    """Return the metrics that the list of runs shows: those of the sections, each once."""
    return list({section.metric.name: section.metric for section in sections}.values())


def _name(row: Any) -> str:
    return f"{row.benchmark}/{row.task}/{row.backbone}/{row.variant}/seed{row.seed}"


def _run(row: Any, metrics: list[Metric]) -> dict[str, Any]:
    # One digit more than in the tables of means.
    scores = [f"{getattr(row, metric.name):.{metric.decimals + 1}f}" for metric in metrics]
    return {
        "name": _name(row),
        "benchmark": row.benchmark,
        "task": row.task,
        "backbone": row.backbone,
        "variant": row.variant,
        "seed": row.seed,
        "scores": scores,
        "lr": f"{row.lr:g}",
        "epochs": int(row.epochs),
        "train_loss": f"{row.train_loss[-1]:.4f}",
        "seconds": f"{row.total_seconds:.1f}",
    }


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "scope": scope_of(choice),
        "backbone": choice["backbone"],
        "variant": choice["variant"],
        "chosen": describe(choice["chosen"]),
        "score": _digits(choice[_TUNED_BY.name]),
        "at_edge": ", ".join(choice["at_edge"]),
        "trials": [
            {
                "what": describe(trial),
                "status": trial["status"],
                "score": MISSING if trial[_TUNED_BY.name] is None else _digits(trial[_TUNED_BY.name]),
                "note": "; ".join(trial["notes"]),
                "chosen": all(trial[key] == value for key, value in choice["chosen"].items()),
            }
            for trial in choice["trials"]
        ],
        "rule": choice["rule"],
    }


def _digits(score: float) -> str:
    return f"{score:.{_TUNED_BY.decimals + 1}f}"


def _provenance(frame: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return what the results come from: each thing, and all its values."""
    versions = sorted({f"{name} {version}" for row in frame["versions"] for name, version in row.items()})
    commits = sorted(set(map(code_of, frame["commit"], frame["dirty"])))
    data = frame[["benchmark", "task", "data_digest"]].drop_duplicates().itertuples(index=False)
    weights = frame[["backbone", "architecture", "weights", "weights_sha256"]].drop_duplicates()
    return [
        ("Code, by commit", commits),
        ("Protocol", sorted(set(frame["protocol"] + " v" + frame["protocol_version"].astype(str)))),
        ("Machines", sorted(frame["device"].unique())),
        ("Versions", versions),
        ("Data, by SHA-256", sorted(f"{row.benchmark}/{row.task} {row.data_digest}" for row in data)),
        (
            "Weights, by SHA-256",
            sorted(
                f"{row.backbone}: {row.architecture}, {row.weights}, "
                f"{row.weights_sha256 if isinstance(row.weights_sha256, str) else 'no file'}"
                for row in weights.itertuples(index=False)
            ),
        ),
    ]


# --- data of the plots and of the details


def _charts(results: Results, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the charts of the page: of each section against costs and by group, and the trials."""
    methods = [*results.frame["method"], *(choice["method"] for choice in choices)]
    styles = method_styles(methods)
    sections = []
    for section, swept in zip(results.compared, results.swept, strict=True):
        against = {name: cost_chart(swept, name, styles, results.order or ()) for name in _AXES}
        known = {name: chart for name, chart in against.items() if any(s.points for s in chart.series)}
        sections.append({"costs": known, "bars": comparison_chart(section, styles)})
    return {"sections": sections, "trials": _trials_chart(choices, styles)}


def _data(results: Results, charts: dict[str, Any]) -> dict[str, Any]:
    frame = results.frame
    shared: dict[str, int] = {}
    runs = {}
    for row in frame.itertuples(index=False):
        details = {
            "method": row.method, "options": row.options, "training": row.recipe, "data": row.data_digest,
            "weights": row.weights_sha256 if isinstance(row.weights_sha256, str) else row.weights,
            "versions": row.versions, "device": row.device,
            "code": code_of(row.commit, row.dirty),
        }  # fmt: skip
        number = shared.setdefault(json.dumps(details, sort_keys=True), len(shared))
        runs[_name(row)] = [
            number,
            [float(f"{loss:.4g}") for loss in row.train_loss],
            row.created,
            [round(value, 2) for value in (row.prepare_seconds, row.train_seconds, row.eval_seconds)],
            round(row.peak_memory_mib),
            round(row.images_per_second),
            row.eval_split,
        ]
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
        "shared": [json.loads(text) for text in shared],
    }


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
        y=Axis(f"{_TUNED_BY.label} on val; large: chosen", unit=_TUNED_BY.unit),
        series=tuple(
            Series(
                f"{scope_of(choice)}, {choice['variant']}",
                styles[choice["method"]],
                tuple(
                    Point(
                        choice["variant"], trial[section][key], trial[_TUNED_BY.name],
                        _digits(trial[_TUNED_BY.name]),
                        marked=trial[section][key] == choice["chosen"][section][key],
                    )
                    for trial in _scored(choice)
                ),
                joined=True,
            )
            for choice, section, key in drawn
        ),
    )  # fmt: skip


def _scored(choice: dict[str, Any]) -> list[dict[str, Any]]:
    return [trial for trial in choice["trials"] if trial[_TUNED_BY.name] is not None]


def _searched_number(choice: dict[str, Any]) -> tuple[str, str]:
    """Return section and key of the first searched number; ("", "") if there is none."""
    for section in ("training", "options"):
        for key in choice["trials"][0][section]:
            if all(is_number(trial[section][key]) for trial in _scored(choice)):
                return section, key
    return "", ""
