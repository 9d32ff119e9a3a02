"""The published table: measured scores next to published ones of the same task, backbone and method."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pandas as pd

from mosa.base.grid import markdown_table
from mosa.data.catalogue import get_task, list_tasks
from mosa.experiment.curves import ByTask
from mosa.experiment.recipe import Recipe
from mosa.results.aggregate import MISSING, Key, Results, Section
from mosa.results.published import (
    BENCHMARKS,
    IMAGE_SIZE,
    PER_TASK,
    is_same_kind,
    load_published,
    method_of,
    published_backbone,
    published_file,
)
from mosa.results.registry import table
from mosa.results.settings import Settings, differing, in_words, section_settings
from mosa.results.tables.columns import heading
from mosa.results.tables.render import csv_text, escape_markdown

_COLUMNS = (
    "benchmark", "backbone", "protocol", "variant", "kind", "score", "measured", "sd", "n", "published",
    "difference", "differs_in", "origin", "published_as", "family", "source",
)  # fmt: skip
_MARKS = {"quoted": "†", "computed": "‡"}


@table(
    "published",
    label="measured and published",
    caption="Measured scores next to published ones of the same backbone and method, quoted or computed from "
    "quoted ones; a difference only where nothing is known to differ.",
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
    measured (mean, NaN where it is missing), sd, n, published, difference (measured - published; NaN where
    something differs), differs_in (family, options, share and labels of the training images, image size and
    file of the weights, measured / published), origin (quoted or computed), published_as (method), family
    and source. A mean over only some of its tasks corresponds to none, nor does a score on val, or by
    another metric than top-1: all published values are top-1 on test.
    """
    known = load_published()
    rows = []
    for section in sections:
        first = section.runs.iloc[0]
        place = published_backbone(*first[["architecture", "weights_kind", "weights"]])
        if place is None or section.metric.name != "top1" or section.eval_split != "test":
            continue
        here = known[
            (known["benchmark"] == section.benchmark)
            & (known["backbone"] == place[0])
            & (known["pretraining"] == place[1])
        ]
        meant = here["method"].map(method_of)
        for variant, settings in section_settings(section).items():
            for _, published in here[meant == section.methods[variant]].groupby("method", sort=False):
                rows += _rows(section, variant, settings, published)
    return pd.DataFrame(rows, columns=_COLUMNS)


