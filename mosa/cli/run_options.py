"""The options of `mosa train` and `mosa tune`: what a run is, and how it is done; from their declarations."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from mosa.base.errors import UserError
from mosa.base.plugins import in_use
from mosa.cli.options import FILE, FOLDER, PLUGIN, OneOf, Options
from mosa.experiment.plugins import describe, use_for, used_by
from mosa.experiment.protocol import PRESETS
from mosa.experiment.recipe import COMPILE
from mosa.experiment.specification import (
    BackboneUsed,
    Specification,
    make_specification,
    read_specification,
)

if TYPE_CHECKING:
    from mosa.engine.keep import Keep
    from mosa.engine.machine import Machine

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
        type=OneOf(COMPILE),
        default="none",
        show_default=True,
        help="Compile every block, or replay whole steps as CUDA graphs, on a GPU.",
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


# What a run leaves beside its record: the config's `keep`.
_KEEP = [
    click.option(
        "--keep-predictions",
        envvar="MOSA_KEEP_PREDICTIONS",
        type=OneOf(["auto", "true", "false"]),
        default="auto",
        show_default=True,
        help="Keep logits and labels beside the record; auto: where they take 50 MiB at most.",
    ),
    click.option(
        "--keep-model",
        envvar="MOSA_KEEP_MODEL",
        is_flag=True,
        help="Keep the tuned model beside the record, for `mosa predict`.",
    ),
    click.option(
        "--keep-events",
        envvar="MOSA_KEEP_EVENTS",
        is_flag=True,
        help="Write TensorBoard events of each epoch beside the record.",
    ),
    click.option(
        "--keep-val",
        envvar="MOSA_KEEP_VAL",
        is_flag=True,
        help="Evaluate val after each epoch, where it is not trained on, and keep its curve in the record.",
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
        kind = OneOf(get_args(kind))
    elif name == "protocol":
        kind = OneOf(list(PRESETS))
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
    for option in reversed([spec, pack, *map(_flat_option, _FLAT), PLUGIN, *_MACHINE]):
        command = option(command)
    return command


def keep_options(command: Callable) -> Callable:
    """Add the options that say what a run leaves beside its record."""
    for option in reversed(_KEEP):
        command = option(command)
    return command


def take_keep(options: dict[str, Any]) -> "Keep":
    """Take out the options that say what a run leaves beside its record."""
    from mosa.engine.keep import Keep

    predictions = {"true": True, "false": False, "auto": "auto"}[options.pop("keep_predictions")]
    return Keep(predictions, options.pop("keep_model"), options.pop("keep_events"), options.pop("keep_val"))


def take_specification(options: dict[str, Any], pack: Path) -> Specification:
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
        specification = read_specification(spec)
        use_for(specification)
        return specification
    for name in ("task", "method"):
        if flat[name] is None:
            raise UserError(f"--{name} is missing; give it, or a specification file with --spec")
    sha256 = digest_of_weights(flat["architecture"], flat["weights"])
    opened = Pack(pack)
    plugins = [describe(plugin) for plugin in in_use()]
    used = used_by(plugins, flat["method"], flat["architecture"], opened.task.layout)
    return make_specification(**flat, sha256=sha256, source=opened.source, **used)


def take_machine(options: dict[str, Any]) -> tuple["Machine", Any]:
    """Take out the options that say how a run is done; return them, and what keeps its GPU while held."""
    from dataclasses import fields

    from mosa.engine.devices import choose_device
    from mosa.engine.machine import Machine

    device, held = choose_device(options.pop("device"), options.pop("runs_per_gpu"))
    own = {field.name: options.pop(field.name) for field in fields(Machine) if field.name in options}
    return Machine(device=device, **own), held
