"""`mosa <verb>`: what the workflow's rules call, and what a person calls.

Each verb imports what it needs when it runs, so that help and tables do not wait for torch.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from mosa import __version__
from mosa.base.errors import UserError
from mosa.base.files import PACKAGE, SCHEMAS
from mosa.experiment.protocol import PRESETS
from mosa.experiment.specification import (
    BackboneUsed,
    Specification,
    make_specification,
    read_specification,
)

if TYPE_CHECKING:
    from mosa.engine.machine import Machine

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
ANY = click.Path(path_type=Path)


class Options(click.ParamType):
    """Options as a JSON object: '{"bottleneck": 16}'."""

    name = "json"

    def convert(self, value, param, ctx):
        """Parse the object, or fail with what was expected."""
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON ({error}); expected an object such as '{{\"lr\": 0.001}}'")
        if not isinstance(parsed, dict):
            self.fail(f"{value!r} is not a JSON object; expected one such as '{{\"lr\": 0.001}}'")
        return parsed


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    try:
        return [int(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected whole numbers, such as 0,1,2") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _listed(manifest: Path) -> list[Path]:
    """Return the paths that a file lists, one per line."""
    return [Path(line) for line in _read_text(manifest).splitlines() if line]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mosa")
def cli() -> None:
    """A reproducible benchmark of parameter-efficient fine-tuning for vision."""


@cli.command("make-data")
@click.argument("task")
@click.option("--output", type=FILE, required=True, help="Pack to write (.safetensors).")
@click.option("--root", type=FOLDER, help="Folder of the task's benchmark, see docs/data.md.")
@click.option(
    "--own", type=Options(), help="Entry of a task of your own, as under `tasks` in a config, as JSON."
)
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    default=224,
    show_default=True,
    help="Side of the images that the backbone takes; the demo's are rendered in theirs.",
)
@click.option(
    "--interpolation", type=click.Choice(["bicubic", "bilinear"]), default="bicubic", show_default=True
)
@click.option("--content", help="Digest of the files as the workflow found them; other files are refused.")
@click.option("--limit-gib", type=click.FloatRange(min=0, min_open=True), help="Largest pack, in GiB.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads that decode."
)
def make_data(task: str, output: Path, own: dict | None, **options) -> None:
    """Render or read a TASK such as demo/digits, once, into a pack of uint8 arrays."""
    from mosa.data import make_pack
    from mosa.data.task import task_from_config

    make_pack(task if own is None else task_from_config(task.rpartition("/")[2], own), output, **options)


@cli.command()
@click.option(
    "--output", type=FILE, required=True, help="Weights to write (.safetensors, and .json beside it)."
)
@click.option(
    "--images", type=click.IntRange(min=1), help="Images to train on; the default made the shipped file."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
def pretrain(output: Path, images: int | None, seed: int, threads: int) -> None:
    """Pre-train the micro backbone on procedurally generated images, from scratch."""
    from mosa.backbones.pretraining import pretrain

    chosen = {} if images is None else {"images": images}
    pretrain(output, seed=seed, threads=threads, **chosen)


# How a run is done: the fields of mosa.engine.machine.Machine, and which GPU it takes.
_MACHINE = [
    click.option("--device", envvar="MOSA_DEVICE", default="cpu", show_default=True, help="cpu or cuda."),
    click.option(
        "--runs-per-gpu",
        envvar="MOSA_RUNS_PER_GPU",
        type=click.IntRange(min=1),
        default=1,
        help="Runs that may share one of several GPUs.",
    ),
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads."),
    click.option(
        "--resume-folder",
        envvar="MOSA_RESUME",
        type=FOLDER,
        help="Folder for the state of a run that is stopped, which goes on from it.",
    ),
    click.option(
        "--features",
        envvar="MOSA_FEATURES",
        type=FOLDER,
        help="Folder for features of frozen backbones: linear probing computes them once.",
    ),
    click.option(
        "--save-every",
        type=click.FloatRange(min=0),
        default=60,
        show_default=True,
        help="Seconds between two saves, at epoch ends.",
    ),
    click.option(
        "--compile",
        envvar="MOSA_COMPILE",
        type=click.Choice(["none", "blocks", "cuda_graphs"]),
        default="none",
        show_default=True,
        help="What torch.compile compiles; as graphs, on a GPU.",
    ),
    click.option(
        "--channels-last",
        envvar="MOSA_CHANNELS_LAST",
        is_flag=True,
        help="Keep images and convolutions with channels last.",
    ),
    click.option(
        "--gradient-checkpointing",
        envvar="MOSA_GRADIENT_CHECKPOINTING",
        is_flag=True,
        help="Compute activations again in the backward: less memory, half as much time again.",
    ),
]


# What a run is, where no specification is given: the fields of the specification, flat.
_FLAT = {
    "task": (Specification, None),
    "method": (Specification, None),
    "options": (Specification, {}),
    "training": (Specification, {}),
    "variant": (Specification, None),
    "name": (BackboneUsed, "micro_vit"),
    "architecture": (BackboneUsed, "mosa_vit_micro"),
    "weights": (BackboneUsed, "builtin"),
    "kind": (BackboneUsed, "auto"),
    "image_size": (BackboneUsed, None),
    "normalization": (BackboneUsed, "weights"),
    "protocol": (Specification, "demo"),
    "stage": (Specification, "final"),
}


def _flat_option(name: str) -> Callable:
    """Return the command line's option for a field of the specification, from its declaration."""
    model, default = _FLAT[name]
    field = model.model_fields[name]
    kind = field.annotation
    if get_origin(kind) is Literal:
        kind = click.Choice(get_args(kind))
    elif name == "protocol":
        kind = click.Choice(list(PRESETS))
    elif name in ("options", "training"):
        kind = Options()
    elif name == "image_size":
        kind = click.IntRange(min=1)
    flag = "backbone" if name == "name" else name.replace("_", "-")
    shown = default not in (None, {})
    return click.option(f"--{flag}", type=kind, default=default, show_default=shown, help=field.description)


