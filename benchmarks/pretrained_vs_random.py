"""Is the shipped backbone worth fine-tuning? Pre-trained against random weights, on every demo task.

    python benchmarks/pretrained_vs_random.py

Linear probing and full fine-tuning, each from the shipped weights and from random ones of the same
architecture, with one recipe. The learning rate of every cell is chosen on val (seed 0),
then three seeds are trained on train + val and evaluated on test once. Records are kept in
results/pretrained_vs_random; those that still hold are not run again. Ends by printing the table of
docs/demo.md, as mean ± sample standard deviation over seeds.
"""

import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import click

from mosa.backbones.build import build_backbone
from mosa.base.errors import UserError
from mosa.base.grid import markdown_table
from mosa.data import make_pack
from mosa.data.catalogue import list_tasks
from mosa.data.packs import Pack
from mosa.engine.run import execute
from mosa.experiment.expand import Run
from mosa.experiment.specification import make_specification
from mosa.records import load_record

FOLDER = Path("results/pretrained_vs_random")
RECIPE = {"epochs": 10, "batch_size": 32, "weight_decay": 0.01}
RATES = {"linear": (0.01, 0.03, 0.1, 0.3), "full": (0.0005, 0.002, 0.005)}
WEIGHTS = ("random", "builtin")
SEEDS = (0, 1, 2)


@click.command(help=__doc__)
@click.option("--processes", default=2, show_default=True)
@click.option("--only", type=click.Choice(WEIGHTS), help="Run these weights alone, and print no table.")
def main(processes: int, only: str | None) -> None:
    tasks = list_tasks("demo")
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(prepare, tasks))
        cells = list(product(tasks, RATES, [only] if only else WEIGHTS))
        results = dict(zip(cells, pool.map(run_cell, *zip(*cells, strict=True)), strict=True))
    if not only:
        print_table(tasks, results)


def prepare(task: str) -> None:
    make_pack(f"demo/{task}", pack(task))


def pack(task: str) -> Path:
    return FOLDER / "packs" / f"{task}.safetensors"


def run_cell(task: str, method: str, weights: str) -> list[float]:
    """Return the test accuracies of the seeds, at the learning rate that is best on val."""
    selected = max(RATES[method], key=lambda lr: run(task, method, weights, lr, 0, "selection"))
    return [run(task, method, weights, selected, seed, "final") for seed in SEEDS]


def run(task: str, method: str, weights: str, lr: float, seed: int, stage: str) -> float:
    """Return the top-1 accuracy of one run, from its record if that still holds."""
    variant = f"{method}_lr{lr}"
    specification = make_specification(
        f"demo/{task}",
        method,
        training=RECIPE | {"lr": lr},
        variant=variant,
        backbone=f"micro_vit_{weights}",
        weights=weights,
        stage=stage,
    )
    wanted = Run(specification, seed)
    path = FOLDER / stage / wanted.path
    try:
        record = load_record(path)
        current = Pack(pack(task)).digest, build_backbone("mosa_vit_micro", weights, 2)[1].sha256
        if (record["data"]["digest"], record["backbone"]["sha256"]) == current:
            return record["metrics"]["top1"]
    except (UserError, FileNotFoundError):
        pass
    return execute(wanted, pack(task), path)["metrics"]["top1"]


def print_table(tasks: list[str], results: dict[tuple[str, str, str], list[float]]) -> None:
    columns = list(product(RATES, WEIGHTS))
    header = ("task", "linear, random", "linear, pre-trained", "full, from scratch", "full, pre-trained")
    rows = [[task, *(show(results[task, *column]) for column in columns)] for task in tasks]
    seeds = [
        [statistics.mean(s) for s in zip(*(results[t, *c] for t in tasks), strict=True)] for c in columns
    ]
    print(markdown_table(header, [*rows, ["mean", *map(show, seeds)]]))
    print(json.dumps({"seeds": SEEDS, "recipe": RECIPE, "rates": RATES}))


def show(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    main()
