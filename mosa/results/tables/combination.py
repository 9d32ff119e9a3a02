"""Methods with and without the split into sparse experts, side by side: what the split adds to each."""

from itertools import product
from typing import Any, NamedTuple

import pandas as pd

from mosa.experiment.curves import ByTask
from mosa.experiment.recipe import Recipe
from mosa.experiment.validation import method_schemas
from mosa.results.aggregate import MEAN_OVER_TASKS, MISSING, Results, Section
from mosa.results.paired import Difference, difference, paired_scores
from mosa.results.registry import table
from mosa.results.settings import PASSES, Settings, differing, in_words, section_settings
from mosa.results.tables.columns import heading
from mosa.results.tables.render import csv_text, escape_markdown, escaped_table

# In what a pair may differ beside the split: the passes that come with it, the learning rate, which is chosen
# for each method, and that of the split weights.
_OF_THE_SPLIT = ("every_expert", "split_lr")
_ALSO = (*PASSES, *_OF_THE_SPLIT, "lr")

_NOTE = (
    "Pairs of variants with the same recipe and the same options, except those of the split and what `also "
    "different` names (without / with): the mean over tasks of both over their common seeds, and the paired "
    "difference with its 95 % interval over seeds (Student's t, from three seeds on)."
)
_NONE = "No variant has a counterpart that differs in the split alone."


class Pair(NamedTuple):
    """Two variants, without and with the split, and what else differs between them."""

    dense: str
    split: str
    also: dict[str, tuple[Any, Any]]


@table(
    "combination",
    label="with and without the split",
    caption="Methods with and without the split (MoSA and adapter, MoSL and LoRA, split and what it splits), "
    "with the same recipe and otherwise the same options; what else differs is named.",
)
def combination_formats(results: Results) -> dict[str, str]:
    """Return the pairs within each section of the comparison."""
    sections = results.compared
    return {"csv": csv_text(combination_table(sections)), "md": combination_text(sections)}


def pairs(section: Section) -> list[Pair]:
    """Return the pairs that differ in the split and in what comes with it, in display order of the split."""
    return [pair for pair in _candidates(section) if set(pair.also) <= set(_ALSO)]


def _candidates(section: Section) -> list[Pair]:
    """Return all pairs of a split method and its dense one whose options are the same except `_ALSO`."""
    settings = section_settings(section)
    found = []
    for split, dense in product(settings, settings):
        of, own = _what_is_split(section.methods[split], settings[split])
        if of == section.methods[dense]:
            also = differing(settings[dense] | _neutral(section.methods[split]), own)
            if all(key in _ALSO or key in Recipe.model_fields for key in also):
                found.append(Pair(dense, split, also))
    return found


def _what_is_split(method: str, settings: Settings) -> tuple[str | None, Settings]:
    """Return the method that another one splits, or None, and the settings of both in one.

    Their options have the same names, except those of the split. The method `split` names another one, and
    its options, in two of its own.
    """
    if method != "split":
        return method_schemas().get(method, {}).get("splits"), settings
    of, own = settings.get("of"), settings.get("of_options", {})
    if isinstance(of, ByTask) or isinstance(own, ByTask):
        return None, settings
    properties = method_schemas()[of]["properties"]
    defaults = {name: about["default"] for name, about in properties.items() if "default" in about}
    return of, {**defaults, **settings, **own}


def _neutral(method: str) -> Settings:
    """Return the values at which a splitting method's own options of the training change nothing."""
    properties = method_schemas()[method]["properties"]
    return {name: properties[name]["neutral"] for name in _OF_THE_SPLIT}


def _left_out(section: Section) -> str:
    """Return a sentence on the split variants that have the options of a dense one and another recipe."""
    paired = {pair.split for pair in pairs(section)}
    nearest: dict[str, Pair] = {}
    for pair in sorted(_candidates(section), key=lambda pair: len(pair.also)):
        if pair.split not in paired:
            nearest.setdefault(pair.split, pair)
    found = []
    for split, pair in nearest.items():
        recipe = {key: values for key, values in pair.also.items() if key not in _ALSO}
        found.append(f"{section.name(split)} ({in_words(recipe)} against {section.name(pair.dense)})")
    return f"Not paired, as the recipes differ: {', '.join(found)}." if found else ""


def combination_table(sections: list[Section]) -> pd.DataFrame:
    """Return one row per pair: benchmark, backbone, both means, the difference, and what else differs."""
    rows = []
    for section in sections:
        for dense, split, also in pairs(section):
            without, with_it = _means(section, dense, split)
            place = {name: getattr(section, name) for name in ("benchmark", "backbone")}
            place["metric"] = section.metric.name
            found = difference(section, split, dense)._asdict()
            rows.append(
                place | {"without": without, "with": with_it} | found | {"also_different": in_words(also)}
            )
    columns = ["benchmark", "backbone", "metric", "without", "with", *Difference._fields, "also_different"]
    return pd.DataFrame(rows, columns=columns)


def _means(section: Section, dense: str, split: str) -> list[float]:
    """Return the means over tasks of both over their common seeds; NaN if there are none."""
    return [scores[MEAN_OVER_TASKS].mean() for scores in paired_scores(section, dense, split)]


def combination_text(sections: list[Section]) -> str:
    """Return `combination_table` in Markdown, a table per section that has a pair."""
    parts = []
    for section in sections:
        label = section.metric.label
        header = ["without the split", label, "with it", label, "difference", "better on", "also different"]
        rows = []
        for dense, split, also in pairs(section):
            means = _means(section, dense, split)
            scores = [MISSING if pd.isna(mean) else section.shown(mean) for mean in means]
            found = difference(section, split, dense)
            on = f"{found.better} of {found.tasks}" if found.seeds else MISSING
            names = [section.name(variant) for variant in (dense, split)]
            cells = [names[0], scores[0], names[1], scores[1], found.shown_with_caveat, on, in_words(also)]
            rows.append(cells)
        about = [escape_markdown(_left_out(section))]
        if rows:
            about = [escaped_table(header, rows, "lrlrrrl"), _NOTE, *about]
        if any(about):
            title = f"## {escape_markdown(heading(section))}: with the split"
            parts.append("\n\n".join(filter(None, [title, *about])) + "\n")
    return "\n".join(parts) or f"{_NONE}\n"
