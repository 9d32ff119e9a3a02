"""`mosa <verb>`: what the workflow's rules call, and what a person calls.

Each verb imports what it needs when it runs, so that help and tables do not wait for torch.
"""

import os
import sys
import traceback
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from io import TextIOWrapper

import click

from mosa import __version__
from mosa.base.errors import Shortage, UserError
from mosa.base.extras import missing_module
from mosa.base.plugins import blamed, own_traceback
from mosa.cli import data, experiment, plugins, reference, results, runs, share, workflow
from mosa.cli.help import Sections, examples

_EXAMPLES = [
    "mosa init --own-data FOLDER",
    "mosa run",
    "mosa check --configfile configs/vtab1k.yaml",
    "mosa tables --records results/runs --output tables",
]


@click.group(
    cls=Sections, epilog=examples(_EXAMPLES), context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="mosa")
def cli() -> None:
    """A reproducible benchmark of parameter-efficient fine-tuning for vision."""


cli.add("Run", [workflow.init, workflow.run, experiment.status])
cli.add("Before a run", [experiment.check, experiment.plan, experiment.memory])
cli.add("Show results", [results.tables, results.plots, results.report])
cli.add("Use a model", [runs.predict])
cli.add("Share results", [share.compare, share.export, share.import_])
cli.add("Trust a record", [experiment.verify, experiment.reproduce])
cli.add("Add a method", [plugins.new, plugins.conformance])
cli.add("Look up", [reference.methods, reference.tasks])
cli.add("Steps of the workflow", [data.make_data, runs.train, runs.tune, runs.choose, runs.choices])
cli.add("Steps of the workflow", [experiment.collect])
cli.add("For developers", [data.pretrain, reference.schema])


def run() -> None:
    """Run the command line; a `UserError` ends it with one sentence, and its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.encoding.lower() != "utf-8":
            with suppress(OSError):  # of a pipe that was handed over
                stream.reconfigure(errors="backslashreplace")
    try:
        cli()
    except UserError as error:
        click.echo(f"{error.label}: {error}", err=True)
        sys.exit(error.status)
    except ModuleNotFoundError as error:
        lacking = missing_module(error.name)
        if lacking is None:
            raise
        click.echo(f"{lacking.label}: {lacking}", err=True)
        sys.exit(lacking.status)
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT) or error.filename is not None:
            raise
        # What could not be written is still in the stream, which Python would write once more as it ends.
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        click.echo(
            f"{Shortage.label}: output cannot be written ({error.strerror}); make room for it", err=True
        )
        sys.exit(Shortage.status)
    except Exception as error:
        number = getattr(error, "stopped_by", None)  # mosa.engine.resume.Interrupted, which needs torch
        if number is not None:
            click.echo(str(error), err=True)
            sys.exit(128 + number)
        reason = blamed(error)
        if reason is None or isinstance(error, (OSError, RuntimeError, MemoryError)):  # worth a retry
            raise
        traceback.print_exception(error.with_traceback(own_traceback(error)))
        click.echo(f"{UserError.label}: {reason}", err=True)
        sys.exit(UserError.status)
