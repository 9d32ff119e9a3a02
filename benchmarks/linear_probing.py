"""Linear probing for 100 epochs on features computed once, against the plain loop.

    python benchmarks/linear_probing.py

The micro ViT on four tasks of the demo benchmark, one thread; seconds of training and evaluation. First: the
features are computed; again: another learning rate finds them. The accuracy on test of both ways is printed.
"""

import tempfile
from pathlib import Path

from mosa.data import make_pack
from mosa.engine.machine import Machine
from mosa.engine.run import execute
from mosa.experiment.expand import Run
from mosa.experiment.specification import make_specification

TASKS = ("digits", "tissue", "count", "flowers")
TRAINING = {"epochs": 100, "batch_size": 32, "lr": 0.1}


def main() -> None:
    heads = ("plain", "first", "again", "plain / first", "plain / again", "top-1")
    print("{:10} {:>9} {:>9} {:>9}  {:>13} {:>13}  {}".format("task", *heads))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        totals = [0.0, 0.0, 0.0]
        for task in TASKS:
            make_pack(f"demo/{task}", folder / task, image_size=32)
            seconds, scores = [], []
            for training, features in (
                (TRAINING, None),
                (TRAINING, folder / "features"),
                (TRAINING | {"lr": 0.2}, folder / "features"),
            ):
                run = Run(make_specification(f"demo/{task}", "linear", training=training))
                record = execute(run, folder / task, folder / "run.json", Machine(features=features))
                seconds.append(record["seconds"]["train"] + record["seconds"]["eval"])
                scores.append(record["metrics"]["top1"])
            totals = [total + second for total, second in zip(totals, seconds, strict=True)]
            line(task, seconds, f"{scores[0]:.2f} {scores[1]:.2f}")
        line("all", totals, "")


def line(task: str, seconds: list[float], text: str) -> None:
    plain, first, again = seconds
    times = f"{task:10} {plain:7.2f} s {first:7.2f} s {again:7.2f} s"
    print(f"{times}  {plain / first:13.1f} {plain / again:13.1f}  {text}", flush=True)


if __name__ == "__main__":
    main()
