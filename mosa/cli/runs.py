"""Verbs that train: one run, or a search of hyper-parameters and the choice among its trials."""

import sys
from pathlib import Path

import click

from mosa.base.errors import UserError
from mosa.base.words import count
from mosa.cli.options import ANY, FILE, FOLDER, OneOf, Options, Written, listed, numbers, refuse_to_overwrite
from mosa.cli.run_options import keep_options, run_options, take_keep, take_machine, take_specification


@click.command()
@run_options
@keep_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the run.")
@click.option("--choice", type=FILE, help="Hyper-parameters that `mosa choose` took, over those given.")
@click.option("--output", type=Written(".json"), required=True, help="Record to write (.json).")
def train(pack: Path, output: Path, seed: int, choice: Path | None, **options) -> None:
    """Train and evaluate one run, and write its record."""
    from mosa.data.metrics import get_metric
    from mosa.engine.run import execute
    from mosa.experiment.expand import Run
    from mosa.experiment.failures import first_words
    from mosa.search.choose import chosen_for

    machine, _held = take_machine(options)
    keep = take_keep(options)
    specification = take_specification(options, pack)
    if keep.val and specification.stage == "final":
        raise UserError("--keep-val: final runs have no curve on val; add --stage selection, or leave it out")
    if choice is not None:
        specification = chosen_for(specification, choice)
    if not sys.stderr.isatty():  # a log, which `mosa status` reads
        click.echo(first_words(specification.digest), err=True)
    record = execute(Run(specification, seed), pack, output, machine, keep)
    metrics, metric = record["metrics"], get_metric(record["metric"])
    score = metrics[metric.name]
    reached = "no value" if score is None else f"{metric.shown(score, more=1)} {metric.unit}".rstrip()
    click.echo(
        f"{specification.task} {specification.variant} seed {seed}: {metric.title} {reached} on "
        f"{record['splits']['eval']} ({count(metrics['examples'], 'image')}), "
        f"{record['seconds']['total']:.1f} s -> {output}"
    )


