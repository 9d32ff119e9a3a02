"""Measured beside published: the same task, backbone and method, with the family of each published number."""

import pandas as pd

from mosa.data.catalogue import get_task, list_tasks
from mosa.results.aggregate import MISSING, Key, Results, Section
from mosa.results.published import BENCHMARKS, load_published, published_backbone, published_names
from mosa.results.registry import table
from mosa.results.tables.columns import heading
from mosa.results.tables.render import csv_text, escape_markdown


@table(
    "published",
    label="measured and published",
    caption="Measured scores beside published ones of the same backbone and method; only numbers of one "
    "family compare.",
    when="published_benchmark",
)
def published_formats(results: Results) -> dict[str, str] | None:
    """Return what is published of the sections of the comparison; None if nothing is of their benchmarks."""
    sections = results.compared
    if not any(section.benchmark in BENCHMARKS.values() for section in sections):
        return None
    return {"csv": csv_text(published_table(sections)), "md": published_text(sections)}


def published_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row for each published value that a measured score of the sections has a counterpart of.

    Columns: benchmark, backbone, protocol, variant, kind and score (a task, a group or an overall mean),
    measured (mean, NaN where it is missing), sd, n, published, difference (measured - published),
    published_as (method), family and source. A mean over some of its tasks only has no counterpart. All
    published values are top-1: sections of another metric have none.
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
        for variant in section.variants:
            runs = section.runs[section.runs["variant"] == variant]
            if runs.empty:
                continue
            names = published_names(section.methods[variant], runs["options"].iloc[0])
            for value in here[here["method"].isin(names)].itertuples():
                key = (value.kind, value.name)
                if key not in section.mean.columns or not _has_all_tasks(section, key):
                    continue
                mean = section.mean.loc[variant, key]
                rows.append(
                    {
                        "benchmark": section.benchmark,
                        "backbone": section.backbone,
                        "protocol": section.protocol,
                        "variant": variant,
                        "kind": value.kind,
                        "score": value.name,
                        "measured": mean,
                        "sd": section.sd.loc[variant, key],
                        "n": section.n.loc[variant, key],
                        "published": value.metric_percent,
                        "difference": mean - value.metric_percent,
                        "published_as": value.method,
                        "family": value.family,
                        "source": value.source,
                    }
                )
    columns = ["benchmark", "backbone", "protocol", "variant", "kind", "score", "measured", "sd", "n"]
    columns += ["published", "difference", "published_as", "family", "source"]
    return pd.DataFrame(rows, columns=columns)


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