def _rows(
    section: Section, variant: str, settings: Settings, published: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return a row for each value of the published method that is the counterpart of a variant."""
    # Options by task: those of a group or a mean are those of its tasks.
    by_task = {value.name: value.options for value in published.itertuples() if value.kind == "task"}
    protocol = section.runs["protocol"].iloc[0]
    backbone = _of_backbone(section)
    whole = {key: Recipe.model_fields[key].default for key in ("fraction", "label_noise") if key in settings}
    rows = []
    for value in published.itertuples():
        key = (value.kind, value.name)
        tasks = _tasks_of(section.benchmark, key)
        if key not in section.mean.columns or not set(tasks) <= set(section.task_names):
            continue
        if not all(is_same_kind(value.options, _at(settings, task)) for task in tasks):
            continue
        mean, sd, n = (table.loc[variant, key] for table in (section.mean, section.sd, section.n))
        others = _differences(settings, {task: by_task.get(task, value.options) | whole for task in tasks})
        others |= backbone
        if protocol != value.family:
            others = {"family": (protocol, value.family)} | others
        row = (
            *(section.benchmark, section.backbone, section.protocol, variant, *key),
            *(mean, sd, n, value.metric_percent),
            *(float("nan") if others else mean - value.metric_percent, in_words(others)),
            *(value.origin, value.method, value.family, value.source),
        )
        rows.append(dict(zip(_COLUMNS, row, strict=True)))
    return rows


def _of_backbone(section: Section) -> dict[str, tuple[Any, Any]]:
    """Return in what the backbone of a section differs from the published one that it corresponds to."""
    first = section.runs.iloc[0]
    place = published_backbone(*first[["architecture", "weights_kind", "weights"]])
    file, size = published_file(place, first["weights"]), first.get("image_size", IMAGE_SIZE)
    found = {"weights": (first["weights"], file)} if file else {}
    return found if pd.isna(size) or size == IMAGE_SIZE else found | {"image_size": (int(size), IMAGE_SIZE)}


@cache
def _tasks_of(benchmark: str, key: Key) -> list[str]:
    """Return the tasks of a column."""
    kind, name = key
    tasks = [get_task(f"{benchmark}/{task}") for task in list_tasks(benchmark)]
    return [t.name for t in tasks if kind == "overall" or name == (t.name if kind == "task" else t.group)]


def _at(settings: Settings, task: str) -> Settings:
    """Return the settings of one task."""
    return {key: value.get(task) if isinstance(value, ByTask) else value for key, value in settings.items()}


def _differences(settings: Settings, published: Mapping[str, Settings]) -> dict[str, tuple[Any, Any]]:
    """Return the options that differ from the published ones of any task, with both values.

    An option that differs on some tasks only is named with them.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    values = {}
    for task, options in published.items():
        ours = dict.fromkeys(options) | dict(_at(settings, task))
        chosen = [
            key for key in options if options[key] == PER_TASK and isinstance(settings.get(key), ByTask)
        ]
        for key, pair in differing(ours, options, chosen).items():
            found.setdefault((key, repr(pair[0]), repr(pair[1])), []).append(task)
            values[key, repr(pair[0]), repr(pair[1])] = pair
    return {
        key if len(tasks) == len(published) else f"{key} ({', '.join(tasks)})": values[key, *pair]
        for (key, *pair), tasks in found.items()
    }


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
        header = ["variant", "published as", "family", *(key[1] for key in keys), "differs in", "source"]
        lines = []
        for (variant, name, family), rows in mine.groupby(["variant", "published_as", "family"], sort=False):
            cells = [_cell(section, rows, key) for key in keys]
            if any(cells):
                shown = rows[[key in keys for key in zip(rows["kind"], rows["score"], strict=True)]]
                others = "; ".join(dict.fromkeys(filter(None, shown["differs_in"])))
                sources = "; ".join(dict.fromkeys(shown["source"]))
                texts = (section.name(variant), name, family, others, sources)
                texts = [escape_markdown(text) for text in texts]
                lines.append([*texts[:3], *cells, *texts[3:]])
        shown_table = markdown_table(header, lines, "lll" + "r" * len(keys) + "l")
        parts.append(
            f"## {escape_markdown(heading(section))}: published\n\n{shown_table}\n\n{_about(section)}\n"
        )
    return "\n".join(parts) or "No measured variant has a published counterpart (docs/published.md).\n"


def _about(section: Section) -> str:
    return (
        f"Measured / published, {section.metric.label}. † Quoted from the source. ‡ Computed here from what "
        "the source has. Neither was measured here. Family names the protocol that a number was made "
        f"with; measured with protocol {section.protocol}. Differs in: the family, the options as far as "
        "the source states them, the training images, the weights; measured / published, in brackets the "
        "tasks if not all. The difference (measured - published) is given only where nothing differs. "
        f"{MISSING}: not measured here. n: seeds, where some are missing. An empty cell: not published. "
        f"{section.about_seeds}"
    ).rstrip()


def _cell(section: Section, rows: pd.DataFrame, key: Key) -> str:
    found = rows[(rows["kind"] == key[0]) & (rows["score"] == key[1])]
    if found.empty:
        return ""
    row = found.iloc[0]
    printed = f"{row['published']:.2f}".removesuffix("0")  # with the digits that it has
    published = f"{printed}{_MARKS[row['origin']]}"
    if pd.isna(row["measured"]):
        return f"{MISSING} / {published}"
    difference = "" if pd.isna(row["difference"]) else f" ({row['difference']:+.1f})"
    few = f" (n={row['n']})" if row["n"] < section.full_n else ""
    return f"{row['measured']:.1f}{few} / {published}{difference}"
