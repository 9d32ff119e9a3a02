"""Where a step of a method spends more than the dense adapter, by kind of operation, against what is owed.

    python benchmarks/step_profile.py
    python benchmarks/step_profile.py --setting vit_base_patch16_224:4 --methods mosa,spt

"owed" is the method's arithmetic over the adapter's: for MoSA the bound, two passes of all but what comes
before the first expert; for others the products that torch's FLOP counter finds in a step. Times are torch's
profiler's, of an operation without those that it calls; both methods take turns, and a time is the median of
the steps in which the system gave no new memory (its pages would be counted as the operation's that touches
them first, and a training asks for them in its first steps alone).
"""

import argparse
import resource
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from training_step import Step

from mosa.engine.machine import CPU

SETTINGS = {"vit_tiny_patch16_224:16": "mosa", "vit_small_patch16_224:8": "mosa"}
SETTINGS |= {"mosa_vit_micro:32": "rlrr,gps,spt,fact,vpt,ssf,mona"}  # above the adapter by more than a fifth
ROUNDS, FEW_FAULTS = 15, 100
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
SHOWN = 0.02  # an operation is shown where it takes this share of the adapter's step, in either method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--setting", action="append", help="architecture:batch; repeatable")
    parser.add_argument("--methods", help="comma-separated")
    arguments = parser.parse_args()
    CPU.begin()
    torch.use_deterministic_algorithms(False)
    for setting in arguments.setting or SETTINGS:
        architecture, batch = setting.split(":")
        for method in (arguments.methods or SETTINGS.get(setting, "mosa")).split(","):
            compare(architecture, int(batch), method)


def compare(architecture: str, batch: int, method: str) -> None:
    steps = {name: Step(name, architecture, batch, CPU, "float32") for name in ("adapter", method)}
    seconds = {name: defaultdict(list) for name in steps}
    for step in steps.values():
        step()  # the optimiser's state
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
    owed = arithmetic(steps)
    print(f"{architecture}, batch {batch}, one thread; {method} is owed {owed:.3f}")
    print(f"{'operation':44}{'adapter':>11}{method:>11}{'ratio':>8}{'over what is owed':>19}")
    whole = {name: sum(times[name].values()) for name in times}
    rest = dict(whole)

    def show(what: str, adapter: float, own: float) -> None:
        ratio = f"{own / adapter:8.2f}" if adapter else f"{'':8}"
        over = (own - owed * adapter) / whole["adapter"]
        print(f"{what:44}{1000 * adapter:8.1f} ms{1000 * own:8.1f} ms{ratio}{over:19.3f}")

    most = times["adapter"] | times[method]  # the larger of the two
    for key, time in most.most_common():
        if time >= SHOWN * whole["adapter"]:
            show(key[:43], times["adapter"][key], times[method][key])
            rest = {name: rest[name] - times[name][key] for name in rest}
    show("all others", rest["adapter"], rest[method])
    show("all", whole["adapter"], whole[method])
    print(flush=True)


def arithmetic(steps: dict[str, Step]) -> float:
    """Return what a step of the method is owed, over the adapter's step."""
    if "mosa" in steps:
        blocks = len(steps["mosa"].model.blocks)
        return (1 + 4 * (blocks - 1)) / (2 * blocks - 1)
    counted = []
    for step in steps.values():
        with FlopCounterMode(display=False) as counter:
            step()
        counted.append(counter.get_total_flops())
    return counted[1] / counted[0]


def time_by_kind(events: Iterable) -> Counter:
    """Add up the seconds of operations, all products of matrices being one kind."""
    seconds = Counter()
    for event in events:
        name = event.key.removeprefix("aten::")
        seconds["products of matrices" if name in PRODUCTS else name] += event.self_cpu_time_total / 1e6
    return seconds


if __name__ == "__main__":
    main()
