"""Accuracy of bfloat16 against float32: the same runs of the demo, in both.

    python benchmarks/bfloat16.py

Three variants of the default experiment, on its tasks and seeds. A difference is of two runs that have all
but the precision in common; its spread is the sample standard deviation over the pairs.
"""

import json
import statistics
import tempfile
from pathlib import Path

from core_time import run_workflow

VARIANTS = ("full", "adapter", "mosa")


def main() -> None:
    overlay = {"sweeps": {"size": None}, "variants": {"linear": None, "lora": None}}
    top1: dict[tuple, dict[str, float]] = {}
    for precision in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config = folder / "overlay.yaml"
            config.write_text(json.dumps(overlay | {"training": {"precision": precision}}))
            run_workflow(folder, "1", "--configfile", str(config))
            for path in folder.glob("results/runs/**/*.json"):
                record = json.loads(path.read_text())
                run = record["specification"]
                pair = top1.setdefault((run["variant"], run["task"], record["seed"]), {})
                pair[precision] = record["metrics"]["top1"]
    print(f"{'':10}{'pairs':>7}{'float32':>10}{'bfloat16':>10}{'difference':>18}")
    for variant in VARIANTS:
        pairs = [pair for (name, *_), pair in top1.items() if name == variant]
        means = [statistics.fmean(pair[p] for pair in pairs) for p in ("float32", "bfloat16")]
        differences = [pair["bfloat16"] - pair["float32"] for pair in pairs]
        spread = f"{statistics.fmean(differences):+.2f} ± {statistics.stdev(differences):.2f}"
        print(f"{variant:10}{len(pairs):7}{means[0]:10.2f}{means[1]:10.2f}{spread:>18}")


if __name__ == "__main__":
    main()