def run_options(command: Callable) -> Callable:
    """Add the options that say what a run is, and how it is done."""
    spec = click.option(
        "--spec",
        type=FILE,
        help="Specification file of the workflow, instead of the options that describe it.",
    )
    pack = click.option("--pack", type=FILE, required=True, help="Pack of the task, from `mosa make-data`.")
    for option in reversed([spec, pack, *map(_flat_option, _FLAT), *_MACHINE]):
        command = option(command)
    return command


def _take_specification(options: dict[str, Any], pack: Path) -> Specification:
    """Take out the options that say what a run is, and return its specification."""
    from mosa.backbones.build import digest_of_weights
    from mosa.data.packs import Pack

    spec = options.pop("spec")
    names = ["backbone" if name == "name" else name for name in _FLAT]
    flat = {name: options.pop(name) for name in names}
    if spec is not None:
        source = click.get_current_context().get_parameter_source
        given = [name for name in names if source(name) is click.core.ParameterSource.COMMANDLINE]
        if given:
            raise UserError(
                f"--{given[0].replace('_', '-')}: the specification says it; leave the option out"
            )
        return read_specification(spec)
    for name in ("task", "method"):
        if flat[name] is None:
            raise UserError(f"--{name} is missing; give it, or a specification file with --spec")
    sha256 = digest_of_weights(flat["architecture"], flat["weights"])
    return make_specification(**flat, sha256=sha256, source=Pack(pack).source)


def _take_machine(options: dict[str, Any]) -> tuple["Machine", Any]:
    """Take out the options that say how a run is done; return them, and what keeps its GPU while held."""
    from dataclasses import fields

    from mosa.engine.devices import choose_device
    from mosa.engine.machine import Machine

    device, held = choose_device(options.pop("device"), options.pop("runs_per_gpu"))
    own = {field.name: options.pop(field.name) for field in fields(Machine) if field.name in options}
    return Machine(device=device, **own), held


