"""A section of the page: its summary in words, and its tables."""

from typing import Any

import pandas as pd

from mosa.base.words import count
from mosa.data.metrics import get_metric
from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Section
from mosa.results.costs import BACKBONE_IS_ONE
from mosa.results.paired import MIN_SEEDS, MIN_TASKS, Difference, differences
from mosa.results.provenance import notes
from mosa.results.tables.columns import (
    Column,
    by_task,
    compute_columns,
    heading,
    in_words,
    overview,
)
from mosa.results.tables.efficiency import about_time, efficiency_columns, efficiency_table

_SMALL = 0.25  # of the backbone's parameters: what counts as parameter-efficient in the summary


def page_section(section: Section, name: str) -> dict[str, Any]:
    """Return what the page shows of a section, except its charts; `name` is its id in the page."""
    columns = overview(section, repeats=False) + compute_columns(section) + by_task(section)
    return {
        "id": name,
        "heading": heading(section),
        "summary": _summary(section),
        "notes": notes(section.runs),
        "reference": section.name(section.reference),
        "differences": [_difference(one, section) for one in differences(section)],
        "about_differences": _about_differences(section),
        "columns": [{"title": " ".join(column.title.split()), "group": column.group} for column in columns],
        "rows": [
            {"variant": section.name(v), "method": section.methods.get(v, MISSING), "cells": cells}
            for v, cells in zip(section.variants, _cells(columns), strict=True)
        ],
        "caption": _caption(section),
        "metric_in_words": in_words(section),
        "grouped": len(section.groups) > 1 and any(len(tasks) > 1 for tasks in section.groups.values()),
        "efficiency": _efficiency(section),
    }


def _summary(section: Section) -> list[str]:
    """Return what the comparison found, in sentences."""
    means = section.mean[MEAN_OVER_TASKS].dropna()
    if means.empty:
        sentences = ["No variant has all tasks with one seed, so there is no mean to compare."]
    else:
        sentences = [*_best(section), section.about_seeds]
    return [sentence for sentence in sentences if sentence]


def _caption(section: Section) -> str:
    """Return what the numbers are, whichever tasks are chosen."""
    seeds = f"{count(section.full_n, 'seed')} ({', '.join(map(str, section.seeds))})"
    spread = (
        f"Mean ± sample standard deviation over {seeds}; n is given where seeds are missing. Means over "
        "tasks are taken per seed first"
        if section.full_n > 1
        else f"{seeds}, hence no spread"
    )
    return (
        f"{spread}. Protocol {section.protocol}. Tuned: parameters that a task stores after merging, without "
        "the classifier and with it. Image-passes: epochs x images x passes of a run. Bold: the best of a "
        f"column among the variants with all seeds; underlined: the second. {MISSING}: no record, or a mean "
        "with missing tasks."
    )


def _about_differences(section: Section) -> str:
    """Return in words what an interval is, or why there is none."""
    about = (
        "A difference is taken seed by seed, as both runs of a seed see the images in the same order. "
        f"Its 95 % interval (Student's t over {count(section.full_n, 'seed')}) is where the true difference "
        "on these tasks probably lies: if 0 is outside, more seeds would most likely not turn it round. "
        "It does not cover other tasks. p: the signed-rank test over tasks, adjusted by Holm; it takes "
        f"{MIN_TASKS} tasks."
    )
    if section.full_n < MIN_SEEDS:
        about += f" An interval takes {MIN_SEEDS} seeds, so here there is none."
        if len(section.task_names) < MIN_TASKS:
            few = f"{count(len(section.task_names), 'task')} and {count(section.full_n, 'seed')}"
            about += f" There is no test either: nothing can be concluded from {few}."
    return about


def _difference(one: Difference, section: Section) -> dict[str, str]:
    shown = get_metric(one.metric).shown
    interval = "" if pd.isna(one.low) else f"{shown(one.low, signed=True)} to {shown(one.high, signed=True)}"
    better = f"{one.better} of {count(one.tasks, 'task')}"
    if one.seeds < one.of_seeds:
        better += f" ({one.seeds} of {count(one.of_seeds, 'seed')})"
    return {
        "variant": section.name(one.variant),
        "mean": shown(one.mean, signed=True) if one.seeds else MISSING,
        "interval": interval or MISSING,
        "better": better if one.seeds else MISSING,
        "holm": MISSING if pd.isna(one.holm_p) else f"{one.holm_p:.2g}",
    }


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
    return {
        "titles": {name: title for name, (title, _) in columns.items()},
        "pareto": pareto,
        "rows": rows,
        "note": f"Means over the runs of a variant. {BACKBONE_IS_ONE} {about_time(section)}".rstrip(),
    }
