"""The published table: measured scores next to published ones of the same task, backbone and method."""

from typing import Any

import pandas as pd

from mosa.data.catalogue import get_task, list_tasks
from mosa.results.aggregate import MISSING, Key, Results, Section
from mosa.results.published import BENCHMARKS, load_published, published_backbone, published_names
from mosa.results.registry import table
from mosa.results.tables.columns import heading
from mosa.results.tables.render import csv_text, escape_markdown

_COLUMNS = (
    "benchmark", "backbone", "protocol", "variant", "kind", "score", "measured", "sd", "n", "published",
    "difference", "published_as", "family", "source",
)  # fmt: skip


@table(
    "published",
    label="measured and published",
    caption="Measured scores next to published ones of the same backbone and method; only numbers of one "
    "family are comparable.",
    when="published_benchmark",
)
def published_formats(results: Results) -> dict[str, str] | None:
    """Return what is published of the sections of the comparison; None if nothing is of their benchmarks."""
    sections = results.compared
    if not any(section.benchmark in BENCHMARKS.values() for section in sections):
        return None
    return {"csv": csv_text(published_table(sections)), "md": published_text(sections)}


def published_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row for each published value that a measured score of the sections corresponds to.

    Columns: benchmark, backbone, protocol, variant, kind and score (a task, a group or an overall mean),
    measured (mean, NaN where it is missing), sd, n, published, difference (measured - published),
    published_as (method), family and source. A mean over only some of its tasks corresponds to
    none, nor does a score by another metric than top-1, which all published values are.
    """
    known = load_published()
    rows = []
    for section in sections:
        first = section.runs.iloc[0]
        place = published_backbone(*first[["architecture", "weights_kind", "weights"]])
        if place is None or section.metric.name != "top1":
            continue
        here = known[
            (known["benchmark"] == section.benchmark)
            & (known["backbone"] == place[0])
            & (known["pretraining"] == place[1])
        ]
        for variant in filter(section.methods.get, section.variants):
            rows += _rows(section, variant, here)
    return pd.DataFrame(rows, columns=_COLUMNS)


def _rows(section: Section, variant: str, published: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row for each published value of the section's place that a variant has a counterpart of."""
    options = section.runs.loc[section.runs["variant"] == variant, "options"].iloc[0]
    names = published_names(section.methods[variant], options)
    rows = []
    for value in published[published["method"].isin(names)].itertuples():
        key = (value.kind, value.name)
        if key not in section.mean.columns or not _has_all_tasks(section, key):
            continue
        mean, sd, n = (table.loc[variant, key] for table in (section.mean, section.sd, section.n))
        row = (
            *(section.benchmark, section.backbone, section.protocol, variant, *key),
            *(mean, sd, n, value.metric_percent, mean - value.metric_percent),
            *(value.method, value.family, value.source),
        )
        rows.append(dict(zip(_COLUMNS, row, strict=True)))
    return rows


def _has_all_tasks(section: Section, key: Key) -> bool:
    tasks = [get_task(f"{section.benchmark}/{name}") for name in list_tasks(section.benchmark)]
    wanted = {task.name for task in tasks if key[0] == "overall" or task.group == key[1]}
    return key[0] == "task" or wanted <= set(section.task_names)


def published_text(sections: list[Section]) -> str:
    """Return the groups and means of `published_table` in Markdown, a row per variant, family and source."""
    table = published_table(sections)
    parts = []
    for section in sections:
        mine = table[(table["benchmark"] == section.benchmark) & (table["backbone"] == section.backbone)]
        if mine.empty:
            continue
        keys = [key for key in section.keys if key[0] != "task"]
        groups = [key for key in keys if key[0] == "group"]
        keys = [key for key in keys if len(groups) > 1 or key == ("overall", "mean over tasks")]
        header = ["variant", "published as", "family", *(key[1] for key in keys), "source"]
        lines = [header, [":--"] * 3 + ["--:"] * len(keys) + [":--"]]
        for (variant, name, family), rows in mine.groupby(["variant", "published_as", "family"], sort=False):
            cells = [_cell(rows, key) for key in keys]
            if any(cells):
                sources = "; ".join(dict.fromkeys(rows["source"]))
                lines.append(
                    [*map(escape_markdown, (variant, name, family)), *cells, escape_markdown(sources)]
                )
        table_lines = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        about = (
            f"Measured / published† (difference), {section.metric.label}. † Quoted from the source, not "
            "measured here. Family names the protocol that a number was made with: only those of one family "
            f"are comparable with each other. Measured with protocol {section.protocol}. "
            f"{MISSING}: not measured here. An empty cell: not published."
        )
        parts.append(f"## {escape_markdown(heading(section))}: published\n\n{table_lines}\n\n{about}\n")
    return "\n".join(parts) or "No measured variant has a published counterpart (docs/published.md).\n"


def _cell(rows: pd.DataFrame, key: Key) -> str:
    found = rows[(rows["kind"] == key[0]) & (rows["score"] == key[1])]
    if found.empty:
        return ""
    row = found.iloc[0]
    if pd.isna(row["measured"]):
        return f"{MISSING} / {row['published']:.1f}†"
    return f"{row['measured']:.1f} / {row['published']:.1f}† ({row['difference']:+.1f})"
