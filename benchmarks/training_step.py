"""Time and memory of a training step of every method, relative to the dense adapter.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --architecture vit_base_patch16_224 --batch-size 64 --device cuda

Methods take turns in every round, so that a machine whose speed drifts slows all of them; the ratio is
the median over rounds of the ratio within a round. Memory is of tensors that the method owns while it
trains: tuned parameters, their gradients, AdamW's state and the method's buffers. "mosa, naive" is MoSA as
the paper describes it: N copies with gradient masks, and two separate forwards (tests/naive_mosa.py).
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from mosa.backbones import build_backbone
from mosa.losses import tuning_loss
from mosa.peft import attach, list_methods, tuned_state_dict

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from naive_mosa import naive_loss, naive_split

BASELINE = "adapter"
NAIVE = "mosa, naive"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--architecture", default="mosa_vit_micro")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="steps of each method in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    steps = {name: make_step(name, arguments, device) for name in [*list_methods(), NAIVE]}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(arguments.rounds + 2):  # two rounds to warm up
        for name, (step, _) in steps.items():
            start = time.perf_counter()
            for _ in range(arguments.steps):
                step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_ >= 2:
                seconds[name].append((time.perf_counter() - start) / arguments.steps)

    print(f"{arguments.architecture}, batch {arguments.batch_size}, {device}, {arguments.threads} thread(s)")
    print(f"| method | images/s | time / {BASELINE} | tuned state, KiB | state / {BASELINE} |")
    print("|---|---|---|---|---|")
    for name, (_, state) in steps.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[BASELINE], strict=True))
        rate = arguments.batch_size / statistics.median(seconds[name])
        base = steps[BASELINE][1]()
        print(f"| {name} | {rate:.0f} | {ratio:.2f} | {state() / 1024:.0f} | {state() / base:.2f} |")


def make_step(name: str, arguments: argparse.Namespace, device: torch.device):
    """Return a function that trains one step, and one that counts the bytes of the tuned state."""
    model, backbone = build_backbone(arguments.architecture, "random", arguments.classes)
    attach(model, BASELINE if name == NAIVE else name).to(device).train()
    splits = naive_split(model, ("up",), 4, 0) if name == NAIVE else []
    routing = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch_size, 3, backbone.image_size, backbone.image_size, device=device)
    labels = torch.randint(arguments.classes, (arguments.batch_size,), device=device)
    tuned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(tuned, lr=1e-4)

    def step() -> None:
        if splits:
            loss = naive_loss(model, splits, images, labels, 4, 1.0, routing)
        else:
            loss = tuning_loss(model, images, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for split in splits:
            split.zero_missing_gradients()
        optimizer.step()
        for split in splits:
            split.restore_foreign_entries()

    def state() -> int:
        masks = [mask for split in splits for mask in split.masks]
        own = tuned if splits else tuned_state_dict(model).values()
        tensors = [*own, *masks, *(p.grad for p in tuned)]
        tensors += [value for entry in optimizer.state.values() for value in entry.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    return step, state


if __name__ == "__main__":
    main()
