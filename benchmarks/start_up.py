"""How long commands take before they work: help, a run's first step, and the workflow's plan.

    python benchmarks/start_up.py

Baselines: `import click`; `import torch, timm`; and a dry run of a Snakefile with as many jobs and no more.
The smallest of some repeats; one thread.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
REPEATS = 5
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
# Ends at the first step of the optimiser.
FIRST_STEP = """
import os, sys
import torch
def step(*a, **k): os._exit(0)
torch.optim.AdamW.step = step
from mosa.cli import main
main()
"""
TRIVIAL = """
N = {jobs}
rule all:
    input: expand("out/{{i}}", i=range(N))
rule job:
    output: "out/{{i}}"
    shell: "touch {{output}}"
"""


def seconds(command: list[str], cwd: Path, repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, cwd=cwd, env=ENVIRONMENT, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def show(what: str, taken: float, baseline: str, base: float) -> None:
    print(f"{what:44} {taken:6.2f} s   {taken / base:5.2f} x {baseline} ({base:.2f} s)", flush=True)


def grid(folder: Path, seeds: int) -> int:
    """Write a config of the paper's 27 tasks and 12 variants; return its number of runs."""
    variants = {
        f"adapter{size}": {"method": "adapter", "options": {"bottleneck": size}} for size in range(1, 13)
    }
    config = {
        "name": "grid",
        "protocol": "vpt",
        "benchmarks": {"vtab1k": "all", "fgvc": "all", "general": "all"},
        "backbones": {"vit": {"architecture": "vit_base_patch16_224", "weights": "random"}},
        "seeds": list(range(seeds)),
        "variants": variants,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return 27 * 12 * seeds


def main() -> None:
    python = sys.executable
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = seconds([python, "-c", "import click"], folder)
        show("mosa --help", seconds([python, "-m", "mosa.cli", "--help"], folder), "import click", base)
        make = ["make-data", "demo/digits", "--image-size", "32", "--output", "pack.safetensors"]
        subprocess.run(
            [python, "-m", "mosa.cli", *make], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True
        )
        train = [
            "train",
            "--task",
            "demo/digits",
            "--pack",
            "pack.safetensors",
            "--method",
            "mosa",
            "--output",
            "run.json",
        ]
        base = seconds([python, "-c", "from mosa.base.timm import timm"], folder)
        taken = seconds([python, "-c", FIRST_STEP, *train], folder)
        show("mosa train, to its first step", taken, "import torch, timm", base)

        for entry in ("Snakefile", "rules", "profiles", "report", "envs"):
            (folder / entry).symlink_to(ROOT / entry)
        trivial = folder / "trivial"
        trivial.mkdir()
        for seeds in (5, 62):
            jobs = grid(folder, seeds)
            (trivial / "Snakefile").write_text(TRIVIAL.format(jobs=jobs))
            dry = [python, "-m", "snakemake", "-n", "--quiet", "all"]
            base = seconds(dry, trivial, 1)
            show(f"snakemake -n, {jobs:,} runs", seconds(dry, folder, 1), "trivial Snakefile", base)


if __name__ == "__main__":
    main()
