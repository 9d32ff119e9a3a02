"""Every variant minus the reference, with intervals and tests."""

import math

import pandas as pd

from mosa.base.grid import markdown_table
from mosa.base.words import count
from mosa.results.aggregate import Results, Section
from mosa.results.paired import MIN_SEEDS, MIN_TASKS, Difference, differences, named
from mosa.results.registry import table
from mosa.results.stats import CONFIDENCE, smallest_wilcoxon_p
from mosa.results.tables.columns import heading
from mosa.results.tables.render import csv_text, escape_markdown

_NOTE = (
    "Differences of {label}, of which {direction} is better: mean over tasks, paired by seed, rounded after "
    "the subtraction. In brackets: the 95 % interval over seeds (Student's t), from {seeds} seeds on. The "
    "tasks are fixed, so the interval does not cover other tasks. The table shows on how many tasks the mean "
    "over the common seeds is better, equal (to nine decimals) and worse before rounding, and the "
    "probability that a run of the variant beats a run of the reference."
)


@table(
    "differences",
    label="differences",
    caption="Every main variant minus the reference (as chosen, else the adapter or the first variant), "
    "paired by seed: intervals, tasks on which it is better, equal and worse, probability of improvement, "
    "signed-rank test.",
)
def differences_formats(results: Results) -> dict[str, str]:
    """Return the differences within each section of the comparison."""
    sections = results.compared
    return {"csv": csv_text(differences_table(sections)), "md": differences_text(sections)}


def differences_table(sections: list[Section]) -> pd.DataFrame:
    """Return the differences of all sections as plain numbers, one row per section and variant."""
    rows = [
        {"benchmark": section.benchmark, "backbone": section.backbone} | found._asdict()
        for section in sections
        for found in differences(section)
    ]
    return pd.DataFrame(rows, columns=["benchmark", "backbone", *Difference._fields])


def differences_text(sections: list[Section]) -> str:
    """Return the differences of all sections as a Markdown list."""
    lines = []
    for section in sections:
        lines += [f"## {escape_markdown(heading(section))}", ""]
        found = [named(one, section) for one in differences(section)]
        lines += [f"- {escape_markdown(one.sentence)}" for one in found]
        direction = "the higher" if section.metric.higher_is_better else "the lower"
        note = _NOTE.format(label=section.metric.label, direction=direction, seeds=MIN_SEEDS)
        lines += ["", *_statistics(found), "", f"{note} {_about_test(section, found)}", ""]
    return "\n".join(lines)


def _statistics(found: list[Difference]) -> list[str]:
    """Return a Markdown table of the statistics that the sentences leave out."""
    columns = {
        "variant": lambda one: escape_markdown(one.variant),
        "better / equal / worse": lambda one: f"{one.better} / {one.equal} / {one.worse}",
        "P(improvement)": lambda one: f"{one.improvement:.2f}",
    }
    known = [one for one in found if one.seeds]
    if any(not math.isnan(one.holm_p) for one in known):
        columns["Wilcoxon p"] = lambda one: f"{one.wilcoxon_p:.2g}"
        columns["Holm p"] = lambda one: f"{one.holm_p:.2g}"
    rows = [[show(one) for show in columns.values()] for one in known]
    return [markdown_table([*columns], rows, "lr")] if known else []


def _about_test(section: Section, found: list[Difference]) -> str:
    """Return what the signed-rank test over these tasks can say."""
    number, alpha = len(section.task_names), 1 - CONFIDENCE
    tasks, smallest = count(number, "task"), smallest_wilcoxon_p(number)
    if number < MIN_TASKS:
        return (
            f"There is no signed-rank test over tasks: with {tasks} its p-value cannot be below "
            f"{smallest:.4g}, whatever the differences; it takes {MIN_TASKS} tasks to reach {alpha:.2g}."
        )
    tested = [one for one in found if not math.isnan(one.holm_p)]
    if not tested:
        return ""
    adjusted = tested[0].smallest_holm_p
    none = f", so that no difference can be significant at {alpha:.2g} after it" if adjusted > alpha else ""
    return (
        "Wilcoxon p: of the signed-rank test over tasks; Holm p: adjusted for the number of comparisons. "
        f"With {tasks} and {count(len(tested), 'comparison')}, Wilcoxon's cannot be below {smallest:.4g} "
        f"and Holm's not below {adjusted:.4g}{none}."
    )
