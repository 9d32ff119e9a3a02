"""The registry as data: the JSON Schema of every method's options, for whoever must not import torch."""

import inspect
from typing import Any

from mosa.peft.method import get_method, list_methods


def methods_schema() -> dict[str, Any]:
    """Return one closed definition per method, with types, bounds, defaults and descriptions."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "methods.schema.json",
        "description": "Options of every method; written by `mosa schema`, from the registry.",
        "$defs": {name: _options_schema(name) for name in list_methods()},
    }


def _options_schema(name: str) -> dict[str, Any]:
    cls = get_method(name)
    properties = cls.model_json_schema()["properties"]
    for option in properties.values():
        option.pop("title")
    return {
        "type": "object",
        "description": cls.__doc__.partition("\n")[0],
        "additionalProperties": False,
        "properties": properties,
    }


def methods_page() -> str:
    """Return the documentation page of all methods, in Markdown."""
    lines = [
        "# Methods",
        "",
        "Written by `mosa schema` from the registry (`mosa.peft.list_methods()`); do not edit.",
        "d is the width of a block; the classifier is tuned by every method and not counted here.",
    ]
    for name in list_methods():
        cls = get_method(name)
        lines += ["", f"## `{name}`", "", inspect.getdoc(cls), "", f"Source: {cls.reference}.", ""]
        lines += ["| option | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{option}` | `{field.default}` | {field.description} |"
            for option, field in cls.model_fields.items()
        ]
    return "\n".join(lines) + "\n"
