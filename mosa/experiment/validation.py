"""Values against declarations: a problem is one sentence, with file, line, allowed values and a near miss."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import yaml
from pydantic import Field, ValidationError, create_model

from mosa.base.errors import LISTED, UserError, expected, shown
from mosa.base.files import SCHEMAS
from mosa.base.methods import holds
from mosa.base.plugins import in_use
from mosa.experiment.declared import Declared, option

M = TypeVar("M", bound=Declared)


@cache
def read_schema(name: str) -> dict[str, Any]:
    """Return one of the package's generated schemas, by its name: config, methods or record."""
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))


def method_schemas() -> dict[str, Any]:
    """Return the schema of every method of the package, and of the plugins in use."""
    own = [plugin for plugin in in_use() if plugin.names("method")]
    if not own:
        return read_schema("methods")["$defs"]
    from mosa.peft.describe import options_schema  # which imports torch, as the plugins did

    added = {name: cls for plugin in own for name, cls in plugin.entries["method"].items()}
    return read_schema("methods")["$defs"] | {name: options_schema(cls) for name, cls in added.items()}


def methods_on_features() -> set[str]:
    """Return the names of the methods that train on outputs of frozen layers."""
    return {name for name, schema in method_schemas().items() if schema["on_features"]}


def merges_away(schema: Mapping[str, Any] | None, options: Mapping[str, Any]) -> bool:
    """Return whether a merged model has the backbone's modules alone.

    Args:
        schema: The schema of the method; None: it is not known, so this is not, either.
        options: Its options; those that are missing have their defaults.
    """
    if schema is None:
        return False
    defaults = {name: about.get("default") for name, about in schema["properties"].items()}
    return holds(schema["merges_away"], defaults | options)


def model_of(method: str, schema: Mapping[str, Any] | None = None) -> type[Declared]:
    """Return a model of a method's options.

    Args:
        method: Name of the method.
        schema: Its schema; None: it is in the package, or in a plugin that is in use.

    Raises:
        KeyError: There is no such method.
    """
    if schema is None and method not in read_schema("methods")["$defs"]:
        schema = method_schemas()[method]
    return options_model(method, json.dumps(schema["properties"]) if schema else "")


@cache
def options_model(method: str, text: str = "") -> type[Declared]:
    """Return a model of a method's options, made from its schema, because the method itself imports torch.

    Args:
        method: Name of the method.
        text: The properties of its schema, as JSON; "": it is in the package.

    Raises:
        KeyError: There is no such method in the package.
    """
    properties = json.loads(text) if text else read_schema("methods")["$defs"][method]["properties"]
    fields = {
        name: (_annotation(schema), option(schema["default"], **_neutral(schema)))
        for name, schema in properties.items()
    }
    return create_model(f"options of {method}", __base__=Declared, **fields)


def _neutral(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"neutral": schema["neutral"]} if "neutral" in schema else {}


_BOUNDS = {
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "minItems": "min_length",
}
_PLAIN = {"integer": int, "number": float, "boolean": bool, "string": str, "object": dict[str, Any]}


def _annotation(schema: Mapping[str, Any]) -> Any:
    """Return the type that a property of a method's schema stands for."""
    if "anyOf" in schema:
        found = [_annotation(part) for part in schema["anyOf"] if part.get("type") != "null"]
        several = Union[*found]
        return several | None if len(found) < len(schema["anyOf"]) else several
    if "enum" in schema or "const" in schema:
        return Literal[tuple(schema.get("enum", [schema.get("const")]))]
    if schema.get("type") not in (*_PLAIN, "array"):
        return Any  # of a plugin, whose class decides
    items = schema.get("items", {})
    plain = (
        list[_annotation(items) if items else Any] if schema["type"] == "array" else _PLAIN[schema["type"]]
    )
    bounds = {name: schema[key] for key, name in _BOUNDS.items() if key in schema}
    return Annotated[plain, Field(**bounds)] if bounds else plain


def validated(model: type[M], value: Any, where: tuple, places: "Places", context: Any = None) -> M:
    """Validate a value.

    Args:
        model: What it should be.
        value: The value, as plain data.
        where: Keys that lead to the value in the config.
        places: Where keys stand in files.
        context: As for `Declared`.

    Raises:
        UserError: The first problem, with file and line.
    """
    try:
        return model.model_validate(value, context=context)
    except ValidationError as error:
        raise explain(error, where, places) from None


