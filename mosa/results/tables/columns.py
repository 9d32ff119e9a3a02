"""The columns of a table as text, its heading and its caption."""

from functools import lru_cache
from typing import NamedTuple

import pandas as pd

from mosa.base.words import count
from mosa.results.aggregate import MEAN_OF_GROUPS, MEAN_OVER_TASKS, MISSING, Key, Section
from mosa.results.learned import MARK, marked
from mosa.results.provenance import notes


class Cell(NamedTuple):
    """The parts of a cell, already as text; every format joins and marks them in its own way."""

    value: str
    sd: str = ""
    note: str = ""
    best: bool = False
    second: bool = False


class Column(NamedTuple):
    """One column of a shown table.

    Attributes:
        title: Heading; a line break marks where it may be broken.
        cells: One per variant.
        group: Heading above the columns of one group, or empty.
        steep: Whether LaTeX turns the heading, for many columns with long names.
    """

    title: str
    cells: list[Cell]
    group: str = ""
    steep: bool = False


def overview(section: Section, repeats: bool = True) -> list[Column]:
    """Return the columns of the table of means: groups (if several), overall, tuned parameters.

    Args:
        section: The runs.
        repeats: Whether groups of one task each, and a mean of groups that equals the mean over tasks, have
            columns, which repeat others.
    """
    several, sizes = len(section.groups) > 1, {len(tasks) for tasks in section.groups.values()}
    keys = [("group", group) for group in section.groups if several and (repeats or sizes != {1})]
    keys += [MEAN_OVER_TASKS, *([MEAN_OF_GROUPS] if several and (repeats or len(sizes) > 1) else [])]
    titles = {MEAN_OVER_TASKS: "mean\nover tasks", MEAN_OF_GROUPS: "mean\nof groups"}
    columns = [Column(titles.get(key, key[1]), _scores(section, key)) for key in keys]

    counts = section.parameters
    scale, unit = (1e6, "M") if counts["total_max"].max() >= 1e7 else (1e3, "k")
    for name, title in (("adapter", "without head"), ("total", "with head")):
        decimals = 1 if unit == "k" else 3
        cells = [
            Cell(MISSING if pd.isna(number) else f"{number / scale:.{decimals}f}")
            for number in counts[f"{name}_mean"]
        ]
        columns.append(Column(f"tuned ({unit})\n{title}", cells))
    return columns


def compute_columns(section: Section) -> list[Column]:
    """Return image-passes and relative FLOPs of training, where any record gives them; else nothing.

    The FLOPs are relative to the reference's, or where it has none, to those of the first variant that has.
    """
    compute = section.compute
    if compute["flops"].isna().all():
        return []
    known = compute["flops"].dropna().index
    reference = section.reference if section.reference in known else known[0]
    passes = [MISSING if pd.isna(number) else f"{number / 1e3:.0f}" for number in compute["image_passes"]]
    cost = compute["flops"] / compute["flops"][reference]
    return [
        Column("image-passes\n(k)", [Cell(text) for text in passes]),
        Column(
            f"training FLOPs\n({section.name(reference)} = 1)",
            [Cell(MISSING if pd.isna(number) else f"{number:.2f}") for number in cost],
        ),
    ]


def by_task(section: Section) -> list[Column]:
    """Return one column per task."""
    return [
        Column(task, _scores(section, ("task", task)), group, steep=True)
        for group, tasks in section.groups.items()
        for task in tasks
    ]


@lru_cache(maxsize=1024)  # every format shows them
def _scores(section: Section, key: Key) -> list[Cell]:
    mean, sd, n = section.mean[key], section.sd[key], section.n[key]
    nothing = marked(section.runs, tasks_of(section, key))
    best = section.best(key)
    second = section.best(key, set(section.variants) - set(best)) if best else []
    return [
        Cell(
            value=section.shown(mean[variant]),
            sd="" if pd.isna(sd[variant]) else section.shown(sd[variant]),
            note=notes_of(section, variant, key, nothing),
            best=variant in best,
            second=variant in second,
        )
        if n[variant]
        else Cell(MISSING)
        for variant in section.variants
    ]


def notes_of(section: Section, variant: str, key: Key, nothing: set[str]) -> str:
    """Return what is said beside a number: seeds that it lacks, and runs that learned nothing."""
    n = section.n[key][variant]
    notes = [] if n == section.full_n else [f"(n={n})"]
    notes += [MARK] if variant in nothing else []
    return " ".join(notes)


def tasks_of(section: Section, key: Key) -> list[str]:
    """Return the tasks that a column is a mean of."""
    kind, name = key
    return [name] if kind == "task" else section.groups[name] if kind == "group" else section.task_names


def heading(section: Section) -> str:
    """Name the section."""
    return f"{section.benchmark}, {section.backbone}, {section.eval_split} split"


def in_words(section: Section) -> str:
    """Return the metric and its unit as the beginning of a sentence: "Top-1 (%)"."""
    label = section.metric.label
    return label[0].upper() + label[1:]


def mean_label(section: Section) -> str:
    """Return the label of an axis or column that shows the mean over tasks."""
    return f"mean over tasks of {section.metric.label}"


def caption(section: Section) -> str:
    """Return what the numbers are: split, definition of the means and spreads, parameters, marks."""
    seeds = f"{count(section.full_n, 'seed')} ({', '.join(map(str, section.seeds))})"
    spread = (
        f"mean ± sample standard deviation over {seeds}, n being given where it is smaller"
        if section.full_n > 1
        else f"{seeds}, hence no spread"
    )
    tasks, groups = len(section.task_names), len(section.groups)
    of_groups = f"mean of groups: of the {groups} group means; " if groups > 1 else ""
    selection = "" if section.eval_split == "test" else " (runs for selection, not a result)"
    return (
        f"{in_words(section)} on the {section.eval_split} split{selection} of {section.benchmark} with "
        f"{section.backbone}, protocol {section.protocol}: {spread}. "
        f"Mean over tasks: of {count(tasks, 'task')}; {of_groups}taken per seed first. "
        "Tuned: parameters that a task stores after merging, without the classifier, and with it (mean over "
        f"tasks, as classifiers differ in size). {_about_compute(section)}"
        f"{MISSING}: no record, or a mean with missing tasks. "
        f"Bold: the {'highest' if section.metric.higher_is_better else 'lowest'} mean of a column among "
        "those with all seeds; underlined: the second."
        + "".join(f" {sentence}" for sentence in (section.about_seeds, *notes(section.runs)) if sentence)
    )


def _about_compute(section: Section) -> str:
    if section.compute["flops"].isna().all():
        return ""
    return "Image-passes: epochs x images x passes of a run; FLOPs: of all of them, forward and backward. "
