"""How fast training images are read and augmented, and how long the trainer waits for them.

    python benchmarks/data_waiting.py

The photographs of packed_reading.py. "read alone" is what one thread gives to a model that takes no time: a
GPU that trains faster than that would wait. "waiting" is the share of the time of training on this machine's
CPU; a thread reads ahead while the model computes.
"""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from packed_reading import write_images

from mosa.backbones.build import build_backbone
from mosa.data import make_pack
from mosa.data.packs import Pack
from mosa.data.task import task_from_config
from mosa.engine.batches import Images
from mosa.engine.machine import CPU
from mosa.peft import attach
from mosa.peft.losses import tuning_loss

BATCH, ARCHITECTURE = 16, "vit_tiny_patch16_224"


def main() -> None:
    CPU.begin()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images")
        entry = {"layout": "folder", "root": str(folder / "images"), "resize": "shorter"}
        cropped = task_from_config("photos", entry)
        make_pack(cropped, folder / "cropped")
        make_pack(replace(cropped, resize="direct"), folder / "direct")
        make_pack(cropped, folder / "listed", limit_gib=1e-6)
        print(f"{ARCHITECTURE} with mosa, batch {BATCH}, {os.cpu_count()} cores")
        print(f"{'images':34}{'read alone':>16}{'step':>16}{'waiting':>10}")
        for what, pack, augment, resident in (
            ("resident on the device", "direct", None, True),
            ("resident, cropped and flipped", "cropped", 0, True),
            ("packed, cropped and flipped", "cropped", 0, False),
            ("decoded, cropped and flipped", "listed", 0, False),
        ):
            split = Pack(folder / pack).split("trainval")
            data = Images(split, (0.5,) * 3, (0.5,) * 3, torch.device("cpu"), augment, resident=resident)
            alone = max(reading(data) for _ in range(3))
            step, waiting = training(data)
            print(f"{what:34}{alone:9.0f} /s{'':3}{step:11.1f} /s{waiting:12.1%}", flush=True)


def reading(data: Images) -> float:
    """Images per second, read and normalised, with nothing beside."""
    start = time.perf_counter()
    for images, _ in data.batches(BATCH, torch.randperm(len(data))):
        images.sum()
    return len(data) / (time.perf_counter() - start)


def training(data: Images, steps: int = 20) -> tuple[float, float]:
    """Images per second of training, and the share of time in which it waits for the next batch."""
    model, _ = build_backbone(ARCHITECTURE, "random", 10)
    attach(model, "mosa").train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4, fused=True)
    waited = 0.0
    batches = data.batches(BATCH, torch.randperm(len(data)))
    start = time.perf_counter()
    for _ in range(steps):
        begin = time.perf_counter()
        images, labels = next(batches)
        waited += time.perf_counter() - begin
        tuning_loss(model, images, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    total = time.perf_counter() - start
    batches.close()
    return steps * BATCH / total, waited / total


if __name__ == "__main__":
    main()
