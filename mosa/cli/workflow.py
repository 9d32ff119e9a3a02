"""Verbs that need no clone of the repository: write a config into a folder, and run the workflow there."""

import shlex
from pathlib import Path

import click

from mosa.cli.options import ANY, FILE, FOLDER


class PassedOn(click.Command):
    """A command that passes unknown options on, and with them `--`, which click would drop."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            args = [*args[:place], "--", *args[place:]]
        return super().parse_args(ctx, args)


@click.command(cls=PassedOn, context_settings={"ignore_unknown_options": True})
@click.argument("targets", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--configfile",
    "files",
    type=FILE,
    multiple=True,
    help="Config, merged over ./config.yaml if that is there, and over the ones before. Repeatable.",
)
def run(targets: tuple[str, ...], files: tuple[Path, ...]) -> None:
    """Run the workflow in this folder: all of it, or TARGETS such as tables, report, or a file in results/.

    Every option of snakemake may be given, such as --cores 4 (default: all), --dry-run, --config
    'seeds=[0,1]', or --profile profiles/slurm. The configs and profiles that come with the package are
    found by their names from every folder: --configfile configs/vtab1k.yaml. The exit status is Snakemake's.
    """
    from mosa.cli.launch import run_workflow

    run_workflow(list(targets), list(files))


@click.command()
@click.argument("folder", type=FOLDER, default=".")
@click.option(
    "--own-data",
    type=ANY,
    help="Your images: a folder with a folder for each class (below train, val and test, if there are "
    "splits), a folder with train.txt, or a CSV with the columns path and label.",
)
@click.option("--force", is_flag=True, help="Overwrite a config.yaml that is there.")
def init(folder: Path, own_data: Path | None, force: bool) -> None:
    """Write a config.yaml to start from, for the demo or for your own images, into FOLDER (default: this)."""
    from mosa.experiment.starter import write_config

    written = write_config(folder, own_data, force)
    for line in written.notes:
        click.echo(line)
    there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    click.echo(f"wrote {written.path}; next: {there}mosa run")