def check_option(model: type[Declared], key: str, value: Any, where: tuple, places: "Places") -> Any:
    """Validate the value of a single key of a model, and return it.

    Raises:
        UserError: The first problem, with file and line; `where` leads to the value.
    """
    try:
        return getattr(model.model_validate({key: value}), key)
    except ValidationError as error:
        raise explain(error, where, places, skip=1) from None


def explain(error: ValidationError, where: tuple, places: "Places", skip: int = 0) -> UserError:
    """Say in one sentence what the first problem of a validation is."""
    first = error.errors(include_url=False)[0]
    kind, got, given = first["type"], first["input"], first.get("ctx", {})
    loc = tuple(part for part in first["loc"][skip:] if not str(part).startswith("<"))
    if loc and loc[-1] == "[key]":
        loc = loc[:-2]
    path = (*where, *loc)
    if kind == "unknown_key":
        key = given["key"]
        return places.error((*path, key), f"unknown key {key!r}", given["allowed"], key)
    if kind in ("missing", "missing_key"):
        key, path = (given["key"], path) if kind == "missing_key" else (path[-1], path[:-1])
        return places.error(path, f"key {key!r} is missing")
    if kind == "not_registered":
        return places.error(path, f"{got!r} is not allowed", given["allowed"], got)
    if kind == "literal_error":
        allowed = [part.strip("'") for part in given["expected"].replace(" or ", ", ").split(", ")]
        return places.error(path, f"{got!r} is not allowed", allowed, got)
    return places.error(path, _sentence(kind, got, given))


_TYPES = {
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
}
_LIMITS = {
    "greater_than": ("gt", "not above"),
    "greater_than_equal": ("ge", "less than the minimum of"),
    "less_than": ("lt", "not below"),
    "less_than_equal": ("le", "greater than the maximum of"),
}


def _sentence(kind: str, got: Any, given: Mapping[str, Any]) -> str:
    if kind in _TYPES:
        return f"got {shown(got)}, expected {_TYPES[kind]}{_hint(kind, got)}"
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return f"{shown(got)} is {words} {given[name]:g}"
    if kind == "expected":
        return f"got {got!r}, expected {given['expected']}"
    if kind == "twice":
        return f"{given['item']} is listed twice; list it once"
    if kind == "too_long":
        found = ", ".join(map(str, list(got)[:LISTED]))
        return f"changes {found}; a sweep changes one option, name a second sweep"
    if kind == "string_too_long":
        return f"{shown(got)} has {len(got)} characters, expected at most {given['max_length']}"
    if kind in ("too_short", "string_too_short"):
        return "is empty; list at least one" if kind == "too_short" else "is empty"
    if kind == "string_pattern_mismatch":
        return _wrong_form(got, given["pattern"])
    return f"got {got!r}, expected a value of another form ({kind})"


def _wrong_form(got: str, pattern: str) -> str:
    if not pattern.endswith("_.-]*$"):
        return f"got {got!r}, expected text of the form {pattern}"
    case = "letters" if "A-Z" in pattern else "lower-case letters"
    rule = f"expected {case}, digits, '_', '-' and '.', a letter or digit first"
    return f"the name {got!r} cannot be part of a path; {rule}"


def _hint(kind: str, got: Any) -> str:
    """Help with values that YAML reads as another type than they look."""
    if kind == "string_type" and isinstance(got, bool | int | float | date):
        return "; put it in quotes"
    if kind == "float_type" and isinstance(got, str):
        try:
            number = float(got)
        except ValueError:
            return ""
        return f"; YAML reads it as text, write {number!r}" if math.isfinite(number) else ""
    return ""


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with another merged over it, key by key; lists and values are replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _at(tree: yaml.Node, path: tuple) -> yaml.Node | None:
    """Return what a file has at a path; None: the file lacks it."""
    node = tree
    for key in path:
        step = _step(node, key)
        if step is None:
            return None
        _, node = step
    return node


