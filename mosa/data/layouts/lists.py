"""Text lists, with a path and a label per line, and VTAB-1k in its common form, which consists of them."""

import os
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import shown
from mosa.data.layouts.source import (
    Entry,
    Report,
    Source,
    find_folder,
    find_image,
    parse_label,
)
from mosa.data.task import Task
from mosa.data.texts import read_lines

_BOTH = "train800val200.txt"
_TRAIN = 800  # of its 1000 rows


class _Row(NamedTuple):
    """A line of a list; where it is not valid, the label is None, and the path may be empty."""

    place: str
    path: str
    label: int | None


def read_vtab(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/<task>/{train800,val200,test}.txt`; without the first two, rows of train800val200.txt.

    Beside the first two, only the labels of the joint list are read, and compared with theirs.
    """
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    notes = []
    joint = os.path.isfile(folder / _BOTH)
    if joint and not os.path.isfile(folder / "train800.txt"):
        both = read_list(folder, _BOTH, task.num_classes, report) or []
        parts = {"train": both[:_TRAIN], "val": both[_TRAIN:]}
        notes.append(f"train and val: rows 1-{_TRAIN} and the rest of {_BOTH}")
    else:
        train, val = (
            _read_rows(folder, f"{name}.txt", task.num_classes, report) for name in ("train800", "val200")
        )
        parts = {"train": _find_images(folder, train, report), "val": _find_images(folder, val, report)}
        both = _read_rows(folder, _BOTH, task.num_classes, report) if joint and train and val else None
        if both is not None and not _agree(both, [*train, *val]):
            report.error(
                folder / _BOTH,
                "its labels are not those of train800.txt and then val200.txt; take all lists from one copy",
            )
    parts["test"] = read_list(folder, "test.txt", task.num_classes, report) or []
    return Source(folder, task.num_classes, parts, notes)


def _agree(some: list[_Row], others: list[_Row]) -> bool:
    """Whether two lists have the same labels, as far as these are valid."""
    pairs = [(one.label, other.label) for one, other in zip(some, others, strict=False)]
    return len(some) == len(others) and all(one == other for one, other in pairs if None not in (one, other))


def read_list(folder: Path, name: str, num_classes: int | None, report: Report) -> list[Entry] | None:
    """Read one list: each line is a path relative to the folder, a space, and the label."""
    rows = _read_rows(folder, name, num_classes, report)
    return None if rows is None else _find_images(folder, rows, report)


def _read_rows(folder: Path, name: str, num_classes: int | None, report: Report) -> list[_Row] | None:
    lines = read_lines(folder / name, report)
    if lines is None:
        return None
    rows = []
    for place, line in lines:
        relative, space, label_text = line.rstrip().rpartition(" ")
        if not space:
            report.error(
                place, f"{shown(line)}: expected a path, a space and a label, such as 'images/000000.jpg 12'"
            )
            rows.append(_Row(place, "", None))
            continue
        rows.append(_Row(place, relative.strip(), parse_label(label_text, num_classes, place, report)))
    return rows


def _find_images(folder: Path, rows: list[_Row] | None, report: Report) -> list[Entry]:
    """Return the entries whose images are there; a file that is listed twice is an error."""
    entries: list[Entry] = []
    first: dict[str, str] = {}
    for place, relative, label in rows or ():
        if not relative and label is None:
            continue
        image = find_image(folder, relative, place, report)
        file = os.path.normpath(relative if image is None else image)
        if file in first:
            report.error(place, f"{relative!r} is already listed in {first[file]}; keep one of the lines")
        first.setdefault(file, place.rpartition(", ")[2])
        if label is not None and image is not None:
            entries.append(Entry(image, label, place))
    return entries
