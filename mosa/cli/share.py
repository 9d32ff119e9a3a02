"""Verbs for results that travel: comparing several sources, exporting a bundle, importing one."""

from pathlib import Path

import click

from mosa.base.words import count
from mosa.cli.options import (
    ALONE,
    CONFIGFILE,
    FILE,
    FOLDER,
    METRIC,
    REFERENCE,
    SHOWING,
    VARIANTS,
    OneOf,
    config_of,
    refuse_to_overwrite,
)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE SOURCE...")
@VARIANTS
@METRIC
@REFERENCE
@click.option(
    "--format", "form", type=OneOf(["text", "md", "csv", "json"]), default="text", show_default=True
)
@click.option("--output", type=FILE, help="File to write to, instead of the terminal.")
@SHOWING
def compare(
    sources: tuple[str, ...],
    variants: list[str] | None,
    metric: str | None,
    reference: str | None,
    form: str,
    output: Path | None,
) -> None:
    """Compare the records of each SOURCE with those of the first, side by side.

    A source is a results folder, a record (.json) or a bundle (.zip), named as in theirs=lab-b.zip. What does
    not measure the same (protocol, split, data, weights) is shown, marked with the reason, and not compared.
    """
    from mosa.base.files import written_atomically
    from mosa.results.side_by_side import opened, rendered, side_by_side

    if output is not None:
        refuse_to_overwrite(output, [Path(source.rpartition("=")[2]) for source in sources])
    with opened(sources) as found:
        text = rendered(side_by_side(found, variants, metric, reference), form)
    if output is None:
        click.echo(text, nl=False)
        return
    with written_atomically(output) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    click.echo(f"comparison of {count(len(sources), 'source')} -> {output}")


@click.command("export")
@CONFIGFILE
@ALONE
@click.option("--existing", is_flag=True, help="Leave out runs without a record, instead of refusing.")
@click.option(
    "--predictions/--no-predictions", default=True, show_default=True, help="Take predictions that were kept."
)
@click.option("--models", is_flag=True, help="Take tuned models that were kept.")
@click.option(
    "--license",
    "license_",
    help="Licence of the bundle, an address such as https://spdx.org/licenses/CC-BY-4.0.",
)
@click.option("-o", "--output", type=FILE, required=True, help="Bundle to write (.zip).")
def export(
    files: tuple[Path, ...],
    alone: bool,
    existing: bool,
    predictions: bool,
    models: bool,
    license_: str | None,
    output: Path,
) -> None:
    """Write the records of a config, with all that they are verified by, into one file for others."""
    from mosa.experiment.workflow import Workflow
    from mosa.results.bundle.contents import contents_of
    from mosa.results.bundle.export import LICENSE, write_bundle

    workflow = Workflow.of(config_of(files, alone))
    contents = contents_of(Path(workflow.manifest), existing, predictions, models)
    number = write_bundle(contents, Path(workflow.shown_config), output, license_ or LICENSE)
    missing = f", without {count(len(contents.missing), 'missing one')}" if contents.missing else ""
    click.echo(f"{count(len(contents.records), 'record')}{missing}, {count(number, 'file')} -> {output}")
    kept = sum(str(path).endswith(".model.safetensors") for path in contents.kept)
    if models and kept < len(contents.records):
        runs = f"{len(contents.records) - kept} of {count(len(contents.records), 'run')}"
        hint = "keep: {model: true} keeps those of runs that are done from now on"
        click.echo(f"--models: {runs} kept no model; {hint}", err=True)


@click.command("import")
@click.argument("bundle", type=FILE)
@click.option(
    "--into",
    type=FOLDER,
    help="Results folder to put it into; by default one beside the bundle, with its name.",
)
@click.option(
    "--limit-gib",
    type=click.FloatRange(min=0, min_open=True),
    default=16.0,
    show_default=True,
    help="Largest size unpacked.",
)
def import_(bundle: Path, into: Path | None, limit_gib: float) -> None:
    """Verify every digest of a BUNDLE of `mosa export`, and put its files into a results folder.

    A file that is there already is never replaced: if its content is another one, nothing is imported.
    """
    from mosa.results.bundle.read import import_bundle

    folder = into or bundle.with_suffix("")
    found = import_bundle(bundle, folder, limit_gib)
    there = f", {count(found.there, 'file')} there already" if found.there else ""
    part = f"{found.records} of " if found.missing else ""
    click.echo(f"{part}{count(found.records + found.missing, 'record')} verified{there} -> {folder}")
    click.echo(
        f"tables: mosa collect --manifest {found.manifest} --existing --output {folder}/tables/runs.csv && "
        f"mosa tables --records {folder}/tables/runs.csv --output {folder}/tables"
    )
