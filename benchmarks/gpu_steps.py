"""Time and memory of a training step of every method on a GPU: float32, bfloat16, and as a CUDA graph.

    python benchmarks/gpu_steps.py

ViT-B/16 with random weights, batch 64. Columns are those of benchmarks/training_step.py. A captured step
keeps its memory from one replay to the next: its peak is not told apart from what lies there, and methods
are captured in groups.
"""

import argparse

from training_step import KEY, NAIVE, build, measure

from mosa.engine.machine import Machine
from mosa.peft import list_methods

SETTING = "vit_base_patch16_224:64"
GROUP = 12  # captured at a time, besides those that are measured for longer: each keeps its memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="for the rounds of a setting")
    seconds = parser.parse_args().seconds
    machine, graphs, blocks = (
        Machine("cuda", threads=16, compile=how) for how in ("none", "step_graph", "blocks")
    )
    names = [*list_methods(), NAIVE]
    steps = build({name: (name, {}) for name in names}, SETTING, machine, "float32")
    measure(steps, SETTING, machine, seconds)
    for step in steps.values():
        step.precision = "bfloat16"
    measure(steps, SETTING, machine, seconds)
    compiled = [name for name in KEY if name not in (NAIVE, "norm")]
    others = [name for name in list_methods() if name not in compiled]
    for begin in range(0, len(others), GROUP):
        group = {name: steps[name] for name in [*compiled, *others[begin : begin + GROUP]]}
        for step in group.values():
            step.use_graph()
        measure(group, SETTING, graphs, seconds)
        for step in group.values():
            step.graph = None
    del steps, group, step
    steps = build({name: (name, {}) for name in compiled}, SETTING, blocks, "bfloat16")
    measure(steps, SETTING, blocks, seconds)


if __name__ == "__main__":
    main()
