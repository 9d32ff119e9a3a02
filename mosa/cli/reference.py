"""Verbs that list what there is: methods, tasks, and the files that are generated from declarations."""

import json
from pathlib import Path
from typing import Any

import click

from mosa.base.errors import UserError
from mosa.base.files import PACKAGE, SCHEMAS
from mosa.cli.options import ALONE, CONFIGFILE, FOLDER, JSON, PLUGIN, config_of, echo_json


@click.command()
@click.argument("names", nargs=-1, metavar="[METHOD]...")
@CONFIGFILE
@PLUGIN
@JSON
def methods(names: tuple[str, ...], files: tuple[Path, ...], as_json: bool) -> None:
    """List all methods, or some, with their architectures, options and defaults: also those of plugins."""
    from mosa.base.plugins import use_installed
    from mosa.peft.describe import methods_data

    if files:
        config_of(files, alone=False)  # which uses its plugins
    else:
        use_installed()
    listed = methods_data(*names)
    if as_json:
        return echo_json(listed)
    for name, about in listed.items():
        click.echo(f"{name}: {about['description']}")
        click.echo(f"    for {', '.join(about['families'])}; {about['reference']}")
        for option, field in about["options"].items():
            click.echo(f"    {option} = {json.dumps(field['default'])}  ({field['description']})")


@click.command()
@click.argument("names", nargs=-1, metavar="[BENCHMARK | BENCHMARK/TASK]...")
@JSON
def tasks(names: tuple[str, ...], as_json: bool) -> None:
    """List the tasks of all benchmarks, or of some."""
    from mosa.data.catalogue import get_task, list_benchmarks, list_tasks

    listed = {}
    for place in names or list_benchmarks():
        within = [place] if "/" in place else [f"{place}/{name}" for name in list_tasks(place)]
        listed |= {name: get_task(name) for name in within}
    if as_json:
        return echo_json(listed)
    for task in listed.values():
        sizes = ", ".join(f"{split} {size}" for split, size in task.sizes.items())
        about = f" {task.description}" if task.description else ""
        click.echo(f"{task.full_name} ({task.group}): {task.num_classes} classes, {sizes}.{about}")


@click.command()
@CONFIGFILE
@ALONE
@click.option("--output", type=FOLDER, help="With --configfile: folder to write to, instead of printing.")
def schema(files: tuple[Path, ...], alone: bool, output: Path | None) -> None:
    """Write again what is generated: schemas, the list of tables and plots, and pages of docs.

    With --configfile, nothing of these: print the documentation of that config's plugins and its JSON Schema,
    or write them to --output, as plugins.md and config.schema.json.
    """
    if files:
        _of_config(config_of(files, alone), output)
    elif output is not None:
        raise UserError("--output is for the schema of a config: name one with --configfile")
    else:
        _of_project()


def _of_config(config: dict[str, Any], output: Path | None) -> None:
    """Print or write what is generated of a config."""
    from mosa.base.files import written_atomically
    from mosa.experiment.plugins import page, schema_of

    found = {
        "plugins.md": page(config["plugins"]),
        "config.schema.json": json.dumps(schema_of(config), indent=2) + "\n",
    }
    if output is None:
        click.echo("\n".join(found.values()), nl=False)
        return
    for name, text in found.items():
        with written_atomically(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        click.echo(f"wrote {output / name}")


def _of_project() -> None:
    """Write what is generated of this project."""
    from mosa.cli.help import commands_page
    from mosa.data.sources import with_sources
    from mosa.engine.cost.flops import count_backbones
    from mosa.experiment.outputs import OUTPUTS
    from mosa.experiment.schema import config_schema, configuration_page
    from mosa.peft.describe import methods_page, methods_schema
    from mosa.results.backbone_flops import COUNTED
    from mosa.results.describe import record_schema, records_page
    from mosa.results.published.settings import CONFIGS, config_text
    from mosa.results.registry import generated_files, outputs_data

    docs, configs = PACKAGE.parent / "docs", PACKAGE.parent / "configs"
    sourced = {docs / "data.md": "data", docs / "weights.md": "weights"} if docs.is_dir() else {}
    for path, text in (
        (SCHEMAS / "methods.schema.json", json.dumps(methods_schema(), indent=2) + "\n"),
        (SCHEMAS / "config.schema.json", json.dumps(config_schema(), indent=2) + "\n"),
        (SCHEMAS / "record.schema.json", json.dumps(record_schema(), indent=2) + "\n"),
        (COUNTED, json.dumps(count_backbones(), indent=2) + "\n"),
        (docs / "records.md", records_page()),
        (docs / "methods.md", methods_page()),
        (docs / "configuration.md", configuration_page()),
        (docs / "cli.md", commands_page(click.get_current_context().find_root().command)),
        *((path, with_sources(path.read_text(encoding="utf-8"), kind)) for path, kind in sourced.items()),
        *((configs / f"{name}.yaml", config_text(name)) for name in CONFIGS),
        (OUTPUTS, json.dumps(outputs_data(), indent=2) + "\n"),
        *(generated_files().items() if docs.is_dir() else ()),
    ):
        if path.parent.is_dir():  # an installed package has no docs
            path.write_text(text, encoding="utf-8")
            click.echo(f"wrote {path}")
