"""Verbs that show records: tables, plots, the report."""

from pathlib import Path

import click

from mosa.cli.options import FILE, FOLDER, Written, names, read_text, shows_records, take_records


@click.command()
@shows_records
@click.option("--only", callback=names, help="Names of the tables to write, comma-separated; by default all.")
@click.option("--output", type=FOLDER, required=True, help="Folder to write to.")
def tables(
    records: Path,
    variants: list[str] | None,
    unfinished: bool,
    metric: str | None,
    reference: str | None,
    only: list[str] | None,
    output: Path,
) -> None:
    """Write all tables (CSV, Markdown; the comparison in LaTeX, HTML and as text, too) from records."""
    from mosa.results.tables.write import terminal_table, write_tables

    frame = take_records(records, variants, unfinished, metric)
    write_tables(frame, output, variants, metric, reference, only)
    click.echo(terminal_table(frame, variants, metric))


@click.command()
@shows_records
@click.option("--only", callback=names, help="Names of the plots to draw, comma-separated; by default all.")
@click.option("--titles", is_flag=True, help="Draw title and caption into the plots, not only beside them.")
@click.option(
    "--columns",
    type=click.IntRange(1, 2),
    default=2,
    show_default=True,
    help="Of a page that a plot takes: 3.3 or 6.9 inches wide.",
)
@click.option("--output", type=FOLDER, required=True, help="Folder to write to.")
def plots(
    records: Path,
    variants: list[str] | None,
    unfinished: bool,
    metric: str | None,
    reference: str | None,
    only: list[str] | None,
    titles: bool,
    columns: int,
    output: Path,
) -> None:
    """Draw all plots (SVG, PDF, PNG), each with its caption (TXT), from records."""
    from mosa.results.plots.write import write_plots

    frame = take_records(records, variants, unfinished, metric)
    write_plots(frame, output, variants, metric, reference, titles, columns, only)


@click.command()
@shows_records
@click.option("--title", default="Benchmark", show_default=True, help="Name of the experiment.")
@click.option("--config", type=FILE, help="Config (YAML) to show.")
@click.option("--choices", type=FILE, help="What was chosen: the chosen.json of `mosa choices`.")
@click.option("--manifest", type=FILE, help="Manifest of the workflow; records that are missing are listed.")
@click.option(
    "--results",
    type=FOLDER,
    default="results",
    show_default=True,
    help="Folder of runs/ and logs/, for those.",
)
@click.option("--output", type=Written(".html"), required=True, help="Page to write (.html).")
def report(
    records: Path,
    variants: list[str] | None,
    unfinished: bool,
    metric: str | None,
    reference: str | None,
    title: str,
    config: Path | None,
    choices: Path | None,
    manifest: Path | None,
    results: Path,
    output: Path,
) -> None:
    """Write a report from records: one HTML page with tables, interactive plots, and every run."""
    from mosa.experiment.manifest import read_manifest
    from mosa.results.choices import read_choices
    from mosa.results.report import missing_runs, write_report

    text = read_text(config) if config else ""
    chosen = read_choices(choices) if choices else []
    head, meant = read_manifest(manifest) if manifest else ({"left_out": {}}, [])
    missing = missing_runs([one.path for one in meant], results)
    frame, left_out = take_records(records, variants, unfinished, metric), head["left_out"]
    write_report(frame, output, variants, title, text, chosen, missing, metric, left_out, reference)
    click.echo(f"report -> {output}")
