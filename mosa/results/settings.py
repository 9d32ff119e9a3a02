"""What the variants of a section are set to, and in what two of them differ."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from mosa.experiment.curves import ByTask, settings_of
from mosa.experiment.recipe import Recipe
from mosa.results.aggregate import Section

Settings = Mapping[str, Any]
PASSES = ("consistency", "second_pass", "feature_consistency")  # options that take a second pass


def section_settings(section: Section) -> dict[str, Settings]:
    """Return the options and the recipe of each variant that has runs, over all tasks of the section."""
    runs = section.runs.drop_duplicates(["variant", "task"])
    # A frame that was not made from records may have single keys of the recipe as columns only.
    keys = [key for key in Recipe.model_fields if key in runs]
    recipes = runs["recipe"] if "recipe" in runs else runs[keys].to_dict("records")
    by_variant: dict[str, dict[str, tuple]] = {}
    for variant, task, options, recipe in zip(
        runs["variant"], runs["task"], runs["options"], recipes, strict=True
    ):
        by_variant.setdefault(variant, {})[task] = options, recipe
    return {v: settings_of(by_variant[v]) for v in section.variants if v in by_variant}


def differing(ours: Settings, theirs: Settings, ignored: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the settings that both have and that differ, with both values.

    Args:
        ours, theirs: The settings of two variants, of two methods maybe.
        ignored: Settings that may differ.
    """
    return {
        key: (ours[key], theirs[key])
        for key in sorted(ours)
        if key in theirs and key not in ignored and ours[key] != theirs[key]
    }


def in_words(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """Return differences as text: "epochs 8 / 32, lr 0.06 / 0.03"; empty if there are none."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value_text(ours)} / {value_text(theirs)}"
        for key, (ours, theirs) in differences.items()
    )


def value_text(value: Any) -> str:
    """Return a setting's value as it is printed."""
    if isinstance(value, ByTask):
        return "by task"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
