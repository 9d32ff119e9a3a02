"""Text lists, with a path and a label per line: VTAB-1k in its common form, and users' lists."""

import os
from pathlib import Path

from mosa.base.errors import shown
from mosa.data.layouts.source import (
    Entry,
    Report,
    Source,
    find_folder,
    find_image,
    held_out_note,
    hold_out,
    parse_label,
    why_absent,
    without_mistyped,
)
from mosa.data.layouts.texts import read_lines
from mosa.data.task import Task

_BOTH = "train800val200.txt"
_TRAIN = 800  # of its 1000 rows


def read_vtab(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/<task>/{train800,val200,test}.txt`; without the first two, rows of train800val200.txt."""
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    notes = []
    both = read_list(folder, _BOTH, task.num_classes, report) if os.path.isfile(folder / _BOTH) else None
    if both is not None and not os.path.isfile(folder / "train800.txt"):
        train, val = both[:_TRAIN], both[_TRAIN:]
        notes.append(f"train and val: rows 1-{_TRAIN} and the rest of {_BOTH}")
    else:
        train, val = (
            read_list(folder, f"{name}.txt", task.num_classes, report) for name in ("train800", "val200")
        )
        if both and train and val and [e.label for e in both] != [e.label for e in (*train, *val)]:
            report.error(
                folder / _BOTH,
                "its labels are not those of train800.txt and then val200.txt; take all lists from one copy",
            )
    test = read_list(folder, "test.txt", task.num_classes, report)
    return _source(folder, task.num_classes, train, val, test, notes)


def read_own(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/{train,val,test}.txt`, paths relative to root; a missing val is held out of train."""
    if not os.path.isdir(root):
        report.error(root, f"{why_absent(root)}; set tasks.{task.name}.root to the folder of the lists")
        return None
    given = ("train", "val", "test") if os.path.lexists(root / "val.txt") else ("train", "test")
    lists = {split: read_list(root, f"{split}.txt", None, report) or [] for split in given}
    lists, notes = without_mistyped(lists, report), []
    if "val" not in lists:
        lists["train"], lists["val"] = hold_out(lists["train"])
        notes.append(held_out_note(len(lists["val"])))
    labels = [entry.label for entries in lists.values() for entry in entries]
    return _source(root, max(labels, default=0) + 1, lists["train"], lists["val"], lists["test"], notes)


def read_list(folder: Path, name: str, num_classes: int | None, report: Report) -> list[Entry] | None:
    """Read one list: each line is a path relative to the folder, a space, and the label."""
    lines = read_lines(folder / name, report)
    if lines is None:
        return None
    entries, first = [], {}
    for place, line in lines:
        relative, space, label_text = line.rstrip().rpartition(" ")
        if not space:
            report.error(
                place, f"{shown(line)}: expected a path, a space and a label, such as 'images/000000.jpg 12'"
            )
            continue
        label = parse_label(label_text, num_classes, place, report)
        image = find_image(folder, relative.strip(), place, report)
        if relative in first:
            report.error(place, f"{relative!r} is already listed in {first[relative]}; keep one of the lines")
        first.setdefault(relative, place.rpartition(", ")[2])
        if label is not None and image is not None:
            entries.append(Entry(image, label, place))
    return entries


def _source(root: Path, num_classes: int, train, val, test, notes: list[str]) -> Source:
    return Source(root, num_classes, {"train": train or [], "val": val or [], "test": test or []}, notes)
