"""An epoch from a pack against decoding the same JPEGs again.

    python benchmarks/packed_reading.py

Writes JPEGs of about the size of photographs (500 x 375, quality 75) with random content, packs them at 224
pixels, and reads both in a shuffled order, normalised, as training does: resized directly, and cropped and
flipped from the shorter side. The pack is read once before, so that both come from the page cache.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mosa.data import make_pack
from mosa.data.packs import Pack
from mosa.data.task import task_from_config
from mosa.engine.batches import Images

COUNT, CLASSES, BATCH = 600, 10, 32


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.asarray(coarse).astype(int) + rng.integers(-12, 13, (375, 500, 3))
        path = folder / "train" / str(number % CLASSES) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=75)
    for label in range(CLASSES):
        path = folder / "test" / str(label) / "0.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes((folder / "train" / str(label) / f"{label}.jpg").read_bytes())


def seconds(pack: Path, augment: int | None) -> float:
    data = Images(Pack(pack).split("trainval"), (0.5,) * 3, (0.5,) * 3, torch.device("cpu"), augment)
    data.images = None  # as a split that does not fit on the device
    start = time.perf_counter()
    for images, _ in data.batches(BATCH, torch.randperm(len(data))):
        images.sum()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images")
        entry = {"layout": "folder", "root": str(folder / "images"), "resize": "direct"}
        print(f"{COUNT} JPEGs of 500 x 375, one epoch at 224 pixels, seconds (best of 3) on one core")
        for resize, augment in (("direct", None), ("shorter", 0)):
            task = replace(task_from_config("photos", entry), resize=resize)
            make_pack(task, folder / "packed")
            make_pack(task, folder / "listed", limit_gib=1e-6)
            packed, listed = (
                min(seconds(folder / p, augment) for _ in range(3)) for p in ("packed", "listed")
            )
            what = "resized directly" if augment is None else "cropped and flipped"
            print(f"{what:20}  packed {packed:.2f}  decoded {listed:.2f}  ratio {listed / packed:.1f}")


if __name__ == "__main__":
    main()
