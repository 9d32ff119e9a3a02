"""What the documentation states of an experiment: two small CSVs, and the tables that are made of them.

    python benchmarks/summary.py results/trial docs/summaries/trial adapter_e100
    python benchmarks/summary.py results/dense-split docs/summaries/dense-split adapter:mosa lora:mosl
    python benchmarks/summary.py results/methods docs/summaries/methods --costs steps.csv

With one variant, the others are compared with it; with pairs, the second of each with its first; with the
costs that `training_step.py --csv` writes, every variant stands with its own. Variants that lack runs are
left out. With --add, what the CSVs have of variants that the folder lacks is kept: parts of an experiment
may have been run on different machines.
Writes docs/summaries/trial.csv (its runs) and trial-search.csv (its trials), and prints the tables in
Markdown. The page has them as they are: tests/unit/test_docs.py makes them again from the CSVs.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from mosa.base.grid import markdown_table
from mosa.records import load_record
from mosa.results.frame import find_records
from mosa.results.stats import holm
from mosa.search.choose import choose

COLUMNS = ("variant", "task", "seed", "lr", "top1", "nll", "train_loss", "train_ce", "tuned", "train_flops")


def summarise(results: Path) -> pd.DataFrame:
    """Return a row for each final run of a results folder."""
    rows = []
    for path in find_records(results / "runs"):
        record = load_record(path)
        made, metrics = record["specification"], record["metrics"]
        values = made["variant"], made["task"].partition("/")[2], record["seed"], made["training"]["lr"]
        loss = metrics["train_loss"][-1]
        entropy = record["curves"]["terms"].get("ce", [loss])[-1]  # without what a method adds to it
        values += metrics["top1"], *(round(value, 4) for value in (metrics["nll"], loss, entropy))
        values += record["parameters"]["adapter"], record["flops"]["train_per_image"]
        rows.append(values)
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["variant", "task", "seed"])


def table(runs: pd.DataFrame, reference: str) -> str:
    """Return the table of an experiment: tasks, means, and the paired difference from a variant, in Markdown.

    Differences are of the mean over tasks, paired by seed, with the 95 % interval and the p-value of
    Student's t over seeds, the latter corrected for all comparisons of the table (Holm).

    Args:
        runs: As of `summarise`; every variant has every task and seed.
        reference: The variant that the others are compared with.
    """
    tasks = list(complete(runs).task.unique())
    means = runs.pivot_table(index="seed", columns="variant", values="top1", aggfunc="mean")
    compared = [variant for variant in means if variant != reference]
    tests = [stats.ttest_rel(means[variant], means[reference]).pvalue for variant in compared]
    corrected = dict(zip(compared, holm(tests), strict=True))
    header = ["variant", "lr", *tasks, "mean", f"- {reference}", "p", "NLL", "train loss"]
    rows = []
    for variant in means.mean().sort_values(ascending=False, kind="stable").index:
        own = runs[runs.variant == variant]
        cells = [spread(own[own.task == task].top1) for task in tasks]
        cells += [spread(means[variant])]
        if variant == reference:
            cells += ["", ""]
        else:
            cells += [interval(means[variant] - means[reference]), p_value(corrected[variant])]
        cells += [f"{own.nll.mean():.2f}", f"{own.train_loss.mean():.3f}"]
        rows.append([variant, f"{own.lr.iloc[0]:g}", *cells])
    return markdown_table(header, rows, "lr")


def pair_table(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the table of pairs of variants, in Markdown: means, and the paired difference over seeds.

    Differences and p-values are those of `table`, corrected for the pairs.

    Args:
        runs: As of `summarise`; every variant has every task and seed.
        pairs: Variants without and with something.
    """
    means = complete(runs).pivot_table(index="seed", columns="variant", values="top1", aggfunc="mean")
    corrected = holm([stats.ttest_rel(means[split], means[dense]).pvalue for dense, split in pairs])
    rates = runs.groupby("variant").lr.first()
    loss = runs.groupby("variant").train_ce.mean()
    header = ("dense", "split", "dense", "split", "split - dense", "p", "lr", "train CE")
    rows = []
    for (dense, split), p in zip(pairs, corrected, strict=True):
        cells = [dense, split, spread(means[dense]), spread(means[split])]
        cells += [interval(means[split] - means[dense]), p_value(p)]
        cells += [f"{rates[dense]:g}, {rates[split]:g}", f"{loss[dense]:.2f}, {loss[split]:.2f}"]
        rows.append(cells)
    return markdown_table(header, rows, "llr")


