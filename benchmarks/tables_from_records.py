"""Tables and plots from 10,000 synthetic records.

    python benchmarks/tables_from_records.py

Writes 19 tasks x 10 variants x 53 seeds as records in the layout of a results folder, and times each step
that `mosa tables` and `mosa plots` take. The baseline is `json.loads` of the same files.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from mosa.data.catalogue import get_task, list_tasks
from mosa.experiment.specification import make_specification
from mosa.records import SCHEMA_VERSION, Record, seal
from mosa.results.frame import find_records, load_records, read_table, write_table
from mosa.results.plots.write import write_plots
from mosa.results.tables.write import write_tables

METHODS = ("linear", "full", "bias", "norm", "partial", "vpt", "ssf", "lora", "adapter", "mosa")


def record(task: str, variant: str, seed: int, top1: float) -> dict:
    specification = make_specification(
        f"vtab1k/{task}", variant, training={"epochs": 100, "batch_size": 64}, backbone="vit",
        architecture="vit_base_patch16_224", weights="ViT-B_16.npz", sha256="0" * 64, protocol="vpt",
    )  # fmt: skip
    found = {
        "schema_version": SCHEMA_VERSION,
        "status": "complete",
        "specification_digest": specification.digest,
        "seed": seed,
        "specification": specification.model_dump(),
        "group": get_task(f"vtab1k/{task}").group,
        "metric": "top1",
        "splits": {"train": "trainval", "eval": "test"},
        "backbone": {
            "kind": "npz", "sha256": "0" * 64, "image_size": 224, "mean": [0.5] * 3, "std": [0.5] * 3,
        },
        "data": {
            "digest": "1" * 64, "train_examples": 1000, "eval_examples": 1000, "resize": "direct",
            "interpolation": "bilinear", "augment": "none", "notes": [],
        },
        "steps": {"passes": 1},
        "metrics": {
            "top1": top1, "mean_per_class": top1, "top5": 99.0, "nll": 1.0, "ece": 5.0, "examples": 1000,
            "per_set": {}, "train_loss": [1.0] * 100,
        },
        "parameters": {"adapter": 100_000, "head": 1000, "total": 101_000, "trained": 101_000, "model": 1000},
        "flops": {"train_per_image": 3e9, "inference_per_image": 1e9},
        "seconds": {"prepare": 1.0, "train": 100.0, "eval": 1.0, "total": 102.0},
        "images_per_second": 1000.0,
        "peak_memory_mib": 1000.0,
        "device": {"type": "cpu", "name": "synthetic", "threads": 1},
        "versions": {"torch": "0"},
        "git": {"commit": None, "dirty": None},
        "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    sealed = seal(found)
    return {name: sealed[name] for name in Record.model_fields if name in sealed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=53, help="19 tasks x 10 variants x seeds records")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for task in list_tasks("vtab1k"):
            for place, variant in enumerate(METHODS):
                for seed in range(arguments.seeds):
                    path = folder / "runs" / "vtab1k" / task / "vit" / variant / f"seed{seed}.json"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(record(task, variant, seed, 60 + place + rng.normal())))
        paths = find_records(folder / "runs")
        steps = {
            "json.loads alone": lambda: [json.loads(path.read_text()) for path in paths],
            "load and verify": lambda: load_records(paths),
            "collect into a CSV": lambda: write_table(load_records(paths), folder / "runs.csv"),
            "read the CSV": lambda: read_table(folder / "runs.csv"),
        }
        seconds = {step: timed(work) for step, work in steps.items()}
        frame = read_table(folder / "runs.csv")
        seconds["all tables"] = timed(lambda: write_tables(frame, folder / "tables", METHODS))
        seconds["all plots"] = timed(lambda: write_plots(frame, folder / "plots", METHODS))
        print(f"{len(paths):,} records")
        baseline = seconds["json.loads alone"]
        for step, taken in seconds.items():
            print(f"{step:20} {taken:6.2f} s  {taken / baseline:6.1f} x json.loads")


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
