"""Methods with and without the split into sparse experts, side by side: what the split adds to each."""

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Results, Section
from mosa.results.paired import Difference, difference, paired_scores
from mosa.results.registry import table
from mosa.results.tables.columns import heading
from mosa.results.tables.render import csv_text, escape_markdown

# The method that each splits. Their options have the same names; those of the split, and of the second pass
# that comes with it, are not compared.
DENSE = {"mosa": "adapter", "mosl": "lora"}
_OF_THE_PASSES = ("consistency", "second_pass", "feature_consistency")
_CHOSEN = "lr"  # is chosen for each method, so that it may differ within a pair; then the table says so
_NOT_COMPARED = {*_OF_THE_PASSES, "passes", _CHOSEN}

_NOTE = (
    "Pairs of variants whose other options and recipes are the same, except for the learning rate (lr) where "
    "it is given; the second pass comes with the split. The means over tasks are those of the common seeds, "
    "and the difference is paired by seed, with its 95 % interval over seeds (Student's t, from three on)."
)
_Settings = dict[str, dict[str, Any]]  # of a variant: options and recipe by task


@table(
    "combination",
    label="with and without the split",
    caption="Methods with and without the split (MoSA and adapter, MoSL and LoRA), where all other "
    "options and the recipe are the same.",
)
def combination_formats(results: Results) -> dict[str, str]:
    """Return the pairs within each section of the comparison."""
    sections = results.compared
    return {"csv": csv_text(combination_table(sections)), "md": combination_text(sections)}


def pairs(section: Section) -> list[tuple[str, str]]:
    """Return (dense, split) variants that differ in the split alone, in display order of the split ones.

    The learning rate may differ, as it is chosen for each method.
    """
    settings = {variant: _settings(section, variant) for variant in section.methods}
    dense: dict[str, list[tuple[str, str]]] = {name: [] for name in DENSE.values()}
    for variant in filter(settings.get, section.variants):
        passes = any(one.get(name) for one in settings[variant].values() for name in _OF_THE_PASSES)
        if section.methods[variant] in dense and not passes:
            key = _key(settings[variant], settings[variant])
            if key not in (other for _, other in dense[section.methods[variant]]):
                dense[section.methods[variant]].append((variant, key))
    return [
        (other, variant)
        for variant in filter(settings.get, section.variants)
        for other, key in dense.get(DENSE.get(section.methods[variant], ""), [])
        if key == _key(settings[variant], settings[other])
    ]


def _settings(section: Section, variant: str) -> _Settings:
    """Return options and recipe of a variant on each task."""
    runs = section.runs[section.runs["variant"] == variant].drop_duplicates("task")
    recipes = runs["recipe"] if "recipe" in runs else [{}] * len(runs)
    return {
        task: dict(options) | dict(recipe)
        for task, options, recipe in zip(runs["task"], runs["options"], recipes, strict=True)
    }


def _key(settings: _Settings, dense: _Settings) -> str:
    """Return what has to be the same in a pair: the settings that the dense variant has, on each task."""
    kept = {task: sorted(one.keys() - _NOT_COMPARED) for task, one in dense.items()}
    by_task = {
        task: {name: str(one.get(name)) for name in kept.get(task, ())} for task, one in settings.items()
    }
    return json.dumps(by_task, sort_keys=True)


def _rates(section: Section, variants: Iterable[str]) -> list[str]:
    """Return the learning rates of each variant, in words; nothing where they agree or are not known."""
    rates = [
        sorted({one[_CHOSEN] for one in _settings(section, variant).values() if _CHOSEN in one})
        for variant in variants
    ]
    return [" or ".join(f"{rate:g}" for rate in own) for own in rates] if rates[0] != rates[1] else []


def combination_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row per pair: benchmark, backbone, both means over tasks, and the difference."""
    rows = []
    for section in sections:
        for dense, split in pairs(section):
            place = {name: getattr(section, name) for name in ("benchmark", "backbone")}
            place["metric"] = section.metric.name
            without, with_it = _means(section, dense, split)
            found = difference(section, split, dense)
            rows.append(place | {"without": without, "with": with_it} | found._asdict())
    columns = ["benchmark", "backbone", "metric", "without", "with", *Difference._fields]
    return pd.DataFrame(rows, columns=columns)


def _means(section: Section, dense: str, split: str) -> list[float]:
    """Return the means over tasks of both over their common seeds; NaN if there are none."""
    return [scores[MEAN_OVER_TASKS].mean() for scores in paired_scores(section, dense, split)]


def combination_text(sections: list[Section]) -> str:
    """Return `combination_table` in Markdown, a table per section that has a pair."""
    parts = []
    for section in sections:
        label = section.metric.label
        lines = [["without the split", label, "with it", label, "difference", "seeds", "better on"]]
        lines.append([":--", "--:", ":--", "--:", "--:", "--:", "--:"])
        for dense, split in pairs(section):
            scores = [MISSING if pd.isna(x) else section.shown(x) for x in _means(section, dense, split)]
            found = difference(section, split, dense)
            on = f"{found.better} of {found.tasks}" if found.seeds else MISSING
            rates = [f" (lr {rate})" for rate in _rates(section, (dense, split))] or ["", ""]
            names = [escape_markdown(v) + rate for v, rate in zip((dense, split), rates, strict=True)]
            shown = escape_markdown(found.shown + (f" ({found.caveat})" if found.caveat else ""))
            lines.append([names[0], scores[0], names[1], scores[1], shown, str(found.seeds), on])
        if len(lines) > 2:
            table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            parts.append(f"## {escape_markdown(heading(section))}: with the split\n\n{table}\n\n{_NOTE}\n")
    return "\n".join(parts) or "No variant has a counterpart that differs in the split alone.\n"
