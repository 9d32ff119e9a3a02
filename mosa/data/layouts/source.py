"""What every reader returns: entries by split, and the problems that it found."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mosa.data.task import Task

HOLD_OUT = 0.1  # share of each class of train that becomes val if there is none
HOLD_OUT_SEED = 0
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


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


class Problem(NamedTuple):
    """Something wrong with the data.

    Attributes:
        severity: "error" (the task cannot be used), "warning", or "note" (nothing is wrong).
        place: File, and line where there is one.
        message: What is wrong, and what to do.
    """

    severity: str
    place: str
    message: str


@dataclass
class Report:
    """Collects every problem, so that a user sees all of them at once."""

    problems: list[Problem] = field(default_factory=list)

    def error(self, place: object, message: str) -> None:
        """Add a problem that makes the task unusable."""
        self.problems.append(Problem("error", str(place), message))

    def warning(self, place: object, message: str) -> None:
        """Add a problem that the user should know of."""
        self.problems.append(Problem("warning", str(place), message))

    @property
    def errors(self) -> list[Problem]:
        """The problems that are errors."""
        return [problem for problem in self.problems if problem.severity == "error"]


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
    """

    root: Path
    num_classes: int
    splits: dict[str, list[Entry]]
    notes: list[str] = field(default_factory=list)
    subsets: dict[str, list[int]] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    set_sizes: dict[str, list[int]] = field(default_factory=dict)


def find_folder(task: Task, root: Path, report: Report) -> Path | None:
    """Return the task's folder below the benchmark's root, under any of its names."""
    for name in task.folders:
        if (root / name).is_dir():
            return root / name
    others = f" (also tried: {', '.join(task.folders[1:])})" if len(task.folders) > 1 else ""
    report.error(
        root / task.folders[0],
        f"no such folder{others}; put {task.full_name} there, or set paths.data.{task.benchmark}",
    )
    return None


def read_lines(file: Path, report: Report) -> list[tuple[str, str]] | None:
    """Return the lines of a text, each with its place; a BOM, CRLF and trailing blank lines are allowed."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        report.error(file, "no such file; copy it there, it is part of the data set")
        return None
    except (OSError, UnicodeDecodeError) as error:
        report.error(file, f"cannot be read ({error}); copy it again")
        return None
    lines = text.rstrip().splitlines()
    return [(f"{file}, line {number}", line) for number, line in enumerate(lines, start=1)]


def find_image(base: Path, relative: str, place: str, report: Report) -> Path | None:
    """Return the file that an entry names, which must lie below `base`; links are followed.

    Copies of a benchmark differ in their format: the same name with another suffix is accepted, too.
    """
    parts = Path(relative).parts
    if not parts or Path(relative).is_absolute() or ".." in parts or "\0" in relative:
        report.error(place, f"{relative!r} leads out of {base}; list images by their paths below it")
        return None
    path = base / relative
    for candidate in (path, *(path.with_suffix(suffix) for suffix in SUFFIXES[:3])):
        if os.path.isfile(candidate):  # follows links
            return candidate
    report.error(place, f"{path}: no such image; extract the archive again, or take the line out")
    return None


def parse_label(text: str, num_classes: int | None, place: str, report: Report) -> int | None:
    """Return a label as a number, or None if it is not one of 0 ... num_classes - 1."""
    expected = (
        f"expected a whole number, 0 to {num_classes - 1}" if num_classes else "expected a whole number >= 0"
    )
    if not text.isascii() or not text.isdigit():
        report.error(place, f"label {text!r}: {expected}")
        return None
    label = int(text[:10])
    if num_classes is not None and label >= num_classes:
        report.error(place, f"label {label}: {expected}")
        return None
    return label


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
        number = max(1, int(fraction * len(members) + 0.5))
        number = min(number, len(members) - 1) if keep_one else number
        chosen.extend(rng.permutation(members)[:number].tolist())
    return np.array(sorted(chosen), dtype=np.int64)


def held_out_note(count: int, split: str = "val", share: float = HOLD_OUT) -> str:
    """Return the note for a split that was held out of train."""
    return f"{split}: {count} images held out of train, {share:.0%} of each class, seed {HOLD_OUT_SEED}"
