"""The config's models as a JSON Schema, for editors, and as a page of documentation."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from mosa.base.grid import markdown_table
from mosa.experiment.models import Experiment


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config."""
    return model_schema(Experiment, "config.schema.json", "Experiment")


def model_schema(model: type[BaseModel], name: str, title: str) -> dict[str, Any]:
    """Return the JSON Schema of a model, without references, closed and described."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    plain = _plain(schema, definitions)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": name, "title": title}
    return head | plain


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Resolve references, and drop what only pydantic or this package reads."""
    if isinstance(node, list):
        return [_plain(child, definitions) for child in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    properties, droppable = node.get("properties"), node.get("droppable")
    node = {
        key: _plain(value, definitions)
        for key, value in node.items()
        if key not in ("title", "droppable", "digested", "optional", "neutral", "discriminator", "properties")
    }
    if properties is not None:
        node["properties"] = {key: _plain(child, definitions) for key, child in properties.items()}
    if droppable:
        _allow_null(node)
    return node


def _allow_null(node: dict[str, Any]) -> None:
    """Let an entry of a mapping be null, which drops it."""
    for key in ("additionalProperties", "patternProperties"):
        entries = node.get(key)
        for entry in [entries] if key == "additionalProperties" else (entries or {}).values():
            if isinstance(entry, dict) and entry.get("type") == "object":
                entry["type"] = ["object", "null"]


def configuration_page() -> str:
    """Return the documentation of every key, in Markdown."""
    lines = [
        "# Configuration",
        "",
        "Written by `mosa schema` from the models in `mosa/experiment/models.py`; do not edit.",
        "",
        "`snakemake` reads config.yaml. `snakemake --configfile FILE` merges a file over it: mappings are",
        "merged key by key, lists and values are replaced, and `null` drops what another file has of that",
        "name: a task, benchmark, backbone or variant, an entry of `training_by_task` or of a variant's",
        "`by_task`, a sweep or one variant of it, or one variant of `tune`. An overlay that wants fewer",
        "variants drops the others, there and in `sweeps`. What has no effect is refused: a null that drops",
        "nothing, or a value of `training` where a weaker file gives every variant one of its own.",
        "`snakemake --config 'seeds=[0,1,2]'` sets a single key over all files.",
        "",
        keys_table(config_schema()),
        "",
        "Options of the methods: [methods.md](methods.md).",
    ]
    return "\n".join(lines) + "\n"


def keys_table(schema: Mapping[str, Any]) -> str:
    """Return a table of every key of a schema, also inside others, in Markdown."""
    return markdown_table(("key", "type", "default", "meaning"), _rows(schema, ""))


def _rows(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, ...]]:
    for key, child in schema.get("properties", {}).items():
        default = f"`{json.dumps(child['default'])}`" if _is_short(child) else ""
        required = "required" if key in schema.get("required", []) else default
        inner = next((part for part in child.get("anyOf", [child]) if part.get("type") != "null"), child)
        choices = f" One of {', '.join(f'`{c}`' for c in inner['enum'])}." if "enum" in inner else ""
        yield f"`{prefix}{key}`", _kind(child), required, f"{child['description']}{choices}"
        yield from _rows(inner, f"{prefix}{key}.")
        for entries in _entries(inner):
            yield from _rows(entries, f"{prefix}{key}.<name>.")


def _is_short(child: Mapping[str, Any]) -> bool:
    return "default" in child and not (isinstance(child["default"], dict) and child["default"])


def _kind(child: Mapping[str, Any]) -> str:
    kinds = [part.get("type", "") for part in child.get("anyOf", [child])]
    flat = [kind for entry in kinds for kind in (entry if isinstance(entry, list) else [entry])]
    return " or ".join(dict.fromkeys(flat))


def _entries(child: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = [child.get("additionalProperties"), *child.get("patternProperties", {}).values()]
    return [entry for entry in found if isinstance(entry, dict) and "properties" in entry]
