"""Whether the default trains long enough: its variants, and each at twice its epochs, in a table.

    python benchmarks/summary.py results/demo-convergence docs/summaries/convergence adapter
    python benchmarks/convergence.py

From docs/summaries/convergence.csv, prints the table of docs/demo.md.
"""

from pathlib import Path

import pandas as pd
from summary import interval, spread

from mosa.base.grid import markdown_table
from mosa.experiment.config import read_config
from mosa.experiment.expand import expand

ROOT = Path(__file__).parents[1]
SUMMARY = ROOT / "docs" / "summaries" / "convergence.csv"


def table(runs: pd.DataFrame) -> str:
    """Return top-1 of every variant at its epochs and at twice as many, with the change, in Markdown.

    Means over tasks, with their spread over seeds; the change is paired by seed, with the 95 % interval of
    Student's t.
    """
    config = read_config(ROOT / "config.yaml", ROOT / "configs" / "demo-convergence.yaml")
    made = {run.specification.variant: run.specification for run in expand(config)}
    means = runs.pivot_table(index="seed", columns="variant", values="top1", aggfunc="mean")
    rows = []
    for name in (name for name in made if not name.endswith("_twice")):
        once, twice = made[name], made[f"{name}_twice"]
        longer = {"epochs": 2 * once.training.epochs, "warmup_epochs": 2 * once.training.warmup_epochs}
        assert (twice.method, twice.options) == (once.method, once.options)
        assert twice.training == once.training.model_copy(update=longer), f"{name}: nothing else differs"
        cells = [name, f"{once.training.epochs}", spread(means[name]), spread(means[f"{name}_twice"])]
        cells.append(interval(means[f"{name}_twice"] - means[name]))
        rows.append(cells)
    return markdown_table(("variant", "epochs", "top-1", "at twice the epochs", "change"), rows, "lr")


if __name__ == "__main__":
    print(table(pd.read_csv(SUMMARY)))
