"""A user's own images: a folder per class, a CSV, or lists."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from mosa.base.words import count
from mosa.data.discover import ALL, read_tree
from mosa.data.held_out import held_out_of_train
from mosa.data.layouts.lists import read_list
from mosa.data.layouts.source import (
    Entry,
    Report,
    Source,
    find_image,
    held_out_note,
    hold_out,
    without_mistyped,
)
from mosa.data.listed import find_lists, read_table, unlisted
from mosa.data.naming import SPLITS, few
from mosa.data.problems import why_absent
from mosa.data.task import Task

REPAIR = "copy it there again"


def read_folder(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/<class>/<image>`, or `<root>/<split>/<class>/<image>`; classes by name."""
    if not os.path.isdir(root):
        report.error(root, f"{why_absent(root)}; set tasks.{task.name}.root to the folder of the images")
        return None
    tree = read_tree(root, report)
    names = sorted({name for classes in tree.images.values() for name in classes})
    if not names and not report.errors:
        report.error(root, "has no folders; expected one for each class, with its images")
    splits = {
        split: [
            Entry(root / image, label, str(root / image))
            for label, name in enumerate(names)
            for image in classes.get(name, ())
        ]
        for split, classes in tree.images.items()
    }
    return _complete(root, names, splits, report)


def read_csv(task: Task, root: Path, report: Report) -> Source | None:
    """Read a CSV with the columns path, label and, if wanted, split; paths are relative to its folder.

    Labels are names or numbers; classes are numbered in the order of the names, or of the numbers.
    """
    rows = read_table(root, report)
    if rows is None:
        return None
    names = sorted({row.label for row in rows})
    if all(map(_is_number, names)):
        names.sort(key=lambda text: (len(text.lstrip("0")), text.lstrip("0"), text))
    label_of = {text: label for label, text in enumerate(names)}
    splits: dict[str, list[Entry]] = {}
    first: dict[Path, int] = {}
    for row in rows:
        place = f"{root}, line {row.line}"
        image = find_image(root.parent, row.path, place, report)
        if image is None:
            continue
        if image in first:
            report.error(
                place, f"{row.path!r} is already listed in line {first[image]}; keep one of the lines"
            )
        first.setdefault(image, row.line)
        splits.setdefault(row.split, []).append(Entry(image, label_of[row.label], place))
    _tell_unlisted(root, splits, report)
    return _complete(root, names, splits, report)


def read_lists(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/{train,val,test}.txt`, paths relative to root; what is missing is held out of train."""
    if not os.path.isdir(root):
        report.error(root, f"{why_absent(root)}; set tasks.{task.name}.root to the folder of the lists")
        return None
    found = find_lists(root, report)
    if "train" not in found:
        report.error(root / "train.txt", "no such list; expected a path, a space and a label in each line")
    splits = {split: read_list(root, name, None, report) or [] for split, name in found.items()}
    splits = without_mistyped(splits, report)
    labels = [entry.label for entries in splits.values() for entry in entries]
    _tell_unlisted(root, splits, report)
    return _complete(root, (), splits, report, max(labels, default=0) + 1)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _tell_unlisted(root: Path, splits: dict[str, list[Entry]], report: Report) -> None:
    found = unlisted([str(entry.image) for entries in splits.values() for entry in entries])
    if found:
        report.warning(
            root,
            f"{count(len(found), 'image')} beside the listed ones in no line, and not read ({few(found, 3)})",
        )


def _complete(
    root: Path,
    names: Sequence[str],
    splits: dict[str, list[Entry]],
    report: Report,
    num_classes: int | None = None,
) -> Source:
    """Hold out the splits that are missing: test, then val, from train; and check the classes."""
    if ALL in splits:
        splits["train"] = splits.pop(ALL)
    notes = []
    given, missing = set(splits), list(held_out_of_train(splits))
    if "train" in given:
        counts = Counter(entry.label for entry in splits["train"])
        for split, share in missing:
            splits["train"], splits[split] = hold_out(splits["train"], share)
            notes.append(held_out_note(len(splits[split]), split, share))
    in_order = {split: splits.get(split, []) for split in SPLITS}
    source = Source(root, num_classes or len(names), in_order, notes, names=tuple(names))
    if report.errors:
        return source
    if "train" not in given:
        report.error(root, "has no image for train")
    _check_names(source, report)
    for split in sorted(given, key=SPLITS.index):
        if not splits[split]:
            report.error(root, f"its split {split} has no image; add some, or take the split away")
    if "train" in given and splits["train"]:
        _check_counts(source, counts, [split for split, _ in missing], report)
    return source


def _check_names(source: Source, report: Report) -> None:
    """Refuse a single class, and classes that are likely one."""
    present = {entry.label for entries in source.splits.values() for entry in entries}
    trained = {entry.label for entry in source.splits["train"]}
    if len(trained) == 1:
        whose = "its images" if present == trained else "its images of train"
        report.error(
            source.root,
            f"{whose} are of one class only ({source.name_of(*trained)}); there is nothing to tell apart: "
            "expected two classes or more",
        )
    alike = defaultdict(list)
    for name in source.names:
        alike[_plain(name)].append(repr(name))
    for names in alike.values():
        if len(names) > 1:
            report.error(source.root, f"the classes {few(names)} look like one; use one name")


def _plain(name: str) -> str:
    """Return the same for names that are likely of one class.

    Such are 1, 01 and 1.0; Cat and cat; and an accented letter that is stored as one
    character or as two.
    """
    number = re.fullmatch(r"0*(\d+?)(?:\.0*)?", name, re.ASCII)
    return number[1] if number else "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _check_counts(source: Source, counts: Counter[int], held: list[str], report: Report) -> None:
    """Say which classes have too few images for a part in every split."""
    need = 1 + len(held)
    few_images = [label for label, count in sorted(counts.items()) if count < need]
    shown = few([f"{source.name_of(label)} has {counts[label]}" for label in few_images])
    why = f"{' and '.join(held)} {'are' if len(held) > 1 else 'is'} held out of train, class by class"
    if few_images and any(not source.splits[split] for split in held):
        report.error(source.root, f"too few images: {why}, so a class needs at least {need} ({shown})")
    elif few_images:
        report.warning(
            source.root,
            f"{len(few_images)} of {source.num_classes} classes are not in every split: {why}, so a class "
            f"needs at least {need} images ({shown})",
        )
    for split in ("val", "test"):
        found = {entry.label for entry in source.splits[split]}
        absent = [label for label in sorted(counts) if label not in found]
        if split not in held and absent:
            report.warning(
                source.root,
                f"{split} has no image of {len(absent)} of {source.num_classes} classes "
                f"({few([source.name_of(label) for label in absent])})",
            )
