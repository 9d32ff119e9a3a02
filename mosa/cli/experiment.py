"""Verbs that look at a whole experiment: what it needs, what it costs, whether its records are in order."""

import sys
import time
from pathlib import Path

import click

from mosa.base.errors import UserError
from mosa.base.words import count
from mosa.cli.options import (
    ALONE,
    ANY,
    CONFIGFILE,
    FILE,
    FOLDER,
    JSON,
    SHOWING,
    Written,
    config_of,
    echo_json,
)


@click.command()
@CONFIGFILE
@ALONE
@click.option("--quick", is_flag=True, help="Read the lists only, and open no image.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads that decode."
)
@click.option("--output", type=FILE, help="Write the table to a file too, if there is no error.")
@JSON
def check(
    files: tuple[Path, ...], alone: bool, quick: bool, threads: int, output: Path | None, as_json: bool
) -> None:
    """Check that data, weights and methods of a config are in order; ends with status 1 if not."""
    from mosa.base.files import written_atomically
    from mosa.engine import preflight as checks

    findings = checks.check(config_of(files, alone), quick, threads)
    text = checks.table(findings)
    if as_json:
        echo_json([checks.as_data(finding) for finding in findings])
    else:
        click.echo(text)
    errors = sum(finding.state == "error" for finding in findings)
    if errors:
        # The last line of a job's log says whether to do it again (mosa.experiment.failures).
        click.echo(
            f"{UserError.label}: {errors} of {count(len(findings), 'check')} failed; see the table", err=True
        )
        sys.exit(1)
    if output is not None:
        with written_atomically(output) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


@click.command()
@CONFIGFILE
@ALONE
@JSON
def plan(files: tuple[Path, ...], alone: bool, as_json: bool) -> None:
    """Estimate what a config costs: runs to do, image-passes, disk, and hours.

    Hours are at the rates of past runs; before there are any, at an assumed rate, and marked.
    """
    from mosa.experiment.plan import plan, plan_data

    if as_json:
        return echo_json(plan_data(config_of(files, alone)))
    click.echo(plan(config_of(files, alone)), nl=False)


@click.command()
@CONFIGFILE
@ALONE
@click.option("--watch", is_flag=True, help="Show it again and again, until all is done or Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Seconds between."
)
@click.option("--json", "as_data", is_flag=True, help="As JSON, with every run.")
def status(files: tuple[Path, ...], alone: bool, watch: bool, interval: float, as_data: bool) -> None:
    """Say how far a config is: runs done, running, silent, failed (and why), stale and to do.

    Ends with status 0 if all is done, 1 if a run failed or is silent, 3 if runs are to do or running.
    """
    from mosa.experiment.status import ALL_DONE, as_json, as_text, status_of
    from mosa.experiment.workflow import Workflow

    workflow = Workflow.of(config_of(files, alone))
    while True:
        found = status_of(workflow)
        if watch:
            click.clear()  # which does nothing where there is no terminal
        click.echo((as_json if as_data else as_text)(found), nl=False)
        if not watch or found.exit_status == ALL_DONE:
            sys.exit(found.exit_status)
        time.sleep(interval)


@click.command()
@CONFIGFILE
@ALONE
@click.option("--gradient-checkpointing", is_flag=True, help="As if the config had it.")
def memory(files: tuple[Path, ...], alone: bool, gradient_checkpointing: bool) -> None:
    """Report how much GPU memory the variants of a config take, and what fits cards of 8 to 80 GB."""
    from mosa.engine.cost.memory import memory_table
    from mosa.engine.machine import Machine

    config = config_of(files, alone)
    machine = Machine(gradient_checkpointing=gradient_checkpointing or config["gradient_checkpointing"])
    click.echo(memory_table(config, machine), nl=False)


@click.command()
@click.option(
    "--manifest", type=FILE, required=True, help="Manifest of the workflow: which records are meant."
)
@click.option(
    "--existing", is_flag=True, help="Leave out, and list, what is missing or of another specification."
)
@SHOWING
@click.option("--output", type=Written(".csv"), required=True, help="CSV to write, one row per run.")
def collect(manifest: Path, existing: bool, output: Path) -> None:
    """Verify the records of a manifest, each against its specification, and collect them into one CSV."""
    from mosa.results.collect import collect

    found, meant, stale = collect(manifest, output, existing)
    for problem in stale:
        click.echo(f"left out: {problem}", err=True)
    click.echo(f"{found} of {count(meant, 'record')} -> {output}")


@click.command()
@click.argument("records", type=ANY, nargs=-1)
@CONFIGFILE
@ALONE
@click.option(
    "--packs", type=FOLDER, help="Folder of the packs; default: that of the config, or results/packs."
)
@JSON
def verify(
    records: tuple[Path, ...], files: tuple[Path, ...], alone: bool, packs: Path | None, as_json: bool
) -> None:
    """Verify RECORDS (files or folders), or all that a config has: digests, specification, pack and weights.

    Those of a config are also compared with the specification that it means, and so are RECORDS if a config
    is given. Ends with status 1 if one is not in order.
    """
    from mosa.engine.verify import Wanted, describe, verify
    from mosa.experiment.workflow import Workflow
    from mosa.results.frame import find_records
    from mosa.search.choose import meant_specification

    paths = [path for place in records for path in (find_records(place) if place.is_dir() else [place])]
    if records and not (files or alone):
        wanted = [Wanted(path) for path in paths]
    else:
        workflow = Workflow.of(config_of(files, alone))
        packs = packs or Path(workflow.packs)
        of_config = {meant.path.resolve(): meant for meant in workflow.meant()}
        for path in paths:
            if path.resolve() not in of_config:
                raise UserError(f"{path}: is no record of this config; leave --configfile out, or the record")
        chosen = [path.resolve() for path in paths] or [path for path in of_config if path.exists()]
        wanted = [Wanted(of_config[path].path, meant_specification(of_config[path])) for path in chosen]
        if not wanted:
            raise UserError(
                f"{workflow.results}: has none of the records of this config ({len(workflow.runs)} meant)"
            )
    verdicts = verify(wanted, packs or Path("results/packs"))
    lines, good = describe(verdicts)
    if as_json:
        echo_json(verdicts)
    else:
        click.echo("\n".join(lines))
    if not good:
        sys.exit(1)


@click.command()
@click.argument("record", type=FILE)
@click.option("--packs", type=FOLDER, help="Folder of the packs; without it, the pack is made anew.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default as the record says.")
def reproduce(record: Path, packs: Path | None, threads: int | None) -> None:
    """Train the run of RECORD again, from the record alone, and say whether the result is the same.

    Ends with status 1 if it is different.
    """
    from mosa.engine.reproduce import reproduce

    found = reproduce(record, packs, threads)
    click.echo(f"{record}: {found.verdict}")
    if found.difference:
        click.echo(f"first difference: {found.difference}\nseed noise: {found.noise}")
    for difference in found.environment:
        click.echo(f"environment: {difference}")
    if found.verdict == "different":
        sys.exit(1)
