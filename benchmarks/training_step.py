"""Time and memory of a training step of every method, relative to the dense adapter and to full fine-tuning.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --setting vit_base_patch16_224:64 --device cuda --precision bfloat16
    python benchmarks/training_step.py --device cuda --compile blocks --methods adapter,mosa,full ...
    python benchmarks/training_step.py --config configs/methods.yaml --setting mosa_vit_micro:32 --csv FILE

Methods take turns in every round, so that a machine whose speed drifts slows all of them; a ratio is the
median over rounds of the ratio within a round. "norm" is the frozen backbone with norms and classifier tuned,
the least that has a backward. Tuned state is what the method owns while it trains: tuned parameters, their
gradients, AdamW's state and the method's buffers. Peak memory is that state, the backbone, and the most that
a step holds besides, as torch's profiler (CPU) or allocator (CUDA) counts it. "mosa, naive" is MoSA as the
paper describes it: N copies with gradient masks, and two separate forwards (tests/naive_mosa.py). With a
config, its variants are measured with their options, else every method with its defaults.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mosa.backbones.build import build_backbone
from mosa.cli.options import config_of
from mosa.engine.loop import autocast
from mosa.engine.machine import Machine
from mosa.engine.step_graph import WARM_UP, StepGraph, use_device_lr
from mosa.experiment.recipe import COMPILE
from mosa.peft import attach, example_batches, list_methods, tuned_state_dict
from mosa.peft.losses import tuning_loss

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from naive_mosa import naive_loss, naive_split

BASELINES = ("adapter", "full")
NAIVE = "mosa, naive"
KEY = ("norm", "adapter", "mosa", NAIVE, "full")  # measured for longer
SETTINGS = ("mosa_vit_micro:32", "mosa_vit_micro:128", "vit_tiny_patch16_224:16")
SETTINGS += ("vit_small_patch16_224:8", "vit_base_patch16_224:4")


random_backbone = cache(partial(build_backbone, weights="random", num_classes=100))


class Step:
    """A training step of a method on random images, with all that it needs."""

    def __init__(
        self,
        name: str,
        architecture: str,
        batch: int,
        machine: Machine,
        precision: str,
        options: Mapping[str, Any] = {},
    ) -> None:
        device = torch.device(machine.device)
        model, backbone = copy.deepcopy(random_backbone(architecture))
        name, data = "adapter" if (naive := name == NAIVE) else name, example_batches(model)
        self.model = attach(model, name, data=data, **options)
        machine.place(model)
        model.train()
        self.splits = naive_split(model, ("up",), 4, 0) if naive else []
        self.routing = torch.Generator().manual_seed(0)
        size = backbone.image_size
        self.images, self.labels = torch.randn(batch, 3, size, size), torch.randint(100, (batch,))
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        self.tuned = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.tuned, lr=1e-4, fused=True)
        self.precision, self.device = precision, device
        self.graph = None
        if machine.compile == "step_graph":
            self.use_graph()

    def use_graph(self) -> None:
        """From now on, replay steps as CUDA graphs."""
        use_device_lr(self.optimizer, self.device)
        self.graph = StepGraph(self.model, self.optimizer, self.loss)

    def loss(self, images: Tensor, labels: Tensor, terms: dict[str, Tensor]) -> Tensor:
        with autocast(self.device, self.precision, cache_enabled=False):
            return tuning_loss(self.model, images, labels, terms=terms)

    def __call__(self) -> None:
        if self.graph is not None:
            self.graph(self.images, self.labels)
            return
        with autocast(self.device, self.precision):
            if self.splits:
                loss = naive_loss(self.model, self.splits, self.images, self.labels, 4, 1.0, self.routing)
            else:
                loss = tuning_loss(self.model, self.images, self.labels)
        loss.backward()
        for split in self.splits:
            split.zero_missing_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for split in self.splits:
            split.restore_foreign_entries()

    def state_bytes(self) -> int:
        """Bytes of the tuned state; call it after a step."""
        masks = [mask for split in self.splits for mask in split.masks]
        own = self.tuned if self.splits else tuned_state_dict(self.model).values()
        tensors = [*own, *masks, *self.tuned]  # once more: the gradients
        tensors += [value for entry in self.optimizer.state.values() for value in entry.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def peak_bytes(self) -> int:
        """Most bytes that are held during a step; call it after a step."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            others = torch.cuda.memory_allocated() - self.resting_bytes()  # the other methods' models
            self()
            return torch.cuda.max_memory_allocated() - others
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            self()
        events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak + self.resting_bytes()

    def resting_bytes(self) -> int:
        """Bytes that are held between steps."""
        tensors = [*self.model.parameters(), *self.model.buffers(), self.images, self.labels]
        tensors += [value for entry in self.optimizer.state.values() for value in entry.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--setting", action="append", help="architecture:batch; repeatable")
    parser.add_argument(
        "--seconds",
        type=float,
        default=20,
        help="for the rounds of a setting; as long twice more for some methods",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", choices=COMPILE, default="none")
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        help="comma-separated, measured beside adapter and full; all of them",
    )
    parser.add_argument("--config", type=Path, help="measure its variants, with their options")
    parser.add_argument("--csv", type=Path, help="write the ratios to the adapter, of one setting")
    arguments = parser.parse_args()
    machine = Machine(arguments.device, arguments.threads, compile=arguments.compile)
    for setting in arguments.setting or SETTINGS:
        naive = [NAIVE] if arguments.compile == "none" else []
        made = {name: (name, {}) for name in arguments.methods or [*list_methods(), *naive]}
        if arguments.config:
            variants = config_of((arguments.config,), alone=False)["variants"]
            made = {name: (one["method"], one.get("options", {})) for name, one in variants.items()}
        made = {**{name: (name, {}) for name in BASELINES}, **made}
        steps = build(made, setting, machine, arguments.precision)
        found = measure(steps, setting, machine, arguments.seconds)
        if arguments.csv:
            found.to_csv(arguments.csv, index=False)


def build(
    made: Mapping[str, tuple[str, Mapping[str, Any]]], setting: str, machine: Machine, precision: str
) -> dict[str, Step]:
    """Return the training step of each method with its options."""
    architecture, _, batch = setting.partition(":")
    machine.begin()
    torch.use_deterministic_algorithms(False)  # as the naive copies are not
    return {
        name: Step(method, architecture, int(batch), machine, precision, options)
        for name, (method, options) in made.items()
    }


def measure(steps: dict[str, Step], setting: str, machine: Machine, budget: float) -> pd.DataFrame:
    """Measure the steps of a setting, print the table, and return what is relative to the adapter."""
    architecture, _, batch = setting.partition(":")
    names, precision = list(steps), next(iter(steps.values())).precision
    key = [name for name in KEY if name in names]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory = {}
    for name, step in steps.items():  # steps to warm up, one that is watched
        for _ in range(WARM_UP + 1 if step.graph else 1):
            step()
        memory[name] = step.state_bytes(), float("nan") if step.graph else step.peak_bytes()
    repeats = 3 if architecture == "mosa_vit_micro" else 1
    start = time.perf_counter()
    while len(seconds[names[0]]) < 3 or time.perf_counter() - start < budget:
        take_turns(steps, seconds, repeats)
    rounds = len(seconds[names[0]])
    start = time.perf_counter()
    while time.perf_counter() - start < 2 * budget:  # the first rounds are those of all methods
        take_turns({name: steps[name] for name in key}, seconds, repeats)
    how = f"{precision}, compile {machine.compile}"
    if machine.device == "cuda":
        how += f", {torch.cuda.get_device_name()}, torch {torch.__version__}"
    how += f", {rounds} rounds, {len(seconds[key[0]])} of {', '.join(key)}"
    print(f"{architecture}, batch {batch}, {machine.device}, {machine.threads} thread(s), {how}")
    heads = (
        "images/s",
        "time/adapter",
        "time/full",
        "state MiB",
        "/adapter",
        "peak MiB",
        "/adapter",
        "/full",
    )
    print(f"{'method':18}" + "".join(f"{head:>13}" for head in heads))
    rows = []
    for name in names:
        ratios = [
            statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=False))
            for base in BASELINES
        ]
        (state, peak), median = memory[name], statistics.median(seconds[name])
        cells = [f"{int(batch) / median:.1f}", *(f"{ratio:.2f}" for ratio in ratios)]
        cells += [f"{state / 2**20:.2f}", f"{state / memory['adapter'][0]:.2f}", f"{peak / 2**20:.0f}"]
        cells += [f"{peak / memory[base][1]:.2f}" for base in BASELINES]
        print(f"{name:18}" + "".join(f"{cell.replace('nan', '-'):>13}" for cell in cells), flush=True)
        rows.append((name, round(ratios[0], 3), round(peak / memory["adapter"][1], 3)))
    print()
    return pd.DataFrame(rows, columns=("variant", "step_time", "peak_memory"))


def take_turns(steps: dict[str, Step], seconds: dict[str, list[float]], repeats: int) -> None:
    """Measure a round: every method once."""
    for name, step in steps.items():
        begin = time.perf_counter()
        for _ in range(repeats):
            step()
        if step.device.type == "cuda":
            torch.cuda.synchronize()
        seconds[name].append((time.perf_counter() - begin) / repeats)


if __name__ == "__main__":
    main()