_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
OTHER_BASE = re.compile(r"[-+]?0[0-9_]+|.*:.*")  # octal, and base 60


class Places:
    """Where each key of the config stands, in files and lines.

    Args:
        files: YAML files, the strongest last.
        overrides: What the command line sets over them.
    """

    def __init__(self, files: Iterable[str | Path] = (), overrides: Mapping[str, Any] | None = None) -> None:
        self.overrides = overrides or {}
        self.trees = []
        for file in files:
            try:
                tree = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError):
                continue  # whoever reads the file reports it
            if tree is not None:
                self._refuse_duplicates(tree, file)
                self.trees.append((file, tree))

    def _refuse_duplicates(
        self, node: yaml.Node, file: str | Path, within: tuple[yaml.Node, ...] = ()
    ) -> None:
        if any(node is one for one in within):
            raise UserError(
                f"{file}, line {node.start_mark.line + 1}: not a readable YAML file (an alias within what it "
                "stands for)"
            )
        within = (*within, node)
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
                self._refuse_duplicates(child, file, within)
        elif isinstance(node, yaml.SequenceNode):
            for child in node.value:
                self._refuse_duplicates(child, file, within)
        elif node.tag in _NUMBERS and OTHER_BASE.fullmatch(node.value):
            number = yaml.safe_load(node.value)
            raise UserError(
                f"{file}, line {node.start_mark.line + 1}: YAML reads {node.value} as {number}; write that "
                "number, or put it in quotes"
            )

    def error(
        self, path: tuple, message: str, allowed: Iterable[Any] | None = None, got: object = None
    ) -> UserError:
        """Build the error for a key: where it stands, what is wrong, what is allowed."""
        where = ".".join(map(str, path)) or "the config"
        if allowed is not None:
            message += f": {expected(got, allowed)}"
        return UserError(f"{self._locate(path)}{where}: {message}")

    def keys_of(self, *path: str, null: bool = True) -> list[str]:
        """Return the keys that the files have in a section, each once, those of the weakest file first.

        Args:
            path: Keys that lead to the section.
            null: Whether keys count that no file gives a value.
        """
        found = [node for _, tree in self.trees if (node := _at(tree, path)) is not None]
        pairs = [(str(key.value), value) for node in found for key, value in _pairs(node)]
        return list(dict.fromkeys(name for name, value in pairs if null or value.tag != _NULL))

    def rank(self, path: tuple) -> int:
        """Return the place of the strongest file that has a path, the command line last; -1: none has it."""
        if path[-1] in self.overridden(path[:-1]):
            return len(self.trees)
        return max((number for number, (_, tree) in enumerate(self.trees) if _at(tree, path)), default=-1)

    def overridden(self, path: tuple) -> Mapping[str, Any]:
        """Return what the command line sets in a section."""
        found: Any = self.overrides
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def strongest(self, *paths: tuple) -> tuple:
        """Return the path that stands in the strongest file; of several in one, or of none, the last."""
        for _, tree in reversed(self.trees):
            found = [path for path in paths if _at(tree, path) is not None]
            if found:
                return found[-1]
        return paths[-1]

    def folder_of(self, key: str) -> Path:
        """Return the folder of the strongest file that has a key; the working directory, if none has."""
        if key in self.overrides:
            return Path()
        found = [file for file, tree in self.trees if _step(tree, key) is not None]
        return Path(found[-1]).parent if found else Path()

    def _locate(self, path: tuple) -> str:
        """Return "file, line n: " of the deepest part of a path that a file has, the strongest file first."""
        if path and path[0] in self.overrides:
            return "--config "
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


def _pairs(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Yield the keys and values of a mapping, its own before those that `<<` takes over."""
    if not isinstance(node, yaml.MappingNode):
        return
    yield from ((key, child) for key, child in node.value if key.tag != _MERGE)
    for child in [child for key, child in node.value if key.tag == _MERGE]:
        for taken in child.value if isinstance(child, yaml.SequenceNode) else [child]:
            yield from _pairs(taken)


def _step(node: yaml.Node, key: object) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(
            ((name.start_mark, child) for name, child in _pairs(node) if name.value == str(key)), None
        )
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark, node.value[key]
    return None
