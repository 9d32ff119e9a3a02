"""The page: what it shows, gathered from records, in a template that escapes every string."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from mosa.base.files import written_atomically
from mosa.base.words import count
from mosa.data.metrics import METRICS, Metric
from mosa.experiment.outputs import KINDS, read_outputs
from mosa.results.aggregate import MISSING, Results, Section, shown_names
from mosa.results.choices import how_compared, scope_of
from mosa.results.costs import COSTS
from mosa.results.provenance import code_of
from mosa.results.report.data import page_data, run_data, tuned_by, with_digits
from mosa.results.report.facts import bibtex, data_facts, sources
from mosa.results.report.missing import Missing
from mosa.results.report.predicted import predicted_data
from mosa.results.report.sections import page_section
from mosa.search.choose import describe, metric_of

_FOLDER = Path(__file__).parent
_SCRIPTS = ("statistics.js", "chart.js", "answers.js", "report.js")  # one after the other


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
    reference: str | None = None,
) -> None:
    """Write the report. The same records give the same bytes.

    Args:
        frame: One row per run, as from `mosa.results.frame.read_table`.
        output: The HTML file.
        order: Variants of the comparison in display order; None: all.
        title: Name of the experiment.
        config: The config, as YAML, to be shown.
        choices: What was chosen, as in tables/chosen.json.
        missing: Runs without a record.
        left_out: Why variants have no runs on a backbone, by both.
        reference: Variant to compare the others with; None: see `mosa.results.aggregate.Section.reference`.
        metric: Name of the metric to compare by; None: the one that the tasks report.

    Raises:
        UserError: The records cannot be compared, or the file cannot be written.
    """
    frame = frame.sort_values(["benchmark", "task", "backbone", "variant", "seed"])
    names = shown_names(frame)
    choices = [choice | {"variant": names.get(choice["variant"], choice["variant"])} for choice in choices]
    results = Results(frame, None if order is None else list(order), metric, reference)
    metrics = _metrics_of_runs(results.compared)
    cited, data = sources(frame), page_data(results, choices)
    predicted = [predicted_data(section) for section in results.compared]
    page = _template().render(
        title=title,
        sections=[
            page_section(section, f"section{number}")
            | {"numbers": data["sections"][number], "predicted": predicted[number]}
            for number, section in enumerate(results.compared)
        ],
        totals=_totals(frame, missing),
        metrics=METRICS,
        costs=COSTS,
        tuned_by=tuned_by(choices),
        trials_label=data["trials"]["y"]["label"] if choices else "",
        choices=[_choice(choice) for choice in choices],
        missing=missing,
        left_out=left_out or {},
        files=_files(),
        tasks=data_facts(frame),
        sources=cited,
        bibtex=bibtex(cited),
        provenance=_provenance(frame),
        config=config,
        val_metrics=[name for name in METRICS if any(name in curves for curves in frame["val_curves"])],
        split=", ".join(sorted(frame["eval_split"].unique())),
        data=Markup(_json_in_html(data)),
        predicted=Markup(_json_in_html(predicted)),
        run_data=Markup(_json_in_html(run_data(frame, metrics))),
        MISSING=MISSING,
        count=count,
        **_assets(),
    )
    with written_atomically(output) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html")


def _assets() -> dict[str, Markup]:
    """Return the style sheet and the scripts, which must not be escaped."""
    return {
        "style": Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
        "script": Markup("\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)),
    }


def _files() -> list[dict[str, str]]:
    """Return the other files of an experiment: every table and plot."""
    return [
        {"kind": kind, "names": ", ".join(output.files), "shows": output.described}
        for kind in KINDS
        for output in read_outputs(kind)
    ]


def _json_in_html(data: Any) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


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


def _metrics_of_runs(sections: list[Section]) -> list[Metric]:
    """Return the metrics that the list of runs shows: those of the sections, each once."""
    return list({section.metric.name: section.metric for section in sections}.values())


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "scope": scope_of(choice),
        "backbone": choice["backbone"],
        "variant": choice["variant"],
        "chosen": describe(choice["chosen"]),
        "score": with_digits(choice, choice["score"]),
        "unit": f" {unit}" if (unit := metric_of(choice["search"]).unit) else "",
        "at_edge": ", ".join(choice["at_edge"]),
        "trials": [
            {
                "what": describe(trial),
                "status": trial["status"],
                "score": MISSING if trial["score"] is None else with_digits(choice, trial["score"]),
                "note": "; ".join(trial["notes"]),
                "chosen": all(trial[key] == value for key, value in choice["chosen"].items()),
            }
            for trial in choice["trials"]
        ],
        "rule": choice["rule"],
        "how": how_compared(choice),
    }


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
