"""How noisy the choice of a learning rate is: what is chosen on val, and what that is worth on test.

    python benchmarks/choice.py results/choice-val results/choice

From the records of configs/choice.yaml, as selections and as final runs, writes docs/summaries/choice.csv,
draws docs/images/choice.png from it, and prints the table of docs/tuning.md. Without folders the CSV is read
as it is.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from mosa.base.grid import markdown_table
from mosa.records import load_record
from mosa.results.frame import find_records
from mosa.results.style import METHOD_STYLES

DOCS = Path(__file__).parents[1] / "docs"
SUMMARY = DOCS / "summaries" / "choice.csv"
KEYS = ["method", "task", "lr", "seed"]


def summarise(val: Path, test: Path) -> pd.DataFrame:
    """Return a row for each method, task, rate and seed: top-1 on val of 200 images, and on test."""
    split = {}
    for name, folder in (("val", val), ("test", test)):
        rows = []
        for path in find_records(folder / "runs"):
            record = load_record(path)
            made = record["specification"]
            task = made["task"].partition("/")[2]
            top1 = round(record["metrics"]["top1"], 2)
            rows.append((made["method"], task, made["training"]["lr"], record["seed"], top1))
        split[name] = pd.DataFrame(rows, columns=[*KEYS, name])
    return split["val"].merge(split["test"], on=KEYS, validate="1:1").sort_values(KEYS)


def lost(runs: pd.DataFrame, seeds_together: bool, tasks_together: bool) -> pd.Series:
    """Return what each choice by the highest mean on val loses on test, against the rate that is best there.

    Args:
        runs: Of one method, as of `summarise`.
        seeds_together: Whether a choice sees all seeds, or one.
        tasks_together: Whether a choice sees all tasks, or one.
    """
    losses = []
    for _, shown in [("", runs)] if tasks_together else runs.groupby("task"):
        worth = shown.groupby("lr").test.mean()
        for _, seen in [("", shown)] if seeds_together else shown.groupby("seed"):
            losses.append(worth.max() - worth[seen.groupby("lr").val.mean().idxmax()])
    return pd.Series(losses)


def table(runs: pd.DataFrame) -> str:
    """Return what choices lose, by what they see, in Markdown: mean and most, in points of test top-1."""
    methods = [method for method in METHOD_STYLES if method in set(runs.method)]
    header = ["a choice sees", "images of val", *(f"{method}: loses" for method in methods)]
    rows = []
    tasks, seeds = runs.task.nunique(), runs.seed.nunique()
    for tasks_together in (False, True):
        for seeds_together in (False, True):
            sees = (
                f"{f'{tasks} tasks' if tasks_together else 'one task'}, "
                f"{f'{seeds} seeds' if seeds_together else 'one seed'}"
            )
            losses = [lost(runs[runs.method == method], seeds_together, tasks_together) for method in methods]
            cells = [f"{one.mean():.1f}, at most {one.max():.1f} ({len(one)})" for one in losses]
            rows.append([sees, str(200 * (tasks if tasks_together else 1)), *cells])
    return markdown_table(header, rows, "lrl")


def draw(runs: pd.DataFrame) -> None:
    """Draw top-1 against the rate: on val one line a seed with what it would choose, and the mean on test."""
    methods = [method for method in METHOD_STYLES if method in set(runs.method)]
    tasks = sorted(runs.task.unique())
    figure, axes = plt.subplots(
        len(methods),
        len(tasks),
        figsize=(7.2, 1.9 * len(methods)),
        sharex="row",
        layout="constrained",
        squeeze=False,
    )
    for row, method in zip(axes, methods, strict=True):
        for axis, task in zip(row, tasks, strict=True):
            own = runs[(runs.method == method) & (runs.task == task)]
            val = own.pivot(index="lr", columns="seed", values="val")
            axis.plot(val, color="0.75", linewidth=0.8)
            best = val.idxmax()
            axis.plot(
                best, [val[seed][rate] for seed, rate in best.items()], "o", color="0.45", markersize=3.5
            )
            test = own.groupby("lr").test.agg(["mean", "std"])
            color = METHOD_STYLES[method].color
            axis.errorbar(test.index, test["mean"], test["std"], color=color, linewidth=1.6, capsize=2)
            axis.set(xscale="log", title=f"{task}, {method}")
            axis.title.set_fontsize(8)
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("top-1, %", fontsize=8)
    figure.supxlabel("learning rate", fontsize=8)
    handles = [
        plt.Line2D([], [], color="0.75", linewidth=0.8, label="val, one seed"),
        plt.Line2D([], [], color="0.45", marker="o", linestyle="", markersize=3.5, label="its choice"),
        plt.Line2D([], [], color="black", linewidth=1.6, label="test, mean ± sd over seeds"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(DOCS / "images" / "choice.png", dpi=200, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="results on val, and on test")
    folders = parser.parse_args().folders
    if folders:
        summarise(*folders).to_csv(SUMMARY, index=False)
    runs = pd.read_csv(SUMMARY)
    draw(runs)
    print(table(runs))


if __name__ == "__main__":
    main()
