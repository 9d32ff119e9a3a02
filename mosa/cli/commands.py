"""`mosa <verb>`: what the workflow's rules call, and what a person calls.

Each verb imports what it needs when it runs, so that help and tables do not wait for torch.
"""

import sys

import click

from mosa import __version__
from mosa.base.errors import UserError
from mosa.cli import data, experiment, reference, results, runs, share


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mosa")
def cli() -> None:
    """A reproducible benchmark of parameter-efficient fine-tuning for vision."""


for _command in (
    *(data.make_data, data.pretrain),
    *(runs.train, runs.tune, runs.choose, runs.choices, runs.predict),
    *(experiment.check, experiment.plan, experiment.status, experiment.memory),
    *(experiment.collect, experiment.verify, experiment.reproduce),
    *(results.tables, results.plots, results.report),
    *(share.compare, share.export, share.import_),
    *(reference.methods, reference.tasks, reference.schema),
):
    cli.add_command(_command)


def run() -> None:
    """Run the command line; a `UserError` ends it with one sentence, and its status."""
    try:
        cli()
    except UserError as error:
        click.echo(f"{error.label}: {error}", err=True)
        sys.exit(error.status)
    except Exception as error:
        number = getattr(error, "stopped_by", None)  # mosa.engine.resume.Interrupted, which needs torch
        if number is None:
            raise
        click.echo(str(error), err=True)
        sys.exit(128 + number)
