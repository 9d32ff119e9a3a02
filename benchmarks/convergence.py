"""Whether the default trains long enough: its variants, and each at twice its epochs, in a table.

    python benchmarks/summary.py results/demo-convergence docs/summaries/convergence adapter
    python benchmarks/summary.py results/demo-twice docs/summaries/twice lora_twice_chosen
    python benchmarks/convergence.py

From docs/summaries/convergence.csv and twice.csv, prints the table of docs/demo.md.
"""

from pathlib import Path

import pandas as pd
from summary import interval, spread

from mosa.experiment.config import read_config
from mosa.experiment.expand import expand

ROOT = Path(__file__).parents[1]
CONFIGS = ("demo-convergence", "demo-twice")


def read() -> pd.DataFrame:
    """Return the runs of both experiments."""
    folder = ROOT / "docs" / "summaries"
    return pd.concat([pd.read_csv(folder / f"{name}.csv") for name in ("convergence", "twice")])


def table(runs: pd.DataFrame) -> str:
    """Return top-1 of every variant at its epochs and at twice as many, with the change, in Markdown.

    Means over tasks, with their spread over seeds; the change is paired by seed, with the 95 % interval of
    Student's t. The longer training has the same rate, except in the rows that say that theirs was chosen.
    """
    configs = [read_config(ROOT / "config.yaml", ROOT / "configs" / f"{name}.yaml") for name in CONFIGS]
    made = {run.specification.variant: run.specification for config in configs for run in expand(config)}
    means = runs.pivot_table(index="seed", columns="variant", values="top1", aggfunc="mean")
    lines = ["| variant | epochs | top-1 | at twice the epochs | change |", "| :-- | --: | --: | --: | --: |"]
    for name in (name for name in made if "_twice" not in name):
        once, twice = made[name], made[f"{name}_twice"]
        longer = {"epochs": 2 * once.training.epochs, "warmup_epochs": 2 * once.training.warmup_epochs}
        assert (twice.method, twice.options) == (once.method, once.options)
        assert twice.training == once.training.model_copy(update=longer), f"{name}: nothing else differs"
        rows = {name: f"{name}_twice", f"{name}, rate chosen for each length": f"{name}_twice_chosen"}
        for title, longest in rows.items():
            if longest in made:
                cells = [title, f"{once.training.epochs}", spread(means[name]), spread(means[longest])]
                lines.append(f"| {' | '.join([*cells, interval(means[longest] - means[name])])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(read()))
