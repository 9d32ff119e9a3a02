"""Values against a JSON Schema: problems told in one sentence with file and line, and defaults filled in."""

import copy
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from mosa.base.errors import UserError, suggest
from mosa.base.files import SCHEMAS

# JSON Schema takes 1.0 for an integer and YAML's .nan for a number; seed 1.0 would name another file than 1.
_Validator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ).redefine(
        "number",
        lambda _, value: (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ),
    ),
)


@cache
def read_schema(name: str) -> dict[str, Any]:
    """Return one of the package's schemas, by its name: config, methods, record."""
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))


def check_value(value: Any, schema: Mapping[str, Any], where: tuple, places: "Places") -> None:
    """Check a value against a schema.

    Args:
        value: The value.
        schema: The schema.
        where: Keys that lead to the value in the config.
        places: Where keys stand in files.

    Raises:
        UserError: The first problem, with file and line.
    """
    errors = sorted(_Validator(schema).iter_errors(value), key=lambda error: list(map(str, error.path)))
    if errors:
        raise _explain(errors[0], where, places)


def _explain(error: ValidationError, where: tuple, places: "Places") -> UserError:
    """Say in one sentence what a schema violation means."""
    if error.validator == "oneOf" and isinstance(error.instance, list | dict):  # meant as what it is
        meant = [
            c for c in error.context if c.validator != "const" and not (c.validator == "type" and not c.path)
        ]
        error = meant[0] if meant else error
    path = (*where, *error.absolute_path)
    if error.validator == "additionalProperties":
        allowed = list(error.schema["properties"])
        key = next(key for key in error.instance if key not in allowed)
        return places.error((*path, key), f"unknown key {key!r}", allowed, key)
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return places.error(path, f"key {missing!r} is missing")
    if error.validator in ("enum", "const"):
        allowed = error.validator_value if error.validator == "enum" else [error.validator_value]
        return places.error(path, f"{error.instance!r} is not allowed", allowed, error.instance)
    if error.validator == "uniqueItems":
        seen: list[Any] = []
        twice = next(item for item in error.instance if item in seen or seen.append(item))
        return places.error(path, f"{twice!r} is listed twice; list it once")
    if error.validator in ("minItems", "minProperties"):
        return places.error(path, "is empty; list at least one")
    if error.validator == "maxProperties":
        found = ", ".join(map(str, error.instance))
        return places.error(path, f"changes {found}; a sweep changes one option, name a second sweep")
    if error.validator == "type":
        expected = (
            error.validator_value if isinstance(error.validator_value, str) else error.validator_value[0]
        )
        return places.error(path, f"got {error.instance!r}, expected {_TYPES[expected]}{_hint(error)}")
    if error.validator in ("oneOf", "pattern") and "expected" in error.schema:
        return places.error(path, f"got {error.instance!r}, expected {error.schema['expected']}")
    if error.validator == "pattern":
        case = "letters" if "A-Z" in error.validator_value else "lower-case letters"
        rule = f"expected {case}, digits, '_', '-' and '.', a letter or digit first"
        return places.error(path, f"the name {error.instance!r} cannot be part of a path; {rule}")
    return places.error(path, error.message)


_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def _hint(error: ValidationError) -> str:
    """Help with values that YAML reads as another type than they look."""
    if error.validator_value == "string":
        return "; put it in quotes"
    if error.validator_value == "number" and isinstance(error.instance, str):
        try:
            return f"; YAML reads it as text, write {float(error.instance)!r}"
        except ValueError:
            return ""
    return ""


def fill_defaults(value: dict[str, Any], schema: Mapping[str, Any]) -> None:
    """Fill the defaults of a schema into a mapping, in place, in the schema's order of keys."""
    for key, child in schema.get("properties", {}).items():
        if key not in value and "default" in child:
            value[key] = copy.deepcopy(child["default"])
        if isinstance(value.get(key), dict):
            fill_defaults(value[key], child)
    entries = schema.get("additionalProperties")
    if isinstance(entries, dict):
        for key, child in value.items():
            if key not in schema.get("properties", {}) and isinstance(child, dict):
                fill_defaults(child, entries)


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with another merged over it, key by key; lists and values are replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


class Places:
    """Where each key of the config stands, in files and lines."""

    def __init__(self, files: Iterable[str | Path]) -> None:
        self.trees = []
        for file in files:
            try:
                tree = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            except (OSError, UnicodeDecodeError, yaml.YAMLError):
                continue  # whoever reads the file reports it
            if tree is not None:
                self._refuse_duplicates(tree, file)
                self.trees.append((file, tree))

    def _refuse_duplicates(self, node: yaml.Node, file: str | Path) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, child in node.value:
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise UserError(
                        f"{file}, line {line}: key {key.value!r} stands in line {seen[key.value]} already; "
                        "keep one"
                    )
                seen[str(key.value)] = line
                self._refuse_duplicates(child, file)
        elif isinstance(node, yaml.SequenceNode):
            for child in node.value:
                self._refuse_duplicates(child, file)

    def error(
        self, path: tuple, message: str, allowed: Iterable[Any] | None = None, got: object = None
    ) -> UserError:
        """Build the error for a key: where it stands, what is wrong, what is allowed."""
        where = ".".join(map(str, path)) or "the config"
        if allowed is not None:
            names = [str(name) for name in allowed]
            message += f": expected one of {', '.join(names)}{suggest(got, names)}"
        return UserError(f"{self._locate(path)}{where}: {message}")

    def keys_of(self, section: str) -> list[str]:
        """Return the keys that the files have in a section, each once, those of the weakest file first."""
        found = [step[1] for _, tree in self.trees if (step := _step(tree, section)) is not None]
        nodes = [node for node in found if isinstance(node, yaml.MappingNode)]
        return list(dict.fromkeys(str(key.value) for node in nodes for key, _ in node.value))

    def _locate(self, path: tuple) -> str:
        """Return "file, line n: " of the deepest part of a path that a file has, the strongest file first."""
        best, place = 0, ""
        for file, tree in reversed(self.trees):
            node, depth = tree, 0
            mark = node.start_mark
            for key in path:
                step = _step(node, key)
                if step is None:
                    break
                mark, node = step
                depth += 1
            if depth > best:
                best, place = depth, f"{file}, line {mark.line + 1}: "
        return place


def _step(node: yaml.Node, key: object) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((name.start_mark, child) for name, child in node.value if name.value == str(key)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark, node.value[key]
    return None
