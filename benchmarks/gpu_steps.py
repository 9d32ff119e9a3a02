"""Time and memory of a training step of every method on a GPU: float32, bfloat16, and as a CUDA graph.

    python benchmarks/gpu_steps.py

ViT-B/16 with random weights, batch 64. Columns are those of benchmarks/training_step.py. A captured step
keeps its memory from one replay to the next, so its peak is not told apart from what lies there.
"""

import argparse

from training_step import KEY, NAIVE, measure

from mosa.engine.machine import Machine
from mosa.peft import list_methods

SETTINGS = (
    ("float32", "none", [*list_methods(), NAIVE]),
    ("bfloat16", "none", [*list_methods(), NAIVE]),
    ("bfloat16", "blocks", [name for name in KEY if name not in (NAIVE, "norm")]),
    ("bfloat16", "step_graph", list_methods()),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="for the rounds of a setting")
    arguments = parser.parse_args()
    for precision, compile, names in SETTINGS:
        machine = Machine("cuda", compile=compile)
        measure(names, "vit_base_patch16_224", 64, machine, precision, arguments.seconds)


if __name__ == "__main__":
    main()
