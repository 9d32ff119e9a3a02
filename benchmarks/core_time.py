"""What share of its core-time the default workflow spends in training, with and without forked runs.

    python benchmarks/core_time.py

Runs the default experiment twice, from nothing: with MOSA_WARM (see mosa/cli/warm.py), as the workflow does,
and without. Core-time is cores x wall time, from typing `snakemake` to its end. The baseline is the second.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parts = ("train", "eval", "prepare")
    print(f"{'':16}{'wall':>8}{'core-time':>11}" + "".join(f"{part:>10}" for part in (*parts, "else")))
    for what, warm in (("forked runs", "1"), ("processes", "")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            wall = run_workflow(folder, warm)
            records = [json.loads(path.read_text()) for path in folder.glob("results/runs/**/*.json")]
        seconds = [sum(record["seconds"][part] for record in records) for part in parts]
        shares = [part / (cores * wall) for part in (*seconds, cores * wall - sum(seconds))]
        row = f"{what:16}{wall:6.0f} s{cores * wall:9.0f} s"
        print(row + "".join(f"{share:10.1%}" for share in shares), flush=True)


def run_workflow(folder: Path, warm: str, *arguments: str) -> float:
    """Run the workflow in a folder, from nothing; return its seconds."""
    for entry in ("Snakefile", "rules", "profiles", "report", "envs", "config.yaml"):
        (folder / entry).symlink_to(ROOT / entry)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MOSA_WARM": warm}
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--quiet", "all", *arguments]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
