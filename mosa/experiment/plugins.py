"""Plugins of a config: what they add, as plain data, and which runs use them.

A loaded config holds what `describe` returns in place of the names of its plugins. It is frozen with the
config, so a job of a cluster plans without a user's code; a run imports what its specification names.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mosa.base.errors import UserError
from mosa.base.files import SCHEMAS
from mosa.base.plugins import Plugin, Wanted, installed, use
from mosa.experiment.schema import config_schema
from mosa.experiment.specification import MeasuredBy, PluginUsed, Specification
from mosa.experiment.validation import method_schemas

SHOWING = ("metrics", "tables", "plots")


def load_plugins(references: Iterable[str], folder: Path = Path()) -> list[dict[str, Any]]:
    """Use plugins, and those that installed packages bring, and no others.

    Args:
        references: Files, relative to the folder, and modules.
        folder: Where the paths start.

    Returns:
        What `describe` says of each.

    Raises:
        UserError: As for `mosa.base.plugins.use` and `describe`.
    """
    named = [Wanted(name, folder) for name in references]
    return [describe(plugin) for plugin in use([*map(Wanted, installed()), *named])]


def use_for(*specifications: Specification, measures: bool = True) -> None:
    """Use the plugins that specifications name, with the digests that they name, and no others.

    Args:
        specifications: The specifications.
        measures: Whether those are used, too, that only measure a run.

    Raises:
        UserError: One is missing, or is another than the one that a specification means.
    """
    named = [one for each in specifications for one in (*each.plugins, *(each.measures if measures else ()))]
    use(dict.fromkeys(Wanted(one.path or one.name, Path(), one.sha256) for one in named))


def describe(plugin: Plugin) -> dict[str, Any]:
    """Return what a plugin adds, as plain data.

    Returns:
        Its `name`, `path` (None for a module), `sha256` and `files`; the schema of each of its `methods`, and
        the image size of each of its `backbones`, by name; the names of `layouts` and
        `metrics`; `tables` and `plots`, see `mosa.experiment.outputs.Output`.

    Raises:
        UserError: Something that it adds cannot be used.
    """
    _refuse_names(plugin)
    backbones = plugin.entries.get("backbone", {})
    return {
        "name": plugin.name,
        "path": _shown_path(plugin.path) if plugin.path else None,
        "sha256": plugin.sha256,
        "files": [_shown_path(file) for file in plugin.files],
        "methods": {name: _schema(plugin, name) for name in plugin.names("method")},
        "backbones": {name: one.input_size[-1] for name, one in backbones.items()},
        "layouts": plugin.names("layout"),
        "metrics": plugin.names("metric"),
        "tables": [asdict(entry.output) for entry in plugin.entries.get("table", {}).values()],
        "plots": [asdict(entry.output) for entry in plugin.entries.get("plot", {}).values()],
    }


def _shown_path(path: Path) -> str:
    """Return a path as jobs take it: relative where it is below the working directory."""
    inside = os.path.relpath(path)
    return path.absolute().as_posix() if inside.startswith("..") else Path(inside).as_posix()


def _schema(plugin: Plugin, name: str) -> dict[str, Any]:
    """Return the schema of a method's options, each of which has a default."""
    from mosa.peft.describe import options_schema  # which imports torch, as the method did

    schema = options_schema(plugin.entries["method"][name])
    for option, content in schema["properties"].items():
        if "default" not in content:
            raise UserError(
                f"plugin {plugin.name}: option {option!r} of method {name!r} has no default; give it one "
                "that JSON can hold, as a config need not name every option"
            )
        if not content.get("description"):
            raise UserError(
                f"plugin {plugin.name}: option {option!r} of method {name!r} has no description; give it "
                f'one: {option}: ... = Field({content["default"]!r}, description="...")'
            )
    return schema


def _refuse_names(plugin: Plugin) -> None:
    """Refuse names that cannot be used, and those of tables and plots that this process has not imported."""
    shipped = json.loads((SCHEMAS / "outputs.json").read_text(encoding="utf-8"))
    for kind in ("tables", "plots"):
        taken = {output["name"] for output in shipped[kind]}
        for name in plugin.names(kind.removesuffix("s")):
            if name in taken:
                raise UserError(
                    f"plugin {plugin.name}: there is a {kind.removesuffix('s')} {name!r} already; give the "
                    "plugin's another name, as it would take the other's files"
                )
    for kind, added in plugin.entries.items():
        for name, entry in added.items():
            own = getattr(entry, "name", name)
            if own != name:
                raise UserError(
                    f"plugin {plugin.name}: {kind} {own!r} is registered as {name!r}; name it once"
                )
            if not isinstance(name, str) or not name.replace("_", "").isalnum() or name != name.lower():
                raise UserError(
                    f"plugin {plugin.name}: the {kind} {name!r} cannot be part of a path; expected "
                    "lower-case letters, digits and '_'"
                )


