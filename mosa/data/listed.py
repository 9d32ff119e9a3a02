"""A user's own images that a file lists: a CSV, or a list for each split.

Standard library only, as in `discover`.
"""

import csv
import io
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import shown
from mosa.data.discover import ALL, is_image, list_folder
from mosa.data.naming import SPLITS, few, like_a_split, split_named
from mosa.data.problems import Report
from mosa.data.texts import read_text

_LABEL = 200  # characters of a label


class Row(NamedTuple):
    """A row of a CSV; `split` is `ALL` where the CSV has no such column."""

    line: int
    path: str
    label: str
    split: str


def read_table(file: Path, report: Report) -> list[Row] | None:
    """Read a CSV with the columns path, label and, if wanted, split; rows that are not valid are reported.

    Args:
        file: The CSV.
        report: Collects every problem.

    Returns:
        The rows that have a path, a label and a split; None if there are none to be read.
    """
    expected = "expected a CSV: path,label[,split]"
    text = read_text(file, report, expected)
    if text is None:
        return None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines, begin = [], 1
    try:
        for cells in reader:
            if cells:
                lines.append((begin, cells))
            begin = reader.line_num + 1
    except csv.Error as error:
        reason = "a quote is not closed" if "end of data" in str(error) else f"cannot be read: {error}"
        report.error(f"{file}, line {begin}", f"{reason}; {expected}")
        return None
    if not lines:
        report.error(file, f"is empty; {expected}")
        return None
    head = lines[0][1]
    columns = _columns(file, head, lines[1:], report)
    if columns is None:
        return None
    rows, renamed = [], set()
    for line, cells in lines[1:]:
        place = f"{file}, line {line}"
        if len(cells) > len(head):
            report.error(
                place,
                f"has {len(cells)} fields, not {len(head)} as line 1; quote a path that has a comma",
            )
            continue
        path, label, split = (
            cells[columns[name]] if name in columns and columns[name] < len(cells) else ""
            for name in ("path", "label", "split")
        )
        known = split_named(split) if "split" in columns else ALL
        if not label.strip():
            report.error(place, "the label is empty")
        elif len(label) > _LABEL:
            report.error(place, f"label {shown(label)}: expected at most {_LABEL} characters")
        elif known is None:
            report.error(place, f"split {split!r}: expected train, val or test")
        else:
            rows.append(Row(line, path, label, known))
            renamed |= {split} - {"", *SPLITS}
    for text in sorted(renamed):
        report.note(file, f"{split_named(text)}: rows with split {text!r}")
    return rows


def _columns(
    file: Path, head: list[str], lines: list[tuple[int, list[str]]], report: Report
) -> dict[str, int] | None:
    """Return the number of each column that is read, by its name in lower case."""
    names = [name.strip().lower() for name in head]
    twice = [name for name in ("path", "label", "split") if names.count(name) > 1]
    if twice or not {"path", "label"} <= set(names):
        other = [f", and no comma but {mark!r} between them" for mark in ";\t|" if mark in "".join(head)]
        between = other[0] if other and len(head) == 1 else ""
        report.error(f"{file}, line 1", f"has the columns {few(head)}{between}; expected path,label[,split]")
        return None
    others = [number for number, name in enumerate(names) if name not in ("path", "label", "split")]
    for number in others if "split" not in names else ():
        values = {cells[number] for _, cells in lines if number < len(cells)}
        if values and all(map(split_named, values)):
            report.error(
                f"{file}, line 1", f"the column {head[number]!r} has names of splits; rename it to 'split'"
            )
            return None
    if others:
        report.note(file, f"not read: the columns {few([head[number] for number in others])}")
    return {name: names.index(name) for name in ("path", "label", "split") if name in names}


def find_lists(root: Path, report: Report) -> dict[str, str]:
    """Return the name of each split's list below the root, such as train.txt or Validation.txt."""
    found: dict[str, str] = {}
    others, strange = [], []
    names = list_folder(root, "", report).files
    names.sort(key=lambda name: os.path.splitext(name)[0] not in SPLITS)  # train.txt before Training.txt
    for name in names:
        stem, suffix = os.path.splitext(name)
        split = split_named(stem) if suffix.lower() == ".txt" else None
        if split in found:
            report.error(root, f"{found[split]!r} and {name!r} both stand for {split}; keep one of them")
        elif split is not None:
            found[split] = name
            if stem != split:
                report.note(root, f"{split}: read from {name!r}")
        elif like_a_split(stem) and not is_image(name):
            strange.append(name)
        elif not is_image(name):
            others.append(name)
    if strange:
        report.warning(root, f"{few(strange)}: not read; lists are train.txt, val.txt and test.txt")
    if others:
        report.note(root, f"not read: {few(others)}")
    return found


def unlisted(images: Collection[str]) -> list[str]:
    """Return the images that lie beside listed ones, and are not listed themselves."""
    listed = {os.path.normpath(image) for image in images}
    found = []
    for folder in sorted({os.path.dirname(image) for image in listed}):
        names = list_folder(Path(folder), "", Report()).files
        paths = (os.path.join(folder, name) for name in names if is_image(name))
        found += [path for path in paths if path not in listed]
    return found
