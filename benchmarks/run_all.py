"""Run the benchmarks of speed and write what they print, with machine and date, to docs/performance.md.

    make bench                                       # all of them: three quarters of an hour
    python benchmarks/run_all.py core_time options   # these anew; the others stay as they are in the page

Leave the machine alone meanwhile: ratios are of one run, and noise is not averaged away.
"""

import argparse
import ast
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
SCRIPTS = ("training_step", "gpu_steps", "step_profile", "evaluation", "options", "bfloat16", "memory")
SCRIPTS += ("vtab_passes", "linear_probing", "packed_reading", "data_waiting", "start_up", "core_time")
SCRIPTS += ("amd_kernels", "tables_from_records", "report_opens", "side_networks")
INTRO = """\
# Performance

Written by `make bench`; do not edit. Every table is one run of one command; the ratios, not the seconds,
carry over to another machine.

What is done once, and not again:

- the two passes of MoSA are one batched forward, which shares all before the first stochastic module; the
  split projections of both passes are one batched product;
- the backward stops at the first tuned block, and frozen weights have no gradients;
- a task is decoded once, into a pack that all runs map into memory;
- images lie on the device as bytes where a split is small (2 GiB; an eighth of a GPU's free memory), and are
  normalised there; on a GPU they are cropped and flipped there too, with the draws of the path that reads
  from disk (tests/unit/test_packs.py);
- linear probing computes features once for all epochs, seeds and learning rates (`--features`, in the
  workflow results/packs/features; equal to the plain loop within float error, tests/unit/test_features.py).
  Its image-passes and FLOPs in tables are still those of the plain loop. Where images are cropped and
  flipped at random, `training.views: 8` gives each image eight views, whose features are kept as well;
- networks beside a frozen trunk (`lst`, `last`, `dtl`) are trained on the trunk's tokens, computed once in
  the same way, where the trunk has no dropout or stochastic depth (`drop_rate: 0`, `drop_path: 0`), images
  are not augmented anew in every epoch, and the tokens of the training images take at most 8 GiB (on a GPU
  also at most an eighth of its free memory). Else the trunk runs in every epoch, without a graph. The tokens
  of 1,000 images of a ViT-B/16 take 7.3 GiB;
- torch is imported once for all commands of the workflow on a machine (mosa/cli/warm.py; `MOSA_WARM=` in the
  environment turns it off);
- the test split is evaluated once, after the last epoch, with the merged model;
- tables, plots and the report import no torch.

What can be chosen:

| setting | where | what it changes |
|---|---|---|
| `precision: bfloat16` | `training` in the config: part of the recipe | results, a little |
| `compile: blocks`, `step_graph` | top of the config, or `mosa train --compile` | float error |
| `channels_last: true` | the same | float error |
| `gradient_checkpointing: true` | the same | nothing but memory and time |
| `--set-threads train=4` | `snakemake` | float error |
| MKL's kernels for Intel, on an AMD CPU | [a library of one line](faq.md#reproducing) | float error |

Only what pays on every device measured is the default: fused AdamW, an allocator that keeps its memory, and
one thread per run with as many runs as cores. On a GPU take `compile: step_graph`: in bfloat16 the host of
the H200 below hands over the kernels of a ViT-B slower than the GPU does them, and the dense adapter's steps
are 2.3 times as fast as one graph. It gives the same losses for every method (tests/unit/test_gpu.py, run on
that H200). That a setting changes what
the table says and no more is tested in tests/unit/test_machine.py; records state all of them.
Float error is not always small in the end: at the start of MoSA the two passes are equal, the gradient of the
second is zero except for rounding, and AdamW scales what it finds.

Two bounds:

- In units of one block's forward, a step of the dense adapter on a ViT of L blocks takes L forwards and L - 1
  backwards, as a backward of frozen weights costs about a forward. MoSA owes two passes of all but the first
  block's frozen path: 1 + 4 (L - 1) against 2 L - 1, or 1.957 for L = 12 and 1.857 for the micro ViT's four.
  What is measured below it is what both do once (embedding, optimiser); above it, that operations on twice
  the rows run a little slower on a CPU (the profile of a step shows which).
- The dense adapter with bottleneck 64 adds 15 % to the arithmetic of a step that tunes norms alone on the
  micro ViT, whose width is 96, and 2 % on ViT-B.

Why some methods take longer than the dense adapter on the micro ViT (batch 32, one thread, processor
time of a step over the adapter's, median of 12 rounds in turns; in brackets, the arithmetic of products
that torch's FLOP counter finds, over the adapter's):

- `rlrr` 1.42 (1.50), as full fine-tuning 1.40 (1.64): its two vectors per weight need the gradient of
  the whole weight. Without it they take a second product of the layer in both directions, which is no
  less.
- `gps` 1.37 (1.22): the gradient of the chosen weights takes their inputs alone, no product; copying
  every weight with the values in place is the rest. At the widths of a ViT-B, a layer's step is 0.7 of
  what it was with whole gradients.
- `spt` 1.72 (1.12): dropout of the inputs of changes, and drop path of their outputs, as the released
  code has; weights tuned alone need the gradient of their whole matrix. In the profile below, the draws of
  dropout (`bernoulli_`) are more than a third of what is above the arithmetic. The first table below has
  1.38, as it was measured before `spt` had either; with a budget of 20,000 parameters instead of the default
  400,000, it is 1.60 ([methods-compared.md](methods-compared.md)).
- `fact` 1.42 (1.25): three narrow products beside each layer; narrow products run below a wide one's
  rate.
- `vpt` 1.35 (1.48): ten prompts beside the tokens of every block, in all products and in attention.
- `ssf` 1.21 (1.09): scales and shifts pass over the output of every layer, and over its gradient twice;
  one fused operation for both was slower.
- `mona` 2.20: three kernels, 7 x 7 as one, in each of two branches, which a CPU convolves for each
  channel far below the rate of products. A class token takes the kernel's middle alone, no convolution.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *SCRIPTS], help="benchmarks to run; all of them")
    wanted = parser.parse_args().names
    sections = written()
    gpu = shutil.which("nvidia-smi") is not None
    for name in wanted or [name for name in SCRIPTS if name != "gpu_steps" or gpu]:
        script = HERE / f"{name}.py"
        title = ast.get_docstring(ast.parse(script.read_text())).partition("\n")[0].rstrip(".")
        print(f"--- {name}", flush=True)
        start = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, script]
        done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
        output = done.stdout if done.returncode == 0 else "failed; run it by hand to see why"
        print(output, flush=True)
        minutes = (time.perf_counter() - start) / 60
        day = datetime.date.today().isoformat()
        told = f"`python benchmarks/{name}.py` ({minutes:.1f} minutes; {machine()}; {day})"
        sections[name] = f"## {title}\n\n{told}\n\n```\n{output.rstrip()}\n```\n"
    PAGE.write_text("\n".join([INTRO, *(sections[name] for name in SCRIPTS if name in sections)]))
    print(f"wrote {PAGE}")


def written() -> dict[str, str]:
    """Return the sections of the page, by the name of their benchmark."""
    parts = PAGE.read_text().split("\n## ")[1:]
    found = {re.search(r"benchmarks/(\w+)\.py", part).group(1): f"## {part.rstrip()}\n" for part in parts}
    return {name: found[name] for name in SCRIPTS if name in found}


def machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
