"""Stand-ins of the benchmarks: their exact layouts on disk, with tiny images and short lists."""

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from mosa.data.catalogue import get_task, list_tasks
from mosa.data.packing import write_pack
from mosa.data.task import Task

SIDE = 12  # pixels of an image
_FGVC_IMAGES = {"cub": "images", "nabirds": "images", "dogs": "Images", "flowers": "", "cars": ""}


def image(rng: np.random.Generator, label: int = 0, size: tuple[int, int] = (SIDE, SIDE + 4)) -> np.ndarray:
    """Return pixels, uint8 (height, width, 3), that tell the class a little."""
    base = np.random.default_rng(label).integers(40, 215, 3)
    return (base + rng.integers(-40, 41, (*size, 3))).clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_small_pack(path: Path, sizes: Mapping[str, int], name: str = "demo/digits") -> Path:
    """Write a pack in the form of a demo task, small and learnable: the class is the brightness."""
    task = get_task(name)
    rng = np.random.default_rng(0)
    splits = {}
    for split, size in sizes.items():
        labels = rng.permutation(np.arange(size) % task.num_classes)
        noise = rng.integers(0, 20, (size, 32, 32, 3))
        splits[split] = ((labels[:, None, None, None] * 23 + noise).astype(np.uint8), labels.astype(np.int64))
    write_pack(path, task, splits)
    return path


def make_vtab(root: Path, task: Task, sizes: tuple[int, int, int] = (10, 4, 6), suffix: str = "jpg") -> Path:
    """Write one task of VTAB-1k: four lists, and images by split, those of train800val200 once more."""
    rng = np.random.default_rng(len(task.name))
    folder = root / task.folders[0]
    rows: dict[str, list[str]] = {}
    pixels: dict[str, list[np.ndarray]] = {}
    for split, size in zip(("train800", "val200", "test"), sizes, strict=True):
        labels = [index % task.num_classes for index in range(size)]
        pixels[split] = [image(rng, label) for label in labels]
        rows[split] = [f"images/{split}/{i:06d}.{suffix} {label}" for i, label in enumerate(labels)]
    both = [
        f"images/train800val200/{i:06d}.{suffix} {row.split()[1]}"
        for i, row in enumerate(rows["train800"] + rows["val200"])
    ]
    rows["train800val200"] = both
    pixels["train800val200"] = pixels["train800"] + pixels["val200"]
    for split, lines in rows.items():
        for line, array in zip(lines, pixels[split], strict=True):
            save(folder / line.split()[0], array)
        (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def make_fgvc(root: Path, task: Task, per_class: int = 1) -> Path:
    """Write one FGVC data set: JSON splits with class ids that start at 1, beside the archive's images."""
    rng = np.random.default_rng(1)
    folder = root / task.folders[0]
    images = folder / _FGVC_IMAGES[task.name]
    for split in ("train", "val", "test"):
        entries = {}
        for label in range(task.num_classes):
            for copy in range(per_class):
                name = f"{split}/{label:03d} class/{copy}.jpg"
                entries[name] = label + 1
                save(images / name, image(rng, label, (SIDE, SIDE + label % 5)))
        (folder / f"{split}.json").write_text(json.dumps(entries, indent=1))
    return folder


def make_cifar100(root: Path, train: int = 200, test: int = 100) -> Path:
    """Write the pickles of CIFAR-100, protocol 2 as the original has."""
    rng = np.random.default_rng(2)
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, size in (("train", train), ("test", test)):
        labels = [index % 100 for index in range(size)]
        data = np.stack([image(rng, label, (32, 32)).transpose(2, 0, 1).reshape(-1) for label in labels])
        content = {"data": data, "fine_labels": labels, "filenames": [f"{i}.png" for i in range(size)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def make_aircraft(root: Path) -> Path:
    rng = np.random.default_rng(3)
    data = root / "fgvc-aircraft-2013b" / "data"
    variants = [f"Variant {index:02d}-{index}00" for index in range(100)]
    (data / "images").mkdir(parents=True)
    (data / "variants.txt").write_text("".join(f"{name}\n" for name in variants))
    number = 0
    for split in ("train", "val", "test"):
        lines = []
        for label, variant in enumerate(variants):
            save(data / "images" / f"{number:07d}.jpg", image(rng, label))
            lines.append(f"{number:07d} {variant}\n")
            number += 1
        (data / f"images_variant_{split}.txt").write_text("".join(lines))
    return data.parent


def make_food101(root: Path) -> Path:
    rng = np.random.default_rng(4)
    folder = root / "food-101"
    names = [f"dish_{index:03d}" for index in range(101)]
    for split, numbers in (("train", range(2)), ("test", range(2, 3))):
        listed = {}
        for label, name in enumerate(names):
            listed[name] = [f"{name}/{number}" for number in numbers]
            for entry in listed[name]:
                save(folder / "images" / f"{entry}.jpg", image(rng, label))
        (folder / "meta").mkdir(exist_ok=True)
        (folder / "meta" / f"{split}.json").write_text(json.dumps(listed))
    return folder


def make_all(root: Path, benchmarks: Iterable[str] = ("vtab1k", "fgvc", "general")) -> Path:
    """Write all 27 tasks below root, in the folders that the config expects by default; return root."""
    if "vtab1k" in benchmarks:
        for name in list_tasks("vtab1k"):
            make_vtab(root / "vtab-1k", get_task(f"vtab1k/{name}"))
    if "fgvc" in benchmarks:
        for name in list_tasks("fgvc"):
            make_fgvc(root / "fgvc", get_task(f"fgvc/{name}"))
    if "general" in benchmarks:
        make_cifar100(root / "general")
        make_aircraft(root / "general")
        make_food101(root / "general")
    return root