@cli.command()
@run_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the run.")
@click.option("--choice", type=FILE, help="Hyper-parameters that `mosa choose` took, over those given.")
@click.option("--output", type=FILE, required=True, help="Record to write (.json).")
def train(pack: Path, output: Path, seed: int, choice: Path | None, **options) -> None:
    """Train and evaluate one run, and write its record."""
    from mosa.data.metrics import get_metric
    from mosa.engine.run import execute
    from mosa.experiment.expand import Run
    from mosa.experiment.manifest import with_choice
    from mosa.search.choose import read_choice

    machine, _held = _take_machine(options)
    specification = _take_specification(options, pack)
    if choice is not None:
        specification = with_choice(specification, read_choice(choice)["chosen"])
    record = execute(Run(specification, seed), pack, output, machine)
    metrics, metric = record["metrics"], get_metric(record["metric"])
    click.echo(
        f"{specification.task} {specification.variant} seed {seed}: {metric.title} "
        f"{metrics[metric.name]:.2f} {metric.unit} on {record['splits']['eval']} "
        f"({metrics['examples']} images), {record['seconds']['total']:.1f} s -> {output}"
    )


@cli.command()
@run_options
@click.option(
    "--space",
    type=Options(),
    required=True,
    help='What is tried, as JSON: {"training": {"lr": [0.01, 0.1]}}.',
)
@click.option("--search", type=click.Choice(["grid", "random", "sobol"]), default="grid", show_default=True)
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials, for random and sobol.")
@click.option("--search-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--seeds",
    callback=_numbers,
    default="0",
    show_default=True,
    help="Seeds of every trial, comma-separated.",
)
@click.option(
    "--min-epochs", type=click.IntRange(min=1), help="Successive halving: epochs of the first round."
)
@click.option("--factor", type=click.IntRange(min=2), default=2, show_default=True, help="Of halving.")
@click.option("--folder", type=FOLDER, required=True, help="Where the records of the trainings are kept.")
@click.option("--output", type=FILE, required=True, help="Results of the trials to write (.json).")
def tune(pack: Path, folder: Path, output: Path, **options) -> None:
    """Train what is tried of a method on a task, on train, evaluated on val; test is never opened."""
    from mosa.experiment.expand import Run
    from mosa.experiment.space import parse_space
    from mosa.search.trials import Search, run_search

    machine, _held = _take_machine(options)
    specification = _take_specification(options, pack)
    how = {name: options.pop(name) for name in ("trials", "seeds", "min_epochs", "factor")}
    search = Search(parse_space(options["space"]), options["search"], seed=options["search_seed"], **how)
    result = run_search(Run(specification), search, pack, folder, output, machine)
    done = len(result["trials"])
    click.echo(f"{specification.task} {specification.variant}: {done} trials -> {output}")


@cli.command()
@click.argument("trials", type=FILE, nargs=-1, required=True)
@click.option("--output", type=FILE, required=True, help="Choice to write (.json).")
def choose(trials: tuple[Path, ...], output: Path) -> None:
    """Choose the best of TRIALS: the results of `mosa tune` for a variant, a file for each task."""
    from mosa.search.choose import choose, describe, write_choice

    choice = choose(trials)
    write_choice(choice, output)
    click.echo(
        f"{choice['variant']}: {describe(choice['chosen'])}, {choice['top1']:.2f} % on val -> {output}"
    )


@cli.command()
@click.argument("manifest", type=FILE)
@click.option("--per", type=click.Choice(["task", "benchmark"]), default="task", show_default=True)
@click.option("--output", type=FOLDER, required=True, help="Folder to write to.")
def choices(manifest: Path, per: str, output: Path) -> None:
    """Write tables of what is chosen among trials, from the files of `mosa tune` that MANIFEST lists."""
    from mosa.search.table import write_choices

    write_choices(_listed(manifest), output, per)


CONFIGFILE = click.option(
    "--configfile",
    "files",
    type=FILE,
    multiple=True,
    help="Config, as for snakemake: merged over config.yaml, and over the ones before. Repeatable.",
)


ALONE = click.option("--alone", is_flag=True, help="Read the given files only, not config.yaml before them.")


def _config(files: tuple[Path, ...], alone: bool) -> dict:
    """Read the config that `snakemake --configfile FILES` would run."""
    from mosa.experiment.config import read_config

    base = Path("config.yaml")
    return read_config(*([base] if base.is_file() and base not in files and not alone else []), *files)