def cost_table(runs: pd.DataFrame, steps: pd.DataFrame, trials: pd.DataFrame, base: str = "adapter") -> str:
    """Return the table of variants with what they cost, the best first, in Markdown.

    Args:
        runs: As of `summarise`; every variant has every task and seed.
        steps: Time and memory of a step of every variant, over those of `base`.
        trials: As of `searched`: a chosen rate at an edge of what was tried is marked.
        base: The variant whose arithmetic in training is 1.
    """
    means = runs.pivot_table(index="seed", columns="variant", values="top1", aggfunc="mean")
    first, costs = runs.groupby("variant").first(), steps.set_index("variant")
    tried = trials.groupby("variant").lr.agg(["min", "max"])
    header = (
        *("variant", "top-1", "NLL", "lr", "tuned (k)"),
        *("training FLOPs", "step time", "peak memory"),
    )
    rows = []
    for variant in means.mean().sort_values(ascending=False, kind="stable").index:
        own, cost = first.loc[variant], costs.loc[variant]
        edge = variant in tried.index and own.lr in tuple(tried.loc[variant])
        cells = [variant, spread(means[variant]), f"{runs[runs.variant == variant].nll.mean():.2f}"]
        cells += [f"{own.lr:g}{'†' if edge else ''}", f"{own.tuned / 1000:.1f}"]
        cells += [f"{own.train_flops / first.loc[base].train_flops:.2f}"]
        cells += [f"{cost.step_time:.2f}", f"{cost.peak_memory:.2f}"]
        rows.append(cells)
    return markdown_table(header, rows, "lr")


def spread(values: pd.Series) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}"


def interval(values: pd.Series) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * values.sem()
    return f"{values.mean():+z.1f} [{values.mean() - half:+z.1f}, {values.mean() + half:+z.1f}]"


def p_value(p: float) -> str:
    return "—" if pd.isna(p) else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def complete(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs; refuse variants that differ in tasks or seeds, or with several learning rates."""
    cells = runs.groupby("variant").apply(lambda own: frozenset(zip(own.task, own.seed, strict=True)))
    if cells.nunique() > 1:
        raise SystemExit(f"tasks or seeds differ between variants: {', '.join(cells.index)}")
    if (several := runs.groupby("variant").lr.nunique() > 1).any():
        raise SystemExit(f"{several.idxmax()} has several learning rates")
    return runs


def searched(results: Path) -> pd.DataFrame:
    """Return a row for each trial of the searches in a results folder, by the mean over its tasks."""
    files: dict[str, list[Path]] = {}
    for path in sorted((results / "tune" / "trials").rglob("*.json")):
        files.setdefault(path.stem, []).append(path)
    return of_choices([choose(paths) for paths in files.values()])


def of_choices(choices: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each trial of some choices, as `mosa.search.choose.choose` gives them."""
    rows = []
    for choice in choices:
        for trial in choice["trials"]:
            if trial["options"]:
                raise SystemExit(f"{choice['variant']}: options were searched; the table is of rates alone")
            chosen = trial["training"] == choice["chosen"]["training"]
            scores = (trial["top1"], trial["standard_error"])  # None: a training diverged
            scores = (None if score is None else round(score, 3) for score in scores)
            rows.append((choice["variant"], trial["training"]["lr"], *scores, chosen))
    return pd.DataFrame(rows, columns=("variant", "lr", "top1", "standard_error", "chosen"))


def added(new: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Return what a CSV has of other variants, and the new rows."""
    old = pd.read_csv(file) if file.exists() else new.iloc[:0]
    return pd.concat([old[~old.variant.isin(set(new.variant))], new], ignore_index=True)


def search_table(trials: pd.DataFrame) -> str:
    """Return the table of a search of rates: top-1 on val, with the standard error of the choice."""
    rates = sorted(trials.lr.unique())
    rows = []
    for variant, own in trials.groupby("variant", sort=False):
        cells = dict.fromkeys(rates, "")
        for trial in own.itertuples():
            score = "diverged" if pd.isna(trial.top1) else f"{trial.top1:.1f}"
            cells[trial.lr] = f"**{score} ± {trial.standard_error:.1f}**" if trial.chosen else score
        rows.append([variant, *cells.values()])
    return markdown_table(["variant", *(f"{rate:g}" for rate in rates)], rows, "lr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path, help="the experiment's results folder")
    parser.add_argument("output", type=Path, help="the CSVs to write, without their suffixes")
    parser.add_argument("compared", nargs="*", help="a variant, or pairs of them: adapter:mosa lora:mosl")
    parser.add_argument("--add", action="store_true", help="keep what the CSVs have of other variants")
    parser.add_argument("--costs", type=Path, help="time and memory of steps, by training_step.py")
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(exist_ok=True)
    runs, trials = summarise(arguments.results), searched(arguments.results)
    number = runs.groupby("variant").task.transform("size")
    runs = runs[number == number.max()]
    trials = trials[trials.variant.isin(set(runs.variant))]
    files = [arguments.output.with_name(f"{arguments.output.name}{part}.csv") for part in ("", "-search")]
    if arguments.add:
        runs, trials = (added(new, file) for new, file in zip((runs, trials), files, strict=True))
    for made, file in zip((runs, trials), files, strict=True):
        if len(made):
            made.to_csv(file, index=False)
    if arguments.costs:
        compared = cost_table(runs, pd.read_csv(arguments.costs), trials)
    else:
        first, *others = [tuple(names.split(":")) for names in arguments.compared]
        compared = table(runs, *first) if len(first) == 1 else pair_table(runs, [first, *others])
    print(compared, search_table(trials), sep="\n\n")


if __name__ == "__main__":
    main()
