"""A comparison of sources as plain text, Markdown, CSV or JSON."""

import json
import math
import textwrap
from collections.abc import Callable
from typing import Any

import pandas as pd

from mosa.base.grid import aligned, display_width, markdown_table
from mosa.base.words import count
from mosa.data.metrics import Metric
from mosa.results.aggregate import MISSING
from mosa.results.side_by_side.mistakes import Tested
from mosa.results.side_by_side.scores import MEAN, Score, SideBySide
from mosa.results.stats import CONFIDENCE
from mosa.results.tables.render import WIDTH, csv_text, escape_markdown

_LISTED = 4  # tasks that a difference of specifications lists
_NOTE = (
    "± one sample standard deviation over the seeds in brackets. Differences are from {base}, paired by seed "
    "over the common seeds, with the 95 % interval (Student's t) from three on."
)
_MCNEMAR = (
    "Images that only the source and only {base} classifies right, mean over common seeds, and the number of "
    "seeds with a significant difference: McNemar's exact test, Holm's adjustment for the variants, at 5 %."
)
Rows = list[list[str]]


def rendered(found: SideBySide, form: str) -> str:
    """Return a comparison as text that ends with a line break.

    Args:
        found: The comparison.
        form: A name of `FORMATS`.
    """
    return FORMATS[form](found)


def _text(found: SideBySide) -> str:
    return _document(
        found,
        lambda text: " ".join(text.split()),
        lambda title: [title, "-" * display_width(title)],
        aligned,
        lambda note: textwrap.wrap(note, WIDTH),
    )


def _markdown(found: SideBySide) -> str:
    return _document(
        found,
        escape_markdown,
        lambda title: [f"## {title}"],
        lambda rows: [markdown_table(rows[0], rows[1:])],
        lambda note: [note],
    )


def _csv(found: SideBySide) -> str:
    return csv_text(pd.DataFrame(_as_data(found)), "%.6g")


def _json(found: SideBySide) -> str:
    content = {
        "sources": found.sources,
        "tasks_of_means": {"/".join(place): tasks for place, tasks in found.tasks.items()},
        "scores": _as_data(found),
        "specifications": {
            "same": found.same,
            "different": [one._asdict() for one in found.changed],
        },
        "origins": {
            name: dict(zip(found.sources, values, strict=True)) for name, values in found.origins.items()
        },
        "mcnemar": [one._asdict() for one in found.tested],
        "minus_reference": {
            "/".join(place): {name: [one._asdict() for one in ones] for name, ones in by_source.items()}
            for place, by_source in found.against.items()
        },
    }
    return json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_without_nan(child) for child in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _as_data(found: SideBySide) -> list[dict[str, Any]]:
    """Return the scores with the reasons in place of their numbers."""
    rows = []
    for one in found.scores:
        row = one._asdict()
        mark = row.pop("mark")
        rows.append(row | {"not_compared": found.reasons[mark - 1] if mark else ""})
    return rows


def _document(
    found: SideBySide,
    escape: Callable[[str], str],
    heading: Callable[[str], list[str]],
    table: Callable[[Rows], list[str]],
    wrap: Callable[[str], list[str]],
) -> str:
    """Return all parts, for readers.

    Args:
        found: The comparison.
        escape: Applied to every text.
        heading: Lines of a heading.
        table: Lines of a table, its first row being titles.
        wrap: Lines of a sentence.
    """
    lines: list[str] = []

    def part(title: str, rows: Rows, *notes: str) -> None:
        lines.extend([*heading(escape(title)), ""])
        if rows:
            lines.extend([*table([[escape(cell) for cell in row] for row in rows]), ""])
        for note in filter(None, notes):
            lines.extend([*wrap(escape(note)), ""])

    for place, title in found.headings.items():
        tasks = found.tasks[place]
        over = f"Mean over {count(len(tasks), 'task')} that all have: {', '.join(tasks)}." if tasks else (
            "No task is in all sources, so there is no mean over tasks."
        )  # fmt: skip
        part(title, _scores(found, place), over, _NOTE.format(base=found.sources[0]))
        against = _against(found, place)
        if len(against) > 1:
            part(f"{title}: each variant minus the reference, within each source", against)
        tested = _tested(found, place)
        if len(tested) > 1:
            part(f"{title}: right on the same images?", tested, _MCNEMAR.format(base=found.sources[0]))
    if found.reasons:
        part("Not compared", [], *(f"[{number}] {reason}" for number, reason in enumerate(found.reasons, 1)))
    part("Specifications", *_specifications(found))
    part("Machines, code and versions", _origins(found))
    return "\n".join(lines).rstrip("\n") + "\n"


