"""Time of a training step under each machine setting and precision, relative to the default.

    python benchmarks/options.py
    python benchmarks/options.py --device cuda --setting vit_base_patch16_224:64

Settings take turns in every round; a ratio is the median over rounds of the ratio within a round. "compiling"
is the time of the first two steps. The last lines compare what `mosa.engine.machine` sets for all runs with
torch's and glibc's defaults: that new memory is not filled before it is written,
and, in processes of their own, in turns, that freed
memory is kept; and two runs of one thread side by side, as the workflow has them on two
cores, with one run of two threads.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from training_step import Step

from mosa.engine.machine import Machine

SETTINGS = ("mosa_vit_micro:32", "vit_small_patch16_224:8", "convnext_tiny:8")
OPTIONS = {
    "default": ({}, "float32"),
    "bfloat16": ({}, "bfloat16"),
    "channels last": ({"channels_last": True}, "float32"),
    "gradient checkpointing": ({"gradient_checkpointing": True}, "float32"),
    "compile blocks": ({"compile": "blocks"}, "float32"),
    "compile step_graph": ({"compile": "step_graph"}, "float32"),
}
METHODS = ("adapter", "mosa")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--setting", action="append", help="architecture:batch; repeatable")
    parser.add_argument("--seconds", type=float, default=20, help="for each setting and method")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--alone", action="store_true", help="print the seconds of a step of mosa, and no more"
    )
    arguments = parser.parse_args()
    machine = Machine(arguments.device, arguments.threads)
    if arguments.alone:
        torch.set_num_threads(arguments.threads)
        setting = arguments.setting[0]
        print(
            statistics.median(
                seconds_of({"step": step_of("default", "mosa", setting, machine)}, arguments.seconds)["step"]
            )
        )
        return
    machine.begin()
    torch.use_deterministic_algorithms(False)
    for setting in arguments.setting or SETTINGS:
        print(f"{setting}, {arguments.device}")
        print(f"{'':24}" + "".join(f"{name:>24}" for name in METHODS))
        found = {method: measure(method, setting, machine, arguments.seconds) for method in METHODS}
        for option in found[METHODS[0]]:
            print(f"{option:24}" + "".join(f"{found[method][option]:>24}" for method in METHODS), flush=True)
        print()
    if arguments.device == "cpu" and not arguments.setting:
        for setting in SETTINGS[:2]:
            print(
                f"{setting}, mosa: new memory left / filled {filling_ratio(setting, machine):.3f} of the time"
            )
            print(f"{setting}, mosa: memory kept / given back {memory_ratio(setting):.3f} of the time")
            ratio = side_by_side_ratio(setting)
            print(
                f"{setting}, mosa: two runs of one thread / one of two {ratio:.2f} of the images/s",
                flush=True,
            )


def step_of(option: str, method: str, setting: str, machine: Machine) -> Step:
    architecture, batch = setting.split(":")
    changes, precision = OPTIONS[option]
    return Step(method, architecture, int(batch), replace(machine, **changes), precision)


def measure(method: str, setting: str, machine: Machine, budget: float) -> dict[str, str]:
    steps, notes = {}, {}
    for option in OPTIONS:
        if option == "compile step_graph" and machine.device == "cpu":
            continue
        torch._dynamo.reset()
        steps[option] = step_of(option, method, setting, machine)
        start = time.perf_counter()
        steps[option](), steps[option]()
        if option.startswith("compile"):
            notes[option] = f" (compiling {time.perf_counter() - start:.0f} s)"
    seconds = seconds_of(steps, budget)
    base = seconds["default"]
    ratios = {o: statistics.median(a / b for a, b in zip(s, base, strict=True)) for o, s in seconds.items()}
    return {option: f"{ratio:.2f}{notes.get(option, '')}" for option, ratio in ratios.items()}


def seconds_of(steps: dict[str, Step], budget: float) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(seconds[next(iter(steps))]) < 3:
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if step.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def start(setting: str, environment: Mapping[str, str], threads: int = 1) -> subprocess.Popen:
    command = [sys.executable, __file__, "--alone", "--setting", setting, "--seconds", "8"]
    command += ["--threads", str(threads)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


def end(process: subprocess.Popen) -> float:
    return float(process.communicate()[0])


KEPT = os.environ | {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_MAX_": "0"}


def filling_ratio(setting: str, machine: Machine) -> float:
    """Seconds of a deterministic step that leaves new memory as it is, over those of one that fills it."""
    step, ratios = step_of("default", "mosa", setting, machine), []
    torch.use_deterministic_algorithms(True)
    begin = time.perf_counter()
    while time.perf_counter() - begin < 20:
        seconds = []
        for fill in (False, True):
            torch.utils.deterministic.fill_uninitialized_memory = fill
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    torch.use_deterministic_algorithms(False)
    return statistics.median(ratios)


def memory_ratio(setting: str) -> float:
    """Seconds of a step with the allocator that keeps memory, over those with glibc's defaults, in turns."""
    return statistics.median(end(start(setting, KEPT)) / end(start(setting, os.environ)) for _ in range(3))


def side_by_side_ratio(setting: str) -> float:
    """Images per second of two runs of one thread at a time, over those of one run of two threads."""
    ratios = []
    for _ in range(3):
        two = [start(setting, KEPT) for _ in range(2)]
        together = sum(1 / end(process) for process in two)
        environment = {name: value for name, value in KEPT.items() if name != "OMP_NUM_THREADS"}
        ratios.append(together * end(start(setting, environment, 2)))
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
