"""Verbs that make what runs read: packs, and the micro backbone."""

from pathlib import Path

import click

from mosa.cli.options import FILE, FOLDER, PLUGIN, OneOf, Options, Written
from mosa.data.task import INTERPOLATIONS


@click.command("make-data")
@click.argument("task", required=False)
@click.option("--output", type=Written(".safetensors"), required=True, help="Pack to write (.safetensors).")
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
@click.option("--interpolation", type=OneOf(list(INTERPOLATIONS)), default="bicubic", show_default=True)
@PLUGIN
@click.option("--content", help="Digest of the files as the workflow found them; other files are refused.")
@click.option(
    "--frozen",
    type=FILE,
    help="Frozen experiment of the workflow, which says what this pack is and how it is made.",
)
@click.option("--limit-gib", type=click.FloatRange(min=0, min_open=True), help="Largest pack, in GiB.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads that decode."
)
def make_data(
    task: str | None, output: Path, own: dict | None, frozen: Path | None, threads: int, **options
) -> None:
    """Render or read a TASK such as demo/digits, once, into a pack of uint8 arrays."""
    from mosa.data import make_pack
    from mosa.data.task import task_from_config

    if frozen is not None:
        how = [*_how_it_is_made(output, frozen), f"--threads={threads}", f"--output={output}"]
        return make_data.main(how, standalone_mode=False)
    if task is None:
        raise click.UsageError("Missing argument 'TASK'.")
    options["threads"] = threads
    if own is not None:
        task = task_from_config(task.rpartition("/")[2], _entry(own))
    make_pack(task, output, **options)


def _entry(own: dict) -> dict:
    """Return the entry of a user's own task, with its defaults.

    Raises:
        UserError: A key is missing, unknown, or has no such value.
    """
    from mosa.experiment.models import OwnTask
    from mosa.experiment.validation import Places, validated

    # The reader is the workflow's, which names no plugin here that only a metric is from.
    others = {key: own[key] for key in ("reader", "metric") if key in own}
    given = {key: value for key, value in own.items() if key not in others}
    return validated(OwnTask, given, ("--own",), Places()).model_dump() | others


def _how_it_is_made(pack: Path, frozen: Path) -> list[str]:
    """Return what a pack is and how it is made, by a frozen experiment, as arguments of `mosa make-data`.

    Raises:
        UserError: It has no such pack.
    """
    from mosa.base.errors import UserError
    from mosa.experiment.workflow import Workflow

    workflow = Workflow.from_frozen(str(frozen))
    if (
        not pack.is_relative_to(workflow.packs)
        or (name := pack.relative_to(workflow.packs).as_posix()) not in workflow.packed
    ):
        raise UserError(f"{pack}: not a pack of the experiment {frozen}; run the workflow again")
    return [workflow.packed[name].task, *workflow.pack_options(name)]


@click.command()
@click.option(
    "--output",
    type=Written(".safetensors"),
    required=True,
    help="Weights to write (.safetensors, and .json beside it).",
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
