"""A section of the page: its summary in words, and its tables."""

from typing import Any

import pandas as pd

from mosa.base.words import count
from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Section
from mosa.results.paired import differences, named
from mosa.results.provenance import notes
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
    if means.empty:
        sentences = ["No variant has all tasks with one seed, so there is no mean to compare."]
    else:
        missing = [section.name(variant) for variant in section.variants if variant not in means.index]
        absent = f"Some runs of {', '.join(missing)} are missing: no mean is shown." if missing else ""
        sentences = [*_best(section), section.about_seeds, absent]
    return [sentence for sentence in [*sentences, *notes(section.runs)] if sentence]


def _best(section: Section) -> list[str]:
    """Return which variants the table marks as the best, and which is the best of the small ones."""
    over, best = f"mean over {count(len(section.task_names), 'task')}", section.best(MEAN_OVER_TASKS)
    if not best:
        complete = count(len(section.complete(MEAN_OVER_TASKS)), "variant has", "variants have")
        return [f"No {over} is called the best, as {complete} all of {count(section.full_n, 'seed')}."]
    sentences = [f"{'Highest' if section.sign > 0 else 'Lowest'} {over}: {_scores(section, best)}."]
    if "model_parameters" in section.runs:
        whole = section.runs["model_parameters"].median()
        sizes = section.parameters["adapter_mean"]
        small = section.best(MEAN_OVER_TASKS, sizes.index[sizes < _SMALL * whole])
        if small and small != best:
            few = f"less than {_SMALL:.0%} of the parameters"
            sentences.append(f"Among those that tune {few}: {_scores(section, small)}.")
    return sentences


def _scores(section: Section, variants: list[str]) -> str:
    return " and ".join(_score(section, variant) for variant in variants)


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
