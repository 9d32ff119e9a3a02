"""Comparison and sweep tables: files (CSV, Markdown, LaTeX, HTML) and text for the terminal."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mosa.base.files import written_atomically
from mosa.results.aggregate import Section, compare, sweep
from mosa.results.paired import differences_table, differences_text
from mosa.results.tables.combination import combination_table, combination_text
from mosa.results.tables.efficiency import efficiency_table, efficiency_text
from mosa.results.tables.published import published_table, published_text
from mosa.results.tables.render import html_page, latex_section, markdown_section, terminal_section

WIDTH = 120  # characters of a table as plain text


def write_tables(
    frame: pd.DataFrame,
    directory: str | Path,
    order: Iterable[str] | None = None,
    published: bool = False,
    metric: str | None = None,
) -> list[Path]:
    """Write comparison and sweep in every format; the other tables as CSV and Markdown.

    The comparison has the variants of `order`, the sweep every variant, and the differences set those of the
    comparison against the adapter (see `paired`, `aggregate.compare` and
    `aggregate.sweep`). The same records give the same bytes, whatever their order.

    Args:
        frame: One row per run, as from `mosa.records`.
        directory: Where to write; it is made if need be.
        order: Variants of the comparison in display order; None: all.
        published: Write published numbers beside the measured ones of the comparison.
        metric: Name of the metric to compare by; None: the one that the tasks report.

    Returns:
        The paths written.

    Raises:
        UserError: The records cannot stand in one table, or a file cannot be written.
    """
    order = None if order is None else list(order)
    texts = {}
    for name, sections in (
        ("comparison", compare(frame, order, metric)),
        ("sweep", sweep(frame, order, metric)),
    ):
        texts[f"{name}.csv"] = tidy_table(sections).to_csv(
            index=False, float_format="%.4f", lineterminator="\n"
        )
        texts[f"{name}.md"] = "\n".join(markdown_section(section) for section in sections)
        texts[f"{name}.tex"] = "\n".join(latex_section(section, name) for section in sections)
        texts[f"{name}.html"] = html_page(sections)
        texts[f"{name}.txt"] = "\n\n".join(terminal_section(section, WIDTH) for section in sections) + "\n"
    compared = compare(frame, order, metric)
    texts["differences.csv"] = differences_table(compared).to_csv(
        index=False, float_format="%.4f", lineterminator="\n"
    )
    texts["differences.md"] = differences_text(compared)
    texts["efficiency.csv"] = efficiency_table(compared).to_csv(
        index=False, float_format="%.6g", lineterminator="\n"
    )
    texts["efficiency.md"] = efficiency_text(compared)
    texts["combination.csv"] = combination_table(compared).to_csv(
        index=False, float_format="%.4f", lineterminator="\n"
    )
    texts["combination.md"] = combination_text(compared)
    if published:
        texts["published.csv"] = published_table(compared).to_csv(
            index=False, float_format="%.4f", lineterminator="\n"
        )
        texts["published.md"] = published_text(compared)
    paths = []
    for name, text in texts.items():
        paths.append(Path(directory) / name)
        with written_atomically(paths[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return paths


def terminal_table(
    frame: pd.DataFrame,
    order: Iterable[str] | None = None,
    metric: str | None = None,
    width: int = WIDTH,
) -> str:
    """Return the comparison as plain text, in blocks of columns that fit into `width` characters."""
    sections = compare(frame, None if order is None else list(order), metric)
    return "\n\n".join(terminal_section(section, width) for section in sections)


def tidy_table(sections: list[Section]) -> pd.DataFrame:
    """Return plain numbers: one row per benchmark, backbone and variant.

    Columns after the identity: {adapter,total}_parameters_{mean,min,max} over tasks, then
    {name}_{mean,sd,n} for every task, `group_` + group, mean_over_tasks and mean_of_groups.
    """
    rows, counts = [], set()
    for section in sections:
        for variant in section.variants:
            row = {
                "benchmark": section.benchmark,
                "backbone": section.backbone,
                "protocol": section.protocol,
                "eval_split": section.eval_split,
                "metric": section.metric.name,
                "variant": variant,
                "method": section.methods.get(variant),
            }
            for column, value in section.parameters.loc[variant].items():
                row[column.replace("_", "_parameters_")] = value
                counts.add(column.replace("_", "_parameters_"))
            row["image_passes"], row["training_flops"] = section.compute.loc[variant]
            for kind, name in section.keys:
                column = {"task": name, "group": f"group_{name}"}.get(kind, name.replace(" ", "_"))
                row[f"{column}_mean"] = section.mean.loc[variant, (kind, name)]
                row[f"{column}_sd"] = section.sd.loc[variant, (kind, name)]
                row[f"{column}_n"] = section.n.loc[variant, (kind, name)]
                counts.add(f"{column}_n")
            rows.append(row)
    table = pd.DataFrame(rows)
    # Whole numbers stay so where another row has none; a mean of counts may have a fraction.
    for column in counts:
        whole = [int(value) if value % 1 == 0 else round(value, 1) for value in table[column]]
        table[column] = pd.Series(whole, dtype=object)
    return table
