"""What is checked of every data set, whatever its layout: sizes, classes, and images in two splits."""

import operator
import os
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mosa.data.layouts.source import Entry, Report, Source
from mosa.data.naming import SPLITS, few
from mosa.data.task import OWN, Task

_NOTES = 20_000  # characters, which a pack has room for


class Overlap(NamedTuple):
    """An image of one split that is in an earlier one, too.

    Attributes:
        split: Its split.
        entry: The image.
        other: The earlier split.
        first: The image there.
    """

    split: str
    entry: Entry
    other: str
    first: Entry


def in_form(task: Task, source: object, root: Path, report: Report) -> Source | None:
    """Return what a reader returned, with labels as Python's integers; None if it is not as `Source` says."""
    reason = f"a {type(source).__name__}, expected a Source"
    if isinstance(source, Source):
        reason = _malformed(source) or ""
    if reason:
        report.error(root, f"the reader of layout {task.layout!r} returns {reason}")
        return None
    for split, entries in source.splits.items():
        source.splits[split] = [entry._replace(label=operator.index(entry.label)) for entry in entries]
    return source


def _malformed(source: Source) -> str | None:
    if set(source.splits) != set(SPLITS):
        return f"the splits {few(list(map(str, source.splits)))}; expected {', '.join(SPLITS)}"
    if not isinstance(source.num_classes, int):
        return f"num_classes {source.num_classes!r}; expected an int"
    if not all(isinstance(name, str) for name in source.names):
        return "names of classes that are no texts"
    if source.names and len(source.names) != source.num_classes:
        return (
            f"{len(source.names)} names for {source.num_classes} classes; expected a name for each, or none"
        )
    if sum(map(len, source.notes)) > _NOTES:
        return f"notes of more than {_NOTES:,} characters"
    for split, entries in source.splits.items():
        for image, label, place in entries:
            if isinstance(image, np.ndarray):
                good = image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
            else:
                good = isinstance(image, Path)
            if not good:
                what = f"an array {image.dtype} {image.shape}" if hasattr(image, "dtype") else repr(image)
                return f"{what} in {split} ({place}); expected a Path, or an array uint8 (height, width, 3)"
            if not isinstance(label, int | np.integer) or not 0 <= label < source.num_classes:
                end = source.num_classes - 1
                return f"the label {label!r} in {split} ({place}); expected a whole number, 0 to {end}"
    return None


def check_source(task: Task, source: Source, report: Report) -> None:
    """Report what is wrong with the lists of a task, as far as it shows without an image being opened."""
    if task.benchmark != OWN or task.reader:  # other own tasks are cut into splits, and say why one is empty
        for split, entries in source.splits.items():
            if not entries and not (task.reader and split == "val"):
                report.error(source.root, f"its split {split} is empty; {task.full_name} needs images in it")
    found = {split: len(entries) for split, entries in source.splits.items()}
    if task.sizes and found != {split: task.sizes[split] for split in found}:
        counts = " / ".join(map(str, found.values()))
        literature = " / ".join(str(task.sizes[split]) for split in found)
        report.warning(
            source.root,
            f"train / val / test have {counts} images, the literature {literature}; say so with your results",
        )
    if task.metric == "top5" and source.num_classes <= 5:
        report.error(
            source.root, f"top5 of {source.num_classes} classes is 100 in any case; set metric: top1"
        )
    _check_classes(task, source, report)
    if task.layout != "union":  # whose members are checked
        tell_overlaps(task, source, _same_files(source), report)


def _check_classes(task: Task, source: Source, report: Report) -> None:
    """Warn of classes without a training image; splits that share no class are an error."""
    present = {split: {entry.label for entry in entries} for split, entries in source.splits.items()}
    if not present["train"]:
        return
    trained = present["train"] | (present["val"] if task.final_train == "trainval" else set())
    absent = source.num_classes - len(trained)
    if absent:
        first = list(islice((label for label in range(source.num_classes) if label not in trained), 6))
        report.warning(
            source.root,
            f"no training image of {absent} of {source.num_classes} classes ({_named(source, first)})",
        )
    for split in ("val", "test"):
        untrained = sorted(present[split] - present["train"])
        if untrained and len(untrained) == len(present[split]):
            report.error(
                source.root,
                f"{split} and train have no class in common ({_named(source, untrained)} are in {split}); "
                "give the classes the same names or numbers",
            )
        elif untrained:
            report.warning(
                source.root,
                f"{split} has {len(untrained)} of {source.num_classes} classes that train lacks "
                f"({_named(source, untrained)}): a run that trains on train alone, as in stage selection and "
                "while hyper-parameters are chosen, cannot learn them",
            )


def _named(source: Source, labels: list[int]) -> str:
    return few([source.name_of(label) for label in labels])


def _same_files(source: Source) -> Iterable[Overlap]:
    """Yield the files that are in two splits, links followed."""
    seen: dict[object, tuple[str, Entry]] = {}
    for split in SPLITS:
        for entry in source.splits[split]:
            if isinstance(entry.image, Path):
                other, first = seen.setdefault(_identity(entry.image), (split, entry))
                if other != split:
                    yield Overlap(split, entry, other, first)


def _identity(path: Path) -> object:
    """Return what is the same for two paths to one file."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def same_file(one: Entry, other: Entry) -> bool:
    """Whether two entries name one file."""
    files = isinstance(one.image, Path) and isinstance(other.image, Path)
    return files and _identity(one.image) == _identity(other.image)


def tell_overlaps(task: Task, source: Source, overlaps: Iterable[Overlap], report: Report) -> None:
    """Report images that are in two splits.

    It is an error in a user's own data, and where most of a split is concerned. Otherwise it is a warning:
    published benchmarks have some such images, and their numbers are with them.
    """
    between: dict[tuple[str, str], list[Overlap]] = defaultdict(list)
    for overlap in overlaps:
        between[overlap.split, overlap.other].append(overlap)
    for (split, other), found in between.items():
        firsts = len({overlap.first.place for overlap in found})
        sizes = len(source.splits[split]), len(source.splits[other])
        if 2 * len(found) > sizes[0] or 2 * firsts > sizes[1]:
            report.error(
                source.root,
                f"{len(found):,} of {sizes[0]:,} images of {split} are in {other} too, so {split} measures "
                "what was trained on; take them out of one of the two",
            )
        tell = report.error if task.benchmark == OWN else report.warning
        for overlap in found:
            labels = overlap.entry.label, overlap.first.label
            differs = (
                ""
                if labels[0] == labels[1]
                else (f", with class {source.name_of(labels[1])} where this is {source.name_of(labels[0])}")
            )
            tell(
                overlap.entry.place,
                f"the same image is in {other} ({overlap.first.place}){differs}; take it out of one of them",
            )
