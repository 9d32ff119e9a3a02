"""Text lists, with a path and a label per line, and VTAB-1k in its common form, which consists of them."""

import os
from pathlib import Path
from typing import NamedTuple

from mosa.data.layouts.source import (
    Entry,
    Report,
    Source,
    find_folder,
    find_image,
    parse_label,
    read_lines,
)
from mosa.data.task import Task

_BOTH = "train800val200.txt"
_TRAIN = 800  # of its 1000 rows


class _Row(NamedTuple):
    """A line of a list; the label is None where it is not valid."""

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
    joint = (folder / _BOTH).is_file()
    if joint and not (folder / "train800.txt").is_file():
        both = read_list(folder, _BOTH, task.num_classes, report) or []
        parts = {"train": both[:_TRAIN], "val": both[_TRAIN:]}
        notes.append(f"train and val: rows 1-{_TRAIN} and the rest of {_BOTH}")
    else:
        rows = [_read_rows(folder, f"{name}.txt", task.num_classes, report) for name in ("train800", "val200")]
        parts = {split: _find_images(folder, found, report) for split, found in zip(("train", "val"), rows)}
        if joint and None not in rows:
            _compare_labels(folder, _read_rows(folder, _BOTH, task.num_classes, report), [*rows[0], *rows[1]], report)
    parts["test"] = read_list(folder, "test.txt", task.num_classes, report) or []
    return Source(folder, task.num_classes, parts, notes)


def _compare_labels(folder: Path, both: list[_Row] | None, parts: list[_Row], report: Report) -> None:
    if both is not None and [row.label for row in both] != [row.label for row in parts]:
        report.error(
            folder / _BOTH,
            "its labels are not those of train800.txt and then val200.txt; take all lists from one copy",
        )


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
                place, f"{line!r}: expected a path, a space and a label, such as 'images/000000.jpg 12'"
            )
            continue
        rows.append(_Row(place, relative.strip(), parse_label(label_text, num_classes, place, report)))
    return rows


def _find_images(folder: Path, rows: list[_Row] | None, report: Report) -> list[Entry]:
    """Return the entries whose images are there; a file that is listed twice is an error."""
    entries: list[Entry] = []
    first: dict[str, str] = {}
    for place, relative, label in rows or ():
        image = find_image(folder, relative, place, report)
        file = os.path.normpath(relative if image is None else image)
        if file in first:
            report.error(place, f"{relative!r} is already listed in {first[file]}; keep one of the lines")
        first.setdefault(file, place.rpartition(", ")[2])
        if label is not None and image is not None:
            entries.append(Entry(image, label, place))
    return entries
