"""What variants are set to, and which of them differ in one option only: the curves of the options plot."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mosa.experiment.recipe import Recipe

MIN_VALUES = 3  # an option with fewer values is better read in a table


class ByTask(dict[str, Any]):
    """A value that depends on the task: the values by task."""


def settings_of(by_task: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the options and the recipe of a variant, by name, `ByTask` where they depend on the task.

    What follows from the options, such as the number of passes, is no setting of its own.

    Args:
        by_task: Options of the method, and recipe, of each task.
    """
    recipes = {
        task: {key: value for key, value in recipe.items() if key in Recipe.model_fields}
        for task, (_, recipe) in by_task.items()
    }
    whole = {task: {**options, **recipes[task]} for task, (options, _) in by_task.items()}
    found: dict[str, Any] = {}
    for key in sorted({key for values in whole.values() for key in values}):
        values = ByTask({task: values.get(key) for task, values in whole.items()})
        first = next(iter(values.values()))
        found[key] = first if all(value == first for value in values.values()) else values
    return found


class Curve(NamedTuple):
    """Variants of one method that differ in one option only.

    Attributes:
        method: The method.
        variants: Value of the option and name of the variant, numbers first, ascending.
    """

    method: str
    variants: list[tuple[Any, str]]


def option_curves(
    variants: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]],
) -> dict[str, list[Curve]]:
    """Find what takes at least three values while everything else stays the same.

    Args:
        variants: Method of each variant, and its settings in two parts: options of the method, and recipe.
            Each may be `ByTask`.

    Returns:
        The curves of each such option or key of the recipe, in the order of the variants.
    """
    groups: dict[tuple[str, str], tuple[str, dict[str, tuple[Any, str]]]] = {}
    for name, (method, options, recipe) in variants.items():
        settings = dict(options) | dict(recipe)
        for option, value in settings.items():
            if isinstance(value, ByTask):  # no place on an axis
                continue
            others = {other: settings[other] for other in sorted(settings) if other != option}
            key = option, json.dumps([method, others], sort_keys=True, default=str)
            groups.setdefault(key, (method, {}))[1].setdefault(json.dumps(value), (value, name))
    curves: dict[str, list[Curve]] = {}
    for (option, _), (method, values) in groups.items():
        if len(values) >= MIN_VALUES:
            curves.setdefault(option, []).append(Curve(method, sorted(values.values(), key=_place)))
    return curves


def is_number(value: Any) -> bool:
    """Return whether an option's value is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _place(entry: tuple[Any, str]) -> tuple[bool, float, str]:
    value, _ = entry
    return (False, value, "") if is_number(value) else (True, 0, json.dumps(value))