def used_by(
    plugins: Iterable[Mapping[str, Any]], method: str, architecture: str, layout: str
) -> dict[str, list[PluginUsed]]:
    """Return the plugins that a run uses, as its specification has them.

    Args:
        plugins: The plugins of a loaded config.
        method: The run's method.
        architecture: Its architecture.
        layout: The layout of its task.

    Returns:
        `plugins`, those of its method, architecture or layout, and `measures`, those with metrics.
    """
    parts = {"methods": method, "backbones": architecture, "layouts": layout}
    deciding, measuring = [], []
    for one in plugins:
        head = {key: one[key] for key in ("name", "path", "sha256")}
        if any(name in one[kind] for kind, name in parts.items()):
            deciding.append(PluginUsed(**head))
        if one["metrics"]:
            measuring.append(MeasuredBy(**head, metrics=one["metrics"]))
    order = {"key": lambda used: used.sha256}
    return {"plugins": sorted(deciding, **order), "measures": sorted(measuring, **order)}


def schemas_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of every method that a loaded config can name."""
    return method_schemas() | {
        name: one for each in config["plugins"] for name, one in each["methods"].items()
    }


def references(plugins: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return how the command line names plugins that show records: those with metrics, tables or plots."""
    return [one["path"] or one["name"] for one in plugins if any(one[kind] for kind in SHOWING)]


def checked_by(plugins: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping], list[Mapping]]:
    """Return the plugins whose code `mosa check` tries, and those that its config has to name."""
    deciding = [one for one in plugins if one["methods"] or one["backbones"] or one["layouts"]]
    return deciding, [one for one in plugins if one in deciding or one["metrics"]]


def shown(plugins: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return plugins for readers: the name and digest of each, and the names of what it adds."""
    found = []
    for one in plugins:
        kinds = {kind: list(one[kind]) for kind in ("methods", "backbones", "layouts", "metrics")}
        kinds |= {kind: [output["name"] for output in one[kind]] for kind in ("tables", "plots")}
        head = {"name": one["name"], "sha256": one["sha256"]}
        found.append(head | {kind: names for kind, names in kinds.items() if names})
    return found


def schema_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a config with its plugins: the methods, and the options of each."""
    schema = config_schema()
    methods = schemas_of(config)
    (pattern,) = schema["properties"]["variants"]["patternProperties"].values()
    pattern["properties"]["method"]["enum"] = list(methods)
    pattern["allOf"] = [
        {
            "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
            "then": {"properties": {"options": {"$ref": f"#/$defs/{name}"}}},
        }
        for name in methods
    ]
    return schema | {"$defs": methods}


def page(plugins: Iterable[Mapping[str, Any]]) -> str:
    """Return the documentation of what plugins add, in Markdown."""
    lines = ["# Plugins", ""]
    for one in plugins:
        lines += [f"## `{one['name']}`", "", f"SHA-256 `{one['sha256']}`.", ""]
        if one["methods"]:
            from mosa.peft.describe import method_section  # which imports torch, as the methods did

            for name in one["methods"]:
                lines += [f"### Method `{name}`", "", *method_section(name), ""]
        for kind in ("backbones", "layouts", "metrics"):
            lines += [f"- {kind.removesuffix('s')} `{name}`" for name in one[kind]]
        for kind in ("tables", "plots"):
            lines += [f"- {kind.removesuffix('s')} `{each['name']}`: {each['caption']}" for each in one[kind]]
        lines += [""] if lines[-1] else []
    return "\n".join(lines) if len(lines) > 2 else "# Plugins\n\nThis config has none.\n"


def relative_to(plugins: Iterable[Mapping[str, Any]], folder: Path) -> list[str]:
    """Return plugins as a config in a folder names them."""
    return [
        Path(os.path.relpath(one["path"], folder)).as_posix() if one["path"] else one["name"]
        for one in plugins
        if one["path"] or one["name"] not in installed()
    ]