@cli.command()
@CONFIGFILE
@ALONE
@click.option("--quick", is_flag=True, help="Read the lists only, and open no image.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads that decode."
)
@click.option("--output", type=FILE, help="Write the table to a file too, if there is no error.")
def check(files: tuple[Path, ...], alone: bool, quick: bool, threads: int, output: Path | None) -> None:
    """Check that data, weights and methods of a config are in order; ends with status 1 if not."""
    from mosa.base.files import written_atomically
    from mosa.engine import preflight as checks

    findings = checks.check(_config(files, alone), quick, threads)
    text = checks.table(findings)
    click.echo(text)
    if any(finding.state == "error" for finding in findings):
        sys.exit(1)
    if output is not None:
        with written_atomically(output) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


@cli.command()
@CONFIGFILE
@ALONE
def plan(files: tuple[Path, ...], alone: bool) -> None:
    """Tell what a config will cost: runs to do, image-passes, disk, and hours by the records there are."""
    from mosa.experiment.plan import plan

    click.echo(plan(_config(files, alone)), nl=False)


@cli.command()
@CONFIGFILE
@ALONE
@click.option("--gradient-checkpointing", is_flag=True, help="As if the config had it.")
def memory(files: tuple[Path, ...], alone: bool, gradient_checkpointing: bool) -> None:
    """Tell how much GPU memory the variants of a config take, and what fits cards of 8 to 80 GB."""
    from mosa.engine.cost.memory import memory_table
    from mosa.engine.machine import Machine

    config = _config(files, alone)
    machine = Machine(gradient_checkpointing=gradient_checkpointing or config["gradient_checkpointing"])
    click.echo(memory_table(config, machine), nl=False)


@cli.command()
@click.option(
    "--manifest", type=FILE, required=True, help="Manifest of the workflow: which records are meant."
)
@click.option(
    "--existing", is_flag=True, help="Leave out, and list, what is missing or of another specification."
)
@click.option("--output", type=FILE, required=True, help="CSV to write, one row per run.")
def collect(manifest: Path, existing: bool, output: Path) -> None:
    """Verify the records of a manifest, each against its specification, and collect them into one CSV."""
    from mosa.results.collect import collect

    found, meant, stale = collect(manifest, output, existing)
    for problem in stale:
        click.echo(f"left out: {problem}", err=True)
    click.echo(f"{found} of {meant} records -> {output}")


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [name for name in value.split(",") if name]


RECORDS = click.option(
    "--records", type=ANY, required=True, help="Folder of records, or the CSV of `mosa collect`."
)
VARIANTS = click.option(
    "--variants", callback=_names, help="Variants of the main comparison, comma-separated, in this order."
)
METRIC = click.option("--metric", help="Metric to compare by; by default the one that the tasks report.")


@cli.command()
@RECORDS
@VARIANTS
@METRIC
@click.option("--output", type=FOLDER, required=True, help="Folder to write to.")
def tables(records: Path, variants: list[str] | None, metric: str | None, output: Path) -> None:
    """Write all tables (CSV, Markdown; the comparison in LaTeX, HTML and as text, too) from records."""
    from mosa.results.frame import read_table
    from mosa.results.tables.write import terminal_table, write_tables

    frame = read_table(records)
    write_tables(frame, output, variants, metric)
    click.echo(terminal_table(frame, variants, metric))


@cli.command()
@RECORDS
@VARIANTS
@METRIC
@click.option("--output", type=FOLDER, required=True, help="Folder to write to.")
def plots(records: Path, variants: list[str] | None, metric: str | None, output: Path) -> None:
    """Draw all plots (SVG, PDF, PNG) from records."""
    from mosa.results.frame import read_table
    from mosa.results.plots.write import write_plots

    write_plots(read_table(records), output, variants, metric)


