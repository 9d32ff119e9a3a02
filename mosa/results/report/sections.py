"""A section of the page: its summary in words, and its tables."""

from typing import Any

import pandas as pd

from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Section, count
from mosa.results.paired import differences, named
from mosa.results.provenance import mixture
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

_SMALL = 0.25  # of the backbone's parameters: what counts as parameter-efficient in the summary


def page_section(section: Section, name: str) -> dict[str, Any]:
    """Return what the page shows of a section, except its charts; `name` is its id in the page."""
    columns = overview(section) + compute_columns(section) + by_task(section)
    return {
        "id": name,
        "heading": heading(section),
        "summary": _summary(section),
        "differences": [named(difference, section).sentence for difference in differences(section)],
        "columns": [{"title": " ".join(column.title.split()), "group": column.group} for column in columns],
        "rows": [
            {"variant": section.name(v), "method": section.methods.get(v, MISSING), "cells": cells}
            for v, cells in zip(section.variants, _cells(columns), strict=True)
        ],
        "caption": caption(section),
        "metric_in_words": in_words(section),
        "efficiency": _efficiency(section),
    }


def _summary(section: Section) -> list[str]:
    """Return what the comparison found, in sentences."""
    means = section.mean[MEAN_OVER_TASKS].dropna()
    mixed = [sentence for sentence in [mixture(section.runs)] if sentence]
    if means.empty:
        return ["No variant has all tasks with one seed, so there is no mean to compare.", *mixed]
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
    short = [section.name(variant) for variant in section.variants if unequal[variant] < section.full_n]
    if short:
        sentences.append(f"Some runs of {', '.join(short)} are missing: their means are marked or left out.")
    return sentences + mixed


def _best(section: Section, means: pd.Series) -> str:
    return (section.sign * means).idxmax()


def _score(section: Section, variant: str) -> str:
    sd = section.sd.loc[variant, MEAN_OVER_TASKS]
    spread = "" if pd.isna(sd) else f" ± {section.shown(sd)}"
    score = f"{section.name(variant)}, {section.shown(section.mean.loc[variant, MEAN_OVER_TASKS])}{spread}"
    return f"{score} {section.metric.unit}".rstrip()


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
    pareto, _ = columns.pop("pareto")
    rows = []
    for row in efficiency_table([section]).to_dict("records"):
        cells = [
            {"sort": "", "value": MISSING}
            if pd.isna(row[name])
            else {"sort": row[name], "value": form.format(row[name])}
            for name, (_, form) in columns.items()
        ]
        rows.append({"variant": section.name(row["variant"]), "cells": cells, "pareto": bool(row["pareto"])})
    return {"titles": [title for title, _ in columns.values()], "pareto": pareto, "rows": rows}
