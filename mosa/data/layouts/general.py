"""FGVC-Aircraft and Food-101: the original archives, unpacked where torchvision expects them."""

import os
from pathlib import Path

from mosa.base.errors import shown
from mosa.data.layouts.source import Entry, Report, Source, find_folder, find_image, held_out_note, hold_out
from mosa.data.naming import SPLITS
from mosa.data.task import Task
from mosa.data.texts import read_lines, read_object


def read_aircraft(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/fgvc-aircraft-2013b/data`: images, and a list per split of an image and its variant."""
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    data = folder / "data"
    label_of = _read_variants(data / "variants.txt", task.num_classes, report)
    if label_of is None:
        return None
    splits: dict[str, list[Entry]] = {}
    for split in SPLITS:
        splits[split], first = [], {}
        for place, line in read_lines(data / f"images_variant_{split}.txt", report) or ():
            image_id, _, variant = line.strip().partition(" ")
            image_id = os.path.normpath(image_id)
            if image_id in first:
                report.error(
                    place, f"image {shown(image_id)} is already listed in {first[image_id]}; keep one"
                )
            first.setdefault(image_id, place.rpartition(", ")[2])
            if variant not in label_of:
                report.error(place, f"variant {shown(variant)} is not in variants.txt")
                continue
            image = find_image(data / "images", f"{image_id}.jpg", place, report)
            if image is not None:
                splits[split].append(Entry(image, label_of[variant], place))
    return Source(folder, len(label_of), splits)


def _read_variants(file: Path, num_classes: int, report: Report) -> dict[str, int] | None:
    """Return the label of each variant: its line, counted from 0."""
    lines = read_lines(file, report)
    if lines is None:
        return None
    label_of: dict[str, int] = {}
    for place, line in lines:
        variant = line.strip()
        if variant in label_of or not variant:
            report.error(place, f"variant {shown(variant)} is empty or listed before; take the line out")
        label_of.setdefault(variant, len(label_of))
    if len(label_of) != num_classes:
        report.error(file, f"has {len(label_of)} variants, expected {num_classes}; copy it again")
    return label_of


def read_food101(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/food-101`: images by class, and meta/{train,test}.json; val is held out of train."""
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    files = {split: folder / "meta" / f"{split}.json" for split in ("train", "test")}
    listed = {split: _read_classes(file, task.num_classes, report) for split, file in files.items()}
    if any(classes is None for classes in listed.values()):
        return None
    label_of = {name: label for label, name in enumerate(sorted(listed["train"]))}
    for name in sorted(listed["test"].keys() - label_of.keys()):
        report.error(files["test"], f"class {shown(name)} is not in train.json; take both from one copy")
    parts: dict[str, list[Entry]] = {}
    for split, classes in listed.items():
        parts[split] = []
        for name, images in sorted(classes.items()):
            for relative in images if name in label_of else ():
                place = f"{files[split]}, {relative}"
                image = find_image(folder / "images", f"{relative}.jpg", place, report)
                if image is not None:
                    parts[split].append(Entry(image, label_of[name], place))
    train, val = hold_out(parts["train"])
    splits = {"train": train, "val": val, "test": parts["test"]}
    return Source(folder, len(label_of), splits, [held_out_note(len(val))])


def _read_classes(file: Path, num_classes: int, report: Report) -> dict[str, list[str]] | None:
    """Return the images of each class, without those that are listed twice or are another class's."""
    expected = '{"class": ["class/image", ...], ...}'
    listed = read_object(file, expected, report, "unpack food-101.tar.gz again")
    if listed is None:
        return None
    if len(listed.content) != num_classes:
        report.error(file, f"has {len(listed.content)} classes, expected {num_classes}; copy it again")
    classes: dict[str, list[str]] = {}
    class_of: dict[str, str] = {}
    for name, images in listed.content.items():
        place = f"{file}, line {listed.lines[name]}"
        if not isinstance(images, list) or not all(isinstance(relative, str) for relative in images):
            report.error(place, f"{shown(name)}: {shown(images)}; expected {expected}")
            return None
        classes[name] = []
        for relative in images:
            if relative in class_of:
                report.error(
                    place, f"{shown(relative)} is already listed as {shown(class_of[relative])}; keep one"
                )
            elif relative.rpartition("/")[0] != name:
                report.error(
                    place, f"{shown(relative)} is listed as {shown(name)}, whose folder it is not in"
                )
            else:
                classes[name].append(relative)
            class_of.setdefault(relative, name)
    return classes