@cli.command()
@RECORDS
@VARIANTS
@METRIC
@click.option("--title", default="Benchmark", show_default=True, help="Name of the experiment.")
@click.option("--config", type=FILE, help="Config (YAML) to show.")
@click.option("--choices", type=FILE, help="What was tuned: the chosen.json of `mosa choices`.")
@click.option("--manifest", type=FILE, help="Manifest of the workflow; records that are missing are listed.")
@click.option(
    "--results",
    type=FOLDER,
    default="results",
    show_default=True,
    help="Folder of runs/ and logs/, for those.",
)
@click.option("--output", type=FILE, required=True, help="Page to write (.html).")
def report(
    records: Path,
    variants: list[str] | None,
    metric: str | None,
    title: str,
    config: Path | None,
    choices: Path | None,
    manifest: Path | None,
    results: Path,
    output: Path,
) -> None:
    """Write a report from records: one HTML page with tables, interactive plots, and every run."""
    from mosa.experiment.manifest import read_manifest
    from mosa.results.frame import read_table
    from mosa.results.report import missing_runs, write_report

    text = _read_text(config) if config else ""
    try:
        chosen = json.loads(_read_text(choices)) if choices else []
    except ValueError as error:
        raise UserError(f"{choices}: not JSON ({error}); expected what `mosa choices` wrote") from None
    meant = read_manifest(manifest)[1] if manifest else []
    missing = missing_runs([one.path for one in meant], results)
    write_report(read_table(records), output, variants, title, text, chosen, missing, metric)
    click.echo(f"report -> {output}")


@cli.command()
def methods() -> None:
    """List the methods, with their architectures, options and defaults."""
    from mosa.peft import get_method, list_methods

    for name in list_methods():
        method = get_method(name)
        click.echo(f"{name}: {method.__doc__.partition(chr(10))[0]}")
        click.echo(f"    for {', '.join(method.families)}; {method.reference}")
        for option, field in method.model_fields.items():
            click.echo(f"    {option} = {field.default}  ({field.description})")


@cli.command()
def tasks() -> None:
    """List the benchmarks and their tasks."""
    from mosa.data.catalogue import get_task, list_benchmarks, list_tasks

    for benchmark in list_benchmarks():
        for name in list_tasks(benchmark):
            task = get_task(f"{benchmark}/{name}")
            sizes = ", ".join(f"{split} {size}" for split, size in task.sizes.items())
            about = f" {task.description}" if task.description else ""
            click.echo(f"{task.full_name} ({task.group}): {task.num_classes} classes, {sizes}.{about}")


@cli.command()
def schema() -> None:
    """Write again what is generated: schemas, the list of tables and plots, and pages of docs."""
    from mosa.experiment.outputs import OUTPUTS
    from mosa.experiment.schema import config_schema, configuration_page
    from mosa.peft.describe import methods_page, methods_schema
    from mosa.results.describe import record_schema, records_page
    from mosa.results.registry import generated_files, outputs_data

    docs = PACKAGE.parent / "docs"
    for path, text in (
        (SCHEMAS / "methods.schema.json", json.dumps(methods_schema(), indent=2) + "\n"),
        (SCHEMAS / "config.schema.json", json.dumps(config_schema(), indent=2) + "\n"),
        (SCHEMAS / "record.schema.json", json.dumps(record_schema(), indent=2) + "\n"),
        (docs / "records.md", records_page()),
        (docs / "methods.md", methods_page()),
        (docs / "configuration.md", configuration_page()),
        (OUTPUTS, json.dumps(outputs_data(), indent=2) + "\n"),
        *(generated_files().items() if docs.is_dir() else ()),
    ):
        if path.parent.is_dir():  # an installed package has no docs
            path.write_text(text, encoding="utf-8")
            click.echo(f"wrote {path}")


def main(warm: bool = True) -> None:
    """Run the command line; a `UserError` ends it with one sentence and status 2.

    Args:
        warm: If MOSA_WARM is set, let a server that has imported torch do the run (see `mosa.cli.warm`).
    """
    if warm and os.environ.get("MOSA_WARM"):
        from mosa.cli.warm import COMMANDS, run_warm

        status = run_warm(sys.argv[1:]) if sys.argv[1:2] and sys.argv[1] in COMMANDS else None
        if status is not None:
            sys.exit(status)
    try:
        cli()
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        number = getattr(error, "stopped_by", None)  # mosa.engine.resume.Interrupted, which needs torch
        if number is None:
            raise
        click.echo(str(error), err=True)
        sys.exit(128 + number)
