"""A user's own images: a folder per class, or a CSV."""

import csv
from pathlib import Path

from mosa.base.errors import shown
from mosa.data.layouts.source import (
    SUFFIXES,
    Entry,
    Report,
    Source,
    find_image,
    held_out_note,
    hold_out,
)
from mosa.data.task import Task

_SPLITS = ("train", "val", "test")
_TEST_SHARE = 0.2
_NAME = 200  # characters of a class's name


def read_folder(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/<class>/<image>`, or `<root>/{train,val,test}/<class>/<image>`; classes by name."""
    if not root.is_dir():
        report.error(root, f"no such folder; set tasks.{task.name}.root to the folder of the images")
        return None
    given = [split for split in _SPLITS if (root / split).is_dir()]
    places = {split: root / split for split in given} if "train" in given else {"all": root}
    names = sorted({path.name for place in places.values() for path in place.iterdir() if path.is_dir()})
    label_of = {name: label for label, name in enumerate(names)}
    if not names:
        report.error(root, "has no folders; expected one for each class, with its images")
    splits = {
        split: [
            Entry(file, label_of[name], str(file))
            for name in names
            for file in (sorted((place / name).rglob("*")) if (place / name).is_dir() else ())
            if file.suffix.lower() in SUFFIXES and file.is_file()
        ]
        for split, place in places.items()
    }
    return _complete(root, len(names), splits)


def read_csv(task: Task, root: Path, report: Report) -> Source | None:
    """Read a CSV with the columns path, label and, if wanted, split; paths are relative to its folder.

    Labels are names or numbers; classes are numbered in the order of the names, or of the numbers.
    """
    try:
        with root.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        report.error(
            root, f"cannot be read ({error}); set tasks.{task.name}.root to a CSV: path,label[,split]"
        )
        return None
    if not {"path", "label"} <= set(columns):
        report.error(f"{root}, line 1", f"has the columns {', '.join(columns)}; expected path,label[,split]")
        return None
    rows = [(f"{root}, line {line}", row) for line, row in rows]
    texts = {row["label"] for _, row in rows if row["label"]}
    ordered = sorted(texts, key=_by_number if all(map(_is_number, texts)) else None)
    label_of = {text: label for label, text in enumerate(ordered)}
    splits: dict[str, list[Entry]] = {}
    first: dict[str, str] = {}
    for place, row in rows:
        path, split = row["path"] or "", row.get("split") or "all"
        if not row["label"]:
            report.error(place, "the label is empty")
            continue
        if len(row["label"]) > _NAME:
            report.error(place, f"label {shown(row['label'])}: expected at most {_NAME} characters")
            continue
        if split not in (_SPLITS if "split" in columns else ("all",)):
            report.error(place, f"split {row.get('split')!r}: expected train, val or test")
            continue
        if path in first:
            report.error(place, f"{path!r} is already listed in {first[path]}; keep one of the lines")
        first.setdefault(path, place.rpartition(", ")[2])
        image = find_image(root.parent, path, place, report)
        if image is not None:
            splits.setdefault(split, []).append(Entry(image, label_of[row["label"]], place))
    return _complete(root, len(ordered), splits)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _by_number(digits: str) -> tuple[int, str, str]:
    """Return what sorts like the number, without converting one of thousands of digits."""
    number = digits.lstrip("0")
    return len(number), number, digits


def _complete(root: Path, num_classes: int, splits: dict[str, list[Entry]]) -> Source:
    """Hold out the splits that are missing: test from all, then val from train."""
    notes = []
    if "all" in splits:
        splits["train"], splits["test"] = hold_out(splits.pop("all"), _TEST_SHARE)
        notes.append(held_out_note(len(splits["test"]), "test", _TEST_SHARE))
    if "val" not in splits:
        splits["train"], splits["val"] = hold_out(splits.get("train", []))
        notes.append(held_out_note(len(splits["val"])))
    return Source(root, num_classes, {split: splits.get(split, []) for split in _SPLITS}, notes)
