"""What a run on each task of VTAB-1k costs in image-passes and hours, against the common schedule.

    python benchmarks/vtab_passes.py
    python benchmarks/vtab_passes.py --architecture vit_base_patch16_224 --batch 64 --device cuda

Ours: 100 epochs of the 1000 training images, and test once, after the last. The schedule common in public
code evaluates val and test after every epoch (and reports the best). A method of two passes takes each
training image twice; the common code evaluates twice too. Passes are counted from the sizes of the splits.
Hours are those counts by the images/s of a training step and of an evaluation, measured here in turns; the
common code's MoSA is the naive one of training_step.py.
"""

import argparse
import statistics
import time
from statistics import fmean

import torch
from training_step import NAIVE, Step

from mosa.data.catalogue import get_task, list_tasks
from mosa.engine.machine import Machine

EPOCHS, ROUNDS = 100, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--architecture", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    rates = measure(arguments.architecture, arguments.batch, Machine(arguments.device))
    print(f"{arguments.architecture}, batch {arguments.batch}, {arguments.device}; images/s:", end=" ")
    print(", ".join(f"{name} {rate:.4g}" for name, rate in rates.items()))
    print(f"{'':20} {'':>7} {'image-passes':^37} {'hours, adapter':^23} {'hours, mosa':^23}")
    halves = f"{'ours':>7} {'common':>8} {'ratio':>6}"
    print(
        f"{'task':20} {'test':>7} {'ours':>8} {'common':>11} {'ratio':>7} {'2 passes':>8} {halves} {halves}"
    )
    ratios, costs = [], []
    for name in list_tasks("vtab1k"):
        sizes = get_task(f"vtab1k/{name}").sizes
        train, test = sizes["train"] + sizes["val"], sizes["test"]
        shown = sizes["val"] + test  # to the common schedule, after every epoch
        passes = [(EPOCHS * train * p + test, EPOCHS * p * (train + shown)) for p in (1, 2)]
        hours = [
            (
                (EPOCHS * train / rates[ours] + test / rates["evaluation"]) / 3600,
                EPOCHS * (train / rates[common] + p * shown / rates["evaluation"]) / 3600,
            )
            for p, ours, common in ((1, "adapter", "adapter"), (2, "mosa", NAIVE))
        ]
        ratios.append([ours / common for ours, common in (*passes, *hours)])
        costs.append([cost for pair in (*passes, *hours) for cost in pair])
        single, double, *of_hours = ratios[-1]
        row = f"{name:20} {test:7,} {passes[0][0]:8,} {passes[0][1]:11,} {single:7.3f} {double:8.3f}"
        for (ours, common), ratio in zip(hours, of_hours, strict=True):
            row += f" {ours:7.2f} {common:8.2f} {ratio:6.3f}"
        print(row)
    ours, common, ours_twice, common_twice, *of_hours = map(sum, zip(*costs, strict=True))
    row = f"{'all':28} {ours:8,} {common:11,} {ours / common:7.3f} {ours_twice / common_twice:8.3f}"
    for ours, common in zip(of_hours[::2], of_hours[1::2], strict=True):
        row += f" {ours:7.2f} {common:8.2f} {ours / common:6.3f}"
    print(row)
    single, double, adapter, mosa = map(fmean, zip(*ratios, strict=True))
    print(f"{'mean of the ratios':49} {single:7.3f} {double:8.3f} {adapter:23.3f} {mosa:23.3f}")


def measure(architecture: str, batch: int, machine: Machine) -> dict[str, float]:
    """Return images per second of a training step of each method, and of evaluating the dense adapter."""
    machine.begin()
    torch.use_deterministic_algorithms(False)  # as the naive copies are not
    steps = {name: Step(name, architecture, batch, machine, "float32") for name in ("adapter", "mosa", NAIVE)}
    model, images = steps["adapter"].model, steps["adapter"].images

    def evaluate() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)
        model.train()

    seconds: dict[str, list[float]] = {name: [] for name in (*steps, "evaluation")}
    for number in range(ROUNDS + 2):  # two to warm up
        for name, work in {**steps, "evaluation": evaluate}.items():
            start = time.perf_counter()
            work()
            if images.device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: batch / statistics.median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    main()