@click.command()
@click.argument("model", type=FILE)
@click.argument("images", type=ANY, nargs=-1, required=True)
@click.option(
    "--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes of each image."
)
@click.option("--format", "form", type=OneOf(["csv", "json"]), help="By default as --output ends, else csv.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
@click.option("--output", type=FILE, help="File to write; by default it is printed.")
def predict(
    model: Path,
    images: tuple[Path, ...],
    top: int,
    form: str | None,
    batch_size: int,
    device: str,
    threads: int,
    output: Path | None,
) -> None:
    """Classify IMAGES (files or folders) with the model of a run: MODEL is its record, or its kept model.

    Ends with status 1 if an image cannot be read; the others are classified.
    """
    from mosa.base.files import written_atomically
    from mosa.data.task import kept_path
    from mosa.engine.devices import choose_device
    from mosa.engine.machine import Machine
    from mosa.engine.predict import as_text, classify, find_images, load_classifier

    found, unread = find_images(images)
    if output is not None:
        refuse_to_overwrite(output, [model, kept_path(model, "model"), *found])
    chosen, _held = choose_device(device)
    classifier = load_classifier(model, Machine(device=chosen, threads=threads))
    predicted = list(classify(classifier, found, top, batch_size, threads))
    form = form or ("json" if output and output.suffix == ".json" else "csv")
    text = as_text(predicted, form)
    if output is None:
        click.echo(text, nl=False)
    else:
        with written_atomically(output) as temporary:
            as_named = "backslashreplace" if form == "json" else "surrogateescape"  # names that are no UTF-8
            temporary.write_text(text, encoding="utf-8", errors=as_named)
    broken = [one for one in predicted if one.problem]
    for one in broken:
        click.echo(f"left out: {one.problem}", err=True)
    for others in unread:
        click.echo(others, err=True)
    if output is not None:
        click.echo(f"{len(found) - len(broken)} of {count(len(found), 'image')} -> {output}")
    if broken:
        raise SystemExit(1)


@click.command()
@run_options
@click.option(
    "--space",
    type=Options(),
    required=True,
    help='What is tried, as JSON: {"training": {"lr": [0.01, 0.1]}}.',
)
@click.option("--search", type=OneOf(["grid", "random", "sobol"]), default="grid", show_default=True)
@click.option("--trials", type=click.IntRange(min=1), help="Number of trials, for random and sobol.")
@click.option("--search-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--seeds",
    callback=numbers,
    default="0",
    show_default=True,
    help="Seeds of every trial, comma-separated.",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    help="Parts of train + val, each compared on once; without: trained on train, compared on val.",
)
@click.option(
    "--extend",
    type=click.IntRange(min=0),
    default=0,
    help="Trials by which a grid may grow where its best value is at an edge.",
)
@click.option(
    "--metric", default="top1", show_default=True, help="What trials are compared by: the task's metric."
)
@click.option(
    "--min-epochs", type=click.IntRange(min=1), help="Successive halving: epochs of the first round."
)
@click.option("--factor", type=click.IntRange(min=2), help="Of halving: 2, if not given.")
@click.option("--folder", type=FOLDER, required=True, help="Where the records of the trainings are kept.")
@click.option(
    "--output", type=Written(".json"), required=True, help="Results of the trials to write (.json)."
)
def tune(pack: Path, folder: Path, output: Path, **options) -> None:
    """Train the trials of a method on a task: on train, evaluated on val. Test is never opened."""
    from mosa.data.metrics import get_metric
    from mosa.experiment.expand import Run
    from mosa.experiment.space import parse_space
    from mosa.search.trials import Search, run_search

    machine, _held = take_machine(options)
    specification = take_specification(options, pack)
    names = ("trials", "seeds", "folds", "extend", "min_epochs", "factor", "metric")
    how = {name: options.pop(name) for name in names}
    get_metric(how["metric"])  # refused before anything is trained
    if options["search"] == "grid" and options["search_seed"]:
        raise UserError("--search-seed: a grid draws nothing; leave it out")
    if options["search"] != "grid" and how["extend"]:
        raise UserError("--extend: grows a grid; leave it out, or set --search grid")
    if how["factor"] is not None and how["min_epochs"] is None:
        raise UserError("--factor: is that of successive halving, which needs --min-epochs")
    how["factor"] = how["factor"] or 2
    space = parse_space(options["space"], specification.method, options["search"], how["trials"])
    search = Search(space, options["search"], seed=options["search_seed"], **how)
    result = run_search(Run(specification), search, pack, folder, output, machine)
    done = count(len(result["trials"]), "trial")
    click.echo(f"{specification.task} {specification.variant}: {done} -> {output}")


@click.command()
@click.argument("trials", type=FILE, nargs=-1, required=True)
@click.option("--output", type=Written(".json"), required=True, help="Choice to write (.json).")
def choose(trials: tuple[Path, ...], output: Path) -> None:
    """Choose the best of TRIALS: the results of `mosa tune` for a variant, a file for each task."""
    from mosa.search.choose import choose, describe, shown_score, write_choice

    choice = choose(trials)
    write_choice(choice, output)
    score = shown_score(choice["search"], choice["score"], 1)
    click.echo(f"{choice['variant']}: {describe(choice['chosen'])}, {score} on val -> {output}")


@click.command()
@click.argument("manifest", type=FILE)
@click.option("--per", type=OneOf(["task", "benchmark"]), default="task", show_default=True)
@click.option("--output", type=FOLDER, required=True, help="Folder to write to.")
def choices(manifest: Path, per: str, output: Path) -> None:
    """Write tables of what is chosen among trials, from the files of `mosa tune` that MANIFEST lists."""
    from mosa.results.choices import write_choices

    write_choices(listed(manifest), output, per)
