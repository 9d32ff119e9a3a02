"""What every reader returns: entries by split, and the problems that it found."""

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mosa.base.errors import shown
from mosa.base.words import count as counted
from mosa.data.held_out import HOLD_OUT, share_of
from mosa.data.naming import in_other_formats
from mosa.data.problems import Report, why_absent
from mosa.data.sources import where
from mosa.data.task import Task

HOLD_OUT_SEED = 0
MAX_CLASSES = 100_000  # what is read before anything is allocated by it; ImageNet-21k has 21,843
_DIGITS = 20  # of a label
_SPARSE = 10  # labels of lists are below this many times the number of their images


class Entry(NamedTuple):
    """One image of a split.

    Attributes:
        image: Its file, or its pixels, uint8 (height, width, 3), if a file holds many images.
        label: Its class, 0 ... num_classes - 1.
        place: Where it is listed, such as "test.txt, line 7".
    """

    image: Path | np.ndarray
    label: int
    place: str


@dataclass
class Source:
    """A task as it was found on disk.

    Attributes:
        root: The folder that was read.
        num_classes: Number of classes.
        splits: Entries of train, val and test.
        notes: What was decided for the user, such as a hold-out; it goes into the record.
        subsets: Low-resource subsets that come with the data, as indices into train, by fraction.
        sets: Names of the data sets that a union consists of.
        set_sizes: For each split, the number of entries of each of these sets, in their order.
        names: Names of the classes by label, where they have names.
    """

    root: Path
    num_classes: int
    splits: dict[str, list[Entry]]
    notes: list[str] = field(default_factory=list)
    subsets: dict[str, list[int]] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    set_sizes: dict[str, list[int]] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def name_of(self, label: int) -> str:
        """Return the name of a class for a sentence; its label where it has no name."""
        return repr(self.names[label]) if self.names else str(label)


def find_folder(task: Task, root: Path, report: Report) -> Path | None:
    """Return the task's folder below the benchmark's root, under any of its names."""
    for name in task.folders:
        if os.path.isdir(root / name):
            return root / name
    others = f" (also tried: {', '.join(task.folders[1:])})" if len(task.folders) > 1 else ""
    usual = root / task.folders[0]
    page = where("data", task.full_name)
    advice = f"put {task.full_name} there ({page}), or set paths.data.{task.benchmark}"
    report.error(usual, f"{why_absent(usual)}{others}; {advice}")
    return None


def find_image(base: Path, relative: str, place: str, report: Report) -> Path | None:
    """Return the file that an entry names, which must lie below `base`; links are followed.

    Copies of a benchmark differ in their format, see `mosa.data.naming.in_other_formats`.
    """
    parts = Path(relative).parts
    if "\0" in relative:
        report.error(place, f"{relative!r} is no path: it has a character with the code 0; take the line out")
        return None
    if not parts or Path(relative).is_absolute() or ".." in parts:
        below = Path(relative).is_relative_to(os.path.abspath(base)) and ".." not in parts
        wrong = "is an absolute path" if below else f"leads out of {base}"
        report.error(place, f"{relative!r} {wrong}; list images by their paths below {base}")
        return None
    path = base / relative
    denied = False
    for candidate in (path, *(base / other for other in in_other_formats(relative))):
        try:
            if stat.S_ISREG(os.stat(candidate).st_mode):  # follows links
                return candidate
        except PermissionError:
            denied = True
        except (OSError, ValueError):  # ValueError: a name that no disk can hold
            continue
    if denied:
        report.error(
            place, f"{path}: cannot be read (Permission denied); change the permissions of its folder"
        )
    elif "\\" in relative:
        report.error(place, f"{path}: no such image; write / between folders, not a backslash")
    else:
        report.error(place, f"{path}: no such image; {report.repair}, or take the line out")
    return None


def parse_label(text: str, num_classes: int | None, place: str, report: Report) -> int | None:
    """Return a label as a number, or None if it is not one of 0 ... num_classes - 1.

    Args:
        text: The label as it is written.
        num_classes: Number of classes; None: not known, at most `MAX_CLASSES`.
        place: Where it is written.
        report: Takes the problem.
    """
    end, written = num_classes or MAX_CLASSES, shown(text)
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS:
        written = text
        if int(text) < end:
            return int(text)
    report.error(place, f"label {written}: expected a whole number, 0 to {end - 1}")
    return None


def without_mistyped(splits: dict[str, list[Entry]], report: Report) -> dict[str, list[Entry]]:
    """Return splits without the labels that are far beyond the number of images, which are errors.

    For lists that do not say how many classes there are: the largest label decides, and as many are trained.
    """
    end = _SPARSE * sum(map(len, splits.values()))
    for entry in (entry for entries in splits.values() for entry in entries if entry.label >= end):
        report.error(
            entry.place,
            f"label {entry.label}: expected less than {end}, {_SPARSE} times the number of images; number "
            "the classes from 0",
        )
    return {split: [entry for entry in entries if entry.label < end] for split, entries in splits.items()}


def hold_out(
    entries: Sequence[Entry], share: float = HOLD_OUT, seed: int = HOLD_OUT_SEED
) -> tuple[list[Entry], list[Entry]]:
    """Split entries into those that stay and those that are held out, class by class.

    Args:
        entries: The entries, in an order that does not depend on the file system.
        share: Share of each class to hold out, rounded; a class of one image stays whole.
        seed: Seeds the choice.
    """
    chosen = stratified([entry.label for entry in entries], share, seed, keep_one=True)
    held = set(chosen.tolist())
    stays = [entry for index, entry in enumerate(entries) if index not in held]
    return stays, [entries[index] for index in sorted(held)]


def stratified(labels: Iterable[int], fraction: float, seed: int, keep_one: bool = False) -> np.ndarray:
    """Return sorted indices of a seeded subset with the same share of every class.

    Args:
        labels: Label of each image.
        fraction: Share of each class, rounded half up; at least one image.
        seed: Seeds the choice.
        keep_one: Leave at least one image of each class, even if none is taken.
    """
    rng = np.random.default_rng([seed, 0x73747261])
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[int(label)].append(index)
    chosen: list[int] = []
    for label in sorted(by_class):
        members = np.array(by_class[label])
        number = share_of(len(members), fraction, keep_one)
        chosen.extend(rng.permutation(members)[:number].tolist())
    return np.array(sorted(chosen), dtype=np.int64)


def held_out_note(count: int, split: str = "val", share: float = HOLD_OUT) -> str:
    """Return the note for a split that was held out of train."""
    images = counted(count, "image")
    return f"{split}: {images} held out of train, {share:.0%} of each class, seed {HOLD_OUT_SEED}"


def deal(labels: Iterable[int], parts: int) -> np.ndarray:
    """Deal images into parts whose sizes, and shares of every class, differ by one image at most.

    Args:
        labels: The label of each image.
        parts: Number of parts.

    Returns:
        The part of each image, 0 to parts - 1, int64; the same for the same labels.
    """
    labels = np.asarray(list(labels))
    order = np.random.default_rng(0x666F6C64).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, shuffled within each
    part = np.empty(len(labels), np.int64)
    part[order] = np.arange(len(labels)) % parts
    return part
