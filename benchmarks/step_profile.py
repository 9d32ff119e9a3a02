"""Where a step of MoSA spends more than the dense adapter, by kind of operation, against what is owed.

    python benchmarks/step_profile.py
    python benchmarks/step_profile.py --setting vit_base_patch16_224:4

"owed" is the bound: two passes of all but what comes before the first expert. Times are torch's profiler's,
of an operation without those that it calls; both methods take turns, and a time is the median of the steps in
which the system gave no new memory (its pages would be counted as the operation's that touches them first,
and a training asks for them in its first steps alone).
"""

import argparse
import resource
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable

import torch
from torch.profiler import ProfilerActivity, profile
from training_step import Step

from mosa.engine.machine import CPU

SETTINGS = ("vit_tiny_patch16_224:16", "vit_small_patch16_224:8")
ROUNDS, FEW_FAULTS = 15, 100
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
SHOWN = 0.01  # an operation is shown where it takes this share of the adapter's step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--setting", action="append", help="architecture:batch; repeatable")
    CPU.begin()
    torch.use_deterministic_algorithms(False)
    for setting in parser.parse_args().setting or SETTINGS:
        architecture, batch = setting.split(":")
        compare(architecture, int(batch))


def compare(architecture: str, batch: int) -> None:
    steps = {name: Step(name, architecture, batch, CPU, "float32") for name in ("adapter", "mosa")}
    seconds = {name: defaultdict(list) for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                step()
            if resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults > FEW_FAULTS:
                continue
            events = profiled.key_averages()
            for key, time in time_by_kind(events).items():
                seconds[name][key].append(time)
    times = {n: Counter({key: statistics.median(s) for key, s in seconds[n].items()}) for n in steps}
    blocks = len(steps["mosa"].model.blocks)
    owed = (1 + 4 * (blocks - 1)) / (2 * blocks - 1)
    print(f"{architecture}, batch {batch}, one thread; owed {owed:.3f}")
    print(f"{'operation':44}{'adapter':>11}{'mosa':>11}{'ratio':>8}{'over the bound':>16}")
    whole = {name: sum(times[name].values()) for name in times}
    rest = dict(whole)

    def show(what: str, adapter: float, mosa: float) -> None:
        over = (mosa - owed * adapter) / whole["adapter"]
        print(f"{what:44}{adapter:9.3f} s{mosa:9.3f} s{mosa / adapter:8.2f}{over:16.3f}")

    for key, adapter in times["adapter"].most_common():
        if adapter >= SHOWN * whole["adapter"]:
            show(key[:43], adapter, times["mosa"][key])
            rest = {name: rest[name] - times[name][key] for name in rest}
    show("all others", rest["adapter"], rest["mosa"])
    show("all", whole["adapter"], whole["mosa"])
    print(flush=True)


def time_by_kind(events: Iterable) -> Counter:
    """Add up the seconds of operations, all products of matrices being one kind."""
    seconds = Counter()
    for event in events:
        name = event.key.removeprefix("aten::")
        seconds["products of matrices" if name in PRODUCTS else name] += event.self_cpu_time_total / 1e6
    return seconds


if __name__ == "__main__":
    main()
