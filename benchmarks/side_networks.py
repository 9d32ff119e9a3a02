"""Networks beside a frozen trunk for 30 epochs: on the trunk's tokens computed once, against the plain loop.

    python benchmarks/side_networks.py

The micro ViT on a tenth of a task of the demo benchmark, one thread; seconds of training, without the
evaluation, whose images are seen once either way. LoRA, whose gradients pass through all blocks, for
comparison. The accuracy on test of both ways is printed.
"""

import tempfile
from pathlib import Path

from mosa.data import make_pack
from mosa.engine.machine import Machine
from mosa.engine.run import execute
from mosa.experiment.expand import Run
from mosa.experiment.specification import make_specification

TASK = "digits"
TRAINING = {"epochs": 30, "batch_size": 32, "lr": 0.003, "fraction": 0.1}


def main() -> None:
    print(f"{'method':10} {'plain':>9} {'kept':>9} {'plain / kept':>13}  top-1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pack(f"demo/{TASK}", folder / TASK, image_size=32)
        for method in ("lora", "lst", "last", "dtl"):
            run = Run(make_specification(f"demo/{TASK}", method, training=TRAINING))
            machines = [Machine(), Machine(features=folder / method)]
            records = [
                execute(run, folder / TASK, folder / "run.json", machine)
                for machine in (machines if method != "lora" else machines[:1])
            ]
            seconds = [record["seconds"]["train"] for record in records]
            scores = " ".join(f"{record['metrics']['top1']:.2f}" for record in records)
            times = f"{seconds[0]:7.2f} s" + (f" {seconds[1]:7.2f} s" if len(seconds) > 1 else f"{'-':>10}")
            ratio = f"{seconds[0] / seconds[1]:.1f}" if len(seconds) > 1 else "-"
            print(f"{method:10} {times} {ratio:>13}  {scores}", flush=True)


if __name__ == "__main__":
    main()