def _scores(found: SideBySide, place: tuple[str, str]) -> Rows:
    base, *others = found.sources
    rows = [["variant", "task", *found.sources, *(f"{name} - {base}" for name in others)]]
    by_row: dict[tuple[str, str], dict[str, Score]] = {}
    for score in found.scores:
        if (score.benchmark, score.backbone) == place:
            by_row.setdefault((score.variant, score.task), {})[score.source] = score
    metric = found.metrics[place]
    for (variant, task), scores in by_row.items():
        if task == MEAN and not found.tasks[place]:
            continue
        cells = [_cell(scores[name], metric) for name in found.sources]
        cells += [_difference(scores[name], metric) for name in others]
        rows.append([variant, task, *cells])
    return rows


def _cell(score: Score, metric: Metric) -> str:
    if not score.seeds:
        return MISSING
    spread = "" if math.isnan(score.sd) else f" ± {metric.shown(score.sd)}"
    mark = f" [{score.mark}]" if score.mark else ""
    return f"{metric.shown(score.mean)}{spread} ({score.seeds}){mark}"


def _difference(score: Score, metric: Metric) -> str:
    if score.mark and score.seeds:
        return f"not compared [{score.mark}]"
    if not score.common:
        return MISSING
    low, high = (metric.shown(value, signed=True) for value in (score.low, score.high))
    interval = "" if math.isnan(score.low) else f" [{low}, {high}]"
    return f"{metric.shown(score.difference, signed=True)}{interval} ({score.common})"


def _against(found: SideBySide, place: tuple[str, str]) -> Rows:
    rows: dict[str, dict[str, str]] = {}
    for name, differences in found.against.get(place, {}).items():
        for one in differences:
            rows.setdefault(f"{one.variant} - {one.reference}", {})[name] = one.shown
    body = [[pair, *(cells.get(name, MISSING) for name in found.sources)] for pair, cells in rows.items()]
    return [["", *found.sources], *body]


def _tested(found: SideBySide, place: tuple[str, str]) -> Rows:
    """Return a row for each variant, task and source that were tested, over their seeds."""
    by_row: dict[tuple[str, str, str], list[Tested]] = {}
    for one in found.tested:
        if (one.benchmark, one.backbone) == place:
            by_row.setdefault((one.variant, one.task, one.source), []).append(one)
    base = found.sources[0]
    rows = [["variant", "task", "source", "images", "only there", f"only {base}", "significant"]]
    for names, ones in by_row.items():
        there, first = (
            sum(getattr(one, key) for one in ones) / len(ones) for key in ("only_there", "only_first")
        )
        significant = sum(one.holm_p < 1 - CONFIDENCE for one in ones)
        rows.append(
            [*names, str(ones[0].images), f"{there:.1f}", f"{first:.1f}", f"{significant} of {len(ones)}"]
        )
    return rows


def _specifications(found: SideBySide) -> tuple[Any, ...]:
    base = found.sources[0]
    same = [
        f"{name}: {count(number, 'variant')} on a task and backbone with the same specification as in {base}."
        for name, number in found.same.items()
    ]
    rows = [["source", "variant", "key", base, "there", "where"]]
    for one in found.changed:
        more = len(one.where) - _LISTED
        where = ", ".join(one.where[:_LISTED]) + (f" and {more} more" if more > 0 else "")
        rows.append([one.source, one.variant, one.key, *map(_value, (one.ours, one.theirs)), where])
    return ([] if len(rows) == 1 else rows), *same


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _origins(found: SideBySide) -> Rows:
    rows = [["", *found.sources]]
    return rows + [
        [fact, *("; ".join(one) or MISSING for one in values)] for fact, values in found.origins.items()
    ]


FORMATS = {"text": _text, "md": _markdown, "csv": _csv, "json": _json}
