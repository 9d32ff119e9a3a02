"""Accuracy against the length of training, at each variant's own learning rate: a table and a figure.

    python benchmarks/lengths.py

From docs/summaries/trial.csv (of summary.py), prints the tables of docs/findings.md and draws
docs/images/trial-lengths.png. Variants are named for their epochs: adapter_e100.
"""

from collections.abc import Callable, Container
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator
from scipy import stats
from summary import interval, spread

from mosa.base.grid import markdown_table
from mosa.results.stats import holm
from mosa.results.style import METHOD_STYLES, MethodStyle

DOCS = Path(__file__).parents[1] / "docs"
SUMMARY = DOCS / "summaries" / "trial.csv"
REFERENCE = "adapter"
MOSA, ADAPTER = METHOD_STYLES["mosa"].color, METHOD_STYLES["adapter"].color
STYLES = {
    "adapter": MethodStyle(ADAPTER, "o", "-"),
    "adapter_rdrop": MethodStyle(ADAPTER, "s", "--"),
    "mosa_n2": MethodStyle(MOSA, "v", "-"),
    "mosa_n4": MethodStyle(MOSA, "D", "-"),
    "mosa_n4_alone": MethodStyle(MOSA, "D", "--"),
    "mosa_n8": MethodStyle(MOSA, "^", "-"),
    "dropconnect": MethodStyle("#CC79A7", "p", ":"),
    "adamix": MethodStyle("#767676", "X", ":"),
}


def read(source: Path = SUMMARY) -> pd.DataFrame:
    """Return the mean over tasks of every variant, length and seed, with what it costs.

    Columns: name, epochs, seed, top1, nll, and gflops, the training FLOPs of a run of 1,000 images.
    """
    runs = pd.read_csv(source)
    runs[["name", "epochs"]] = runs.variant.str.extract(r"^(.*)_e(\d+)$").astype({1: float})
    runs = runs.dropna(subset=["epochs"]).astype({"epochs": int})
    means = runs.groupby(["name", "epochs", "seed"], as_index=False).agg({"top1": "mean", "nll": "mean"})
    cost = runs.groupby("name").train_flops.agg(["min", "mean", "max"])  # of an image in a step
    assert (cost["max"] < 1.001 * cost["min"]).all()  # tasks differ in their classes, lengths in nothing
    means["gflops"] = means.name.map(cost["mean"]) * 1000 * means.epochs / 1e9
    return means


def tables(means: pd.DataFrame) -> tuple[str, str, str]:
    """Return top-1 by length, its difference from the reference at the same length, and NLL, in Markdown.

    Differences are paired by seed, with the 95 % interval of Student's t over seeds; a star marks p < 0.05
    after Holm's correction for all of them.
    """
    lengths = sorted(means.epochs.unique())
    cells = {
        (name, epochs): own.set_index("seed") for (name, epochs), own in means.groupby(["name", "epochs"])
    }
    names = [name for name in STYLES if name in set(means.name)]
    compared = [
        key for key in cells if key[0] in names and key[0] != REFERENCE and (REFERENCE, key[1]) in cells
    ]
    raw = [stats.ttest_rel(cells[key].top1, cells[REFERENCE, key[1]].top1).pvalue for key in compared]
    p = dict(zip(compared, holm(raw), strict=True))

    def different(key: tuple[str, int]) -> str:
        star = "*" if p[key] < 0.05 else ""
        return interval(cells[key].top1 - cells[REFERENCE, key[1]].top1) + star

    def table(title: str, names: list[str], known: Container, cell: Callable[[tuple[str, int]], str]) -> str:
        rows = [
            [name, *(cell((name, epochs)) if (name, epochs) in known else "" for epochs in lengths)]
            for name in names
        ]
        return markdown_table([title, *(f"{epochs} epochs" for epochs in lengths)], rows, "lr")

    return (
        table("top-1", names, cells, lambda key: spread(cells[key].top1)),
        table(f"- {REFERENCE}", [name for name in names if name != REFERENCE], p, different),
        table("NLL", names, cells, lambda key: f"{cells[key].nll.mean():.2f}"),
    )


def draw(means: pd.DataFrame) -> None:
    """Draw top-1 against epochs, and against the arithmetic of a training."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), sharey=True, layout="constrained")
    ends = means.groupby(["name", "epochs"]).agg({"top1": ["mean", "sem"], "gflops": "first"})
    for name, style in STYLES.items():
        if name not in ends.index:
            continue
        own = ends.loc[name]
        mean, error = own["top1", "mean"], own["top1", "sem"]
        for axis, x in zip(axes, (own.index, own["gflops", "first"] / 1000), strict=True):
            axis.errorbar(
                x, mean, error, label=name, color=style.color, marker=style.marker, linestyle=style.dash,
                linewidth=1.4, markersize=4.5, capsize=2,
            )  # fmt: skip
    lengths = sorted(means.epochs.unique())
    axes[0].set(xscale="log", xlabel="epochs of 1,000 images", ylabel="top-1, %, mean of four tasks")
    axes[0].set_xticks(lengths, [f"{epochs}" for epochs in lengths])
    axes[0].minorticks_off()
    axes[1].set(xscale="log", xlabel="TFLOPs of a training")
    axes[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[1].xaxis.set_minor_formatter("")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="0.92")
    lines, names = axes[0].get_legend_handles_labels()
    figure.legend(
        [bars[0] for bars in lines], names, loc="outside upper center", ncols=4, frameon=False, fontsize=8,
        handlelength=3,
    )  # fmt: skip
    figure.savefig(DOCS / "images" / "trial-lengths.png", dpi=200, metadata={"Software": None})


def main() -> None:
    means = read()
    draw(means)
    print(*tables(means), sep="\n\n")


if __name__ == "__main__":
    main()
