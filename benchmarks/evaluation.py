"""Time of evaluating merged MoSA, relative to the dense adapter and to the bare backbone.

    python benchmarks/evaluation.py

Models take turns in every round; a ratio is the median over rounds of the ratio within a round. A merged LoRA
is the backbone again. "mosa, ensemble" is not merged: a pass for each of four experts.
"""

import argparse
import statistics
import time

import torch

from mosa.backbones.build import build_backbone
from mosa.engine.machine import Machine
from mosa.peft import attach, merge

SETTINGS = (("mosa_vit_micro", 256), ("vit_tiny_patch16_224", 32), ("vit_small_patch16_224", 16))
MODELS = {
    "backbone": ("linear", {}),
    "adapter": ("adapter", {}),
    "mosa": ("mosa", {}),
    "lora": ("lora", {}),
    "mosa, ensemble": ("mosa", {"merge": "ensemble"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="for each setting")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    machine = Machine(arguments.device)
    machine.begin()
    for architecture, batch in SETTINGS:
        models = {}
        for name, (method, options) in MODELS.items():
            model, backbone = build_backbone(architecture, "random", 100)
            attach(model, method, **options)
            machine.place(model)
            models[name] = merge(model).eval()
        images = torch.randn(batch, 3, backbone.image_size, backbone.image_size, device=arguments.device)
        seconds = measure(models, images, arguments.seconds)
        print(f"{architecture}, batch {batch}, {arguments.device}")
        print(f"{'':16}{'images/s':>10}{'/ adapter':>12}{'/ backbone':>12}")
        for name, taken in seconds.items():
            ratios = [
                statistics.median(a / b for a, b in zip(taken, seconds[base], strict=True))
                for base in ("adapter", "backbone")
            ]
            print(f"{name:16}{batch / statistics.median(taken):10.0f}{ratios[0]:12.3f}{ratios[1]:12.3f}")
        print(flush=True)


@torch.inference_mode()
def measure(models: dict, images: torch.Tensor, budget: float) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model(images)
    start = time.perf_counter()
    while time.perf_counter() - start < budget:
        for name, model in models.items():
            begin = time.perf_counter()
            model(images)
            if images.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


if __name__ == "__main__":
    main()
