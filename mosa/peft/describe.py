"""The registry as data: the JSON Schema of every method's options, for whoever must not import torch."""

import inspect
import json
from typing import Any

import torch
from pydantic.fields import FieldInfo

from mosa.base.timm import timm
from mosa.peft.method import Method, get_method, list_methods


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
        "families": list(cls.families),
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
        "",
        "| method | in one line | tuned on ViT-B/16 | while trained | architectures |",
        "|---|---|--:|--:|---|",
        *(_summary(name) for name in list_methods()),
        "",
        "Tuned: parameters without the classifier with default options, after merging and while trained (for",
        "`peft`, LoRA of rank 8 on qkv). ConvNeXt, Swin and ViT are timm's blocks of these names.",
        "",
        "## Options of every method",
        "",
        *_options(Method.model_fields),
    ]
    for name in list_methods():
        cls = get_method(name)
        lines += ["", f"## `{name}`", "", inspect.getdoc(cls), "", f"Source: {cls.reference}.", ""]
        own = {
            option: field
            for option, field in cls.model_fields.items()
            if option not in Method.model_fields or field.default != Method.model_fields[option].default
        }
        lines += _options(own) if own else ["No options of its own."]
    return "\n".join(lines) + "\n"


def _summary(name: str) -> str:
    cls = get_method(name)
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=1)
    stored, trained = (cls().parameters(model, training) for training in (False, True))
    line, families = cls.__doc__.partition("\n")[0], ", ".join(cls.families)
    return f"| [`{name}`](#{name}) | {line} | {stored:,} | {trained:,} | {families} |"


def _options(fields: dict[str, FieldInfo]) -> list[str]:
    rows = [f"| `{name}` | `{_json(field)}` | {field.description} |" for name, field in fields.items()]
    return ["| option | default | meaning |", "|---|---|---|", *rows]


def _json(field: FieldInfo) -> str:
    return json.dumps(field.default)
