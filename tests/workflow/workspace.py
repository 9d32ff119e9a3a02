"""A folder with a copy of the workflow, in which it is run for real."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from forked import run_mosa, run_snakemake
from standin import write_small_pack

from mosa.experiment.config import load_config
from mosa.experiment.workflow import Workflow

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake"]
TASKS, SEEDS = ["digits", "count"], [0, 1]
CONFIG = {
    "name": "tiny",
    "benchmarks": {"demo": TASKS},
    "backbones": {"micro_vit": {"architecture": "mosa_vit_micro", "weights": "builtin"}},
    "seeds": SEEDS,
    "training": {"epochs": 1, "batch_size": 64, "fraction": 0.1},
    "variants": {method: {"method": method} for method in ("linear", "adapter", "lora", "mosa")},
}
REFRESH = {"collect": 1, "write_tables": 1, "draw_plots": 1, "write_report": 1, "all": 1}


class Workspace:
    """A folder with a copy of the workflow and a config."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("rules", "profiles", "report", "envs"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "Snakefile", folder)
        decoy = folder / "decoy" / "mosa"  # another installation, first on PATH, must not be what runs
        decoy.parent.mkdir()
        decoy.write_text("#!/bin/sh\nexit 1\n")
        decoy.chmod(0o755)
        self.environment = os.environ | {"PATH": f"{decoy.parent}:{os.environ['PATH']}"}
        self.configure(CONFIG)

    def configure(self, config: dict) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def give_small_packs(self) -> None:
        """Have packs of few images where the workflow makes and finds those of the demo's tasks."""
        for pack, specification in Workflow.of(load_config(CONFIG)).packed.items():
            path = self.folder / "results/packs" / pack
            path.parent.mkdir(parents=True, exist_ok=True)
            write_small_pack(path, {"train": 80, "val": 40, "test": 40}, specification.task)

    def snakemake(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        return run_snakemake(self.folder, *arguments, environment=self.environment | variables)

    def mosa(self, *arguments: object) -> subprocess.CompletedProcess:
        return run_mosa(self.folder, *arguments)

    def planned(self, *arguments: str) -> dict[str, int]:
        """What a dry run would do: jobs by rule."""
        result = self.snakemake("-n", *arguments)
        assert result.returncode == 0, result.stderr[-3000:]
        output = result.stdout + result.stderr
        if "Nothing to be done" in output:
            return {}
        table = output.partition("Job stats:")[2].partition("total")[0]
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}

    def records(self) -> list[Path]:
        return sorted(self.folder.glob("results/runs/**/*.json"))
