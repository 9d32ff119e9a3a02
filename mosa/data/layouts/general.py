"""CIFAR-100, FGVC-Aircraft and Food-101: the original archives, unpacked where torchvision expects them."""

import hashlib
import io
import json
import pickle
from pathlib import Path

import numpy as np

from mosa.data.layouts.source import (
    Entry,
    Report,
    Source,
    find_folder,
    find_image,
    held_out_note,
    hold_out,
    read_lines,
)
from mosa.data.task import Task

# Of the original files: torchvision.datasets.CIFAR100.train_list and test_list.
_CIFAR_MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays and plain values, which CIFAR's pickles consist of, and calls nothing else."""

    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def read_cifar100(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/cifar-100-python/{train,test}`; val is held out of train."""
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    parts = {name: _read_cifar_part(folder / name, task.num_classes, report) for name in ("train", "test")}
    if any(part is None for part in parts.values()):
        return None
    train, val = hold_out(parts["train"])
    splits = {"train": train, "val": val, "test": parts["test"]}
    return Source(folder, task.num_classes, splits, [held_out_note(len(val))])


def _read_cifar_part(file: Path, num_classes: int, report: Report) -> list[Entry] | None:
    try:
        content = file.read_bytes()
    except OSError as error:
        report.error(file, f"cannot be read ({error}); unpack cifar-100-python.tar.gz again")
        return None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != _CIFAR_MD5[file.name]:
        report.warning(
            file, "is not the original file of CIFAR-100, by its MD5 sum; results on it are not comparable"
        )
    try:
        table = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        pixels, labels = np.asarray(table["data"]), [int(label) for label in table["fine_labels"]]
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        if pixels.dtype != np.uint8 or len(images) != len(labels):
            raise ValueError(f"{pixels.dtype} {pixels.shape} and {len(labels)} labels")
    except Exception as error:  # a hostile or broken pickle can raise anything
        report.error(file, f"is not a part of CIFAR-100 ({error}); unpack cifar-100-python.tar.gz again")
        return None
    wrong = {index for index, label in enumerate(labels) if not 0 <= label < num_classes}
    for index in sorted(wrong):
        report.error(f"{file}, row {index}", f"label {labels[index]}: expected 0 to {num_classes - 1}")
    rows = enumerate(zip(images, labels, strict=True))
    return [Entry(image, label, f"{file}, row {row}") for row, (image, label) in rows if row not in wrong]


def read_aircraft(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/fgvc-aircraft-2013b/data`: images, and a list per split of an image and its variant."""
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    data = folder / "data"
    names = read_lines(data / "variants.txt", report)
    if names is None:
        return None
    label_of = {name.strip(): label for label, (_, name) in enumerate(names)}
    splits: dict[str, list[Entry]] = {}
    for split in ("train", "val", "test"):
        splits[split] = []
        for place, line in read_lines(data / f"images_variant_{split}.txt", report) or ():
            image_id, _, variant = line.strip().partition(" ")
            if variant not in label_of:
                report.error(place, f"variant {variant!r} is not in variants.txt")
                continue
            image = find_image(data / "images", f"{image_id}.jpg", place, report)
            if image is not None:
                splits[split].append(Entry(image, label_of[variant], place))
    return Source(folder, len(label_of), splits)


def read_food101(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/food-101`: images by class, and meta/{train,test}.json; val is held out of train."""
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    parts: dict[str, list[Entry]] = {}
    label_of: dict[str, int] = {}
    for split in ("train", "test"):
        file = folder / "meta" / f"{split}.json"
        try:
            listed = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            report.error(file, f"cannot be read ({error}); unpack food-101.tar.gz again")
            return None
        if not isinstance(listed, dict) or not all(isinstance(images, list) for images in listed.values()):
            report.error(
                f"{file}, line 1", 'is not a JSON object; expected {"class": ["class/image", ...], ...}'
            )
            return None
        label_of = label_of or {name: label for label, name in enumerate(sorted(listed))}
        for name in listed.keys() - label_of.keys():
            report.error(file, f"class {name!r} is not in train.json; take both from one copy")
        parts[split] = []
        for name, images in sorted(listed.items()):
            for relative in images if name in label_of else ():
                place = f"{file}, {relative}"
                image = find_image(folder / "images", f"{relative}.jpg", place, report)
                if image is not None:
                    parts[split].append(Entry(image, label_of[name], place))
    train, val = hold_out(parts["train"])
    splits = {"train": train, "val": val, "test": parts["test"]}
    return Source(folder, len(label_of), splits, [held_out_note(len(val))])
