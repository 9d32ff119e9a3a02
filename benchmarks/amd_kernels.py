"""How much faster an AMD CPU trains with the kernels that MKL keeps for Intel's CPUs.

    python benchmarks/amd_kernels.py

torch multiplies matrices with Intel's MKL, which takes AVX2 kernels on another vendor's CPU, even on one
that has AVX-512. It asks a function, which a library that is loaded first can replace. Baseline: the
same steps without that library. Processes take turns; a ratio is the median over rounds. Needs gcc.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = ("mosa_vit_micro:32", "mosa_vit_micro:128", "vit_base_patch16_224:4")
METHODS = ("adapter", "mosa", "full")
ROUNDS = 3
SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


def main() -> None:
    if len(sys.argv) > 1:
        print(*measured(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "libintel.so")
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"]
        subprocess.run(command, input=SOURCE, text=True, check=True)
        print(f"{'':24} {'method':8} {'images/s':>10} {'preloaded':>10} {'ratio':>6}")
        for setting in SETTINGS:
            rounds = [(seconds(setting, ""), seconds(setting, str(library))) for _ in range(ROUNDS)]
            for place, name in enumerate(METHODS):
                pairs = [(without[place], with_it[place]) for without, with_it in rounds]
                batch = int(setting.partition(":")[2])
                speeds = [batch / statistics.median(pair[side] for pair in pairs) for side in (0, 1)]
                ratio = statistics.median(without / with_it for without, with_it in pairs)
                print(f"{setting:24} {name:8} {speeds[0]:10.1f} {speeds[1]:10.1f} {ratio:6.2f}", flush=True)


def seconds(setting: str, preload: str) -> list[float]:
    """Return the seconds of a step of each method, measured in a process of its own."""
    environment = os.environ | {"LD_PRELOAD": preload, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, setting]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def measured(setting: str) -> list[float]:
    """Measure the steps of each method in this process."""
    from training_step import build

    from mosa.engine.machine import Machine

    steps = build({name: (name, {}) for name in METHODS}, setting, Machine("cpu", 1), "float32")
    found = []
    for step in steps.values():
        for _ in range(2):
            step()
        times = []
        while len(times) < 3 or sum(times) < 1:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        found.append(statistics.median(times))
    return found


if __name__ == "__main__":
    main()
