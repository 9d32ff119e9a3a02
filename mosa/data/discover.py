"""A user's own images as they lie on disk: which files are which split and class, and which are not read.

Standard library only: the workflow identifies and counts the images by it, and the readers read them.
"""

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import shown
from mosa.base.words import count
from mosa.data.naming import IMAGE_SUFFIXES, SPLITS, few, hidden, like_a_split, split_named, split_of_set
from mosa.data.problems import Report
from mosa.data.texts import read_text

HOLD_OUT = 0.1  # share of each class of train that becomes val if there is none
TEST_SHARE = 0.2  # the same for test, which is held out before val
ALL = "all"  # images of no split
_LABEL = 200  # characters of a label

_PLAIN = {".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".log", ".pdf"}
_PLAIN |= {".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".py", ".ipynb", ".db", ".ini", ".bat"}
_PLAIN |= {".sh", ".doc", ".docx", ".xls", ".xlsx"}
_PLAIN_NAMES = {"readme", "license", "licence", "copying", "makefile", "authors", "changelog"}


# A folder per class


@dataclass
class Tree:
    """Images by split and class.

    Attributes:
        images: For each split, and each of its folders of classes, the images by path below the root. The
            only split is `ALL` where there are no folders of splits.
        folders: The folder of each split below the root; "" is the root.
    """

    images: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)


class _Listing(NamedTuple):
    """What is in a folder, by name, sorted; links to folders are folders too, and in `links`."""

    folders: list[str]
    files: list[str]
    links: list[str]
    dead: list[str]
    hidden: list[str]


@dataclass
class _Unread:
    """What is passed over, by path below the root."""

    outside: list[str] = field(default_factory=list)  # images that lie in no folder of a class
    formats: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)  # links of classes to what is not there
    hidden: list[str] = field(default_factory=list)
    deeper: list[str] = field(default_factory=list)  # these are read


def read_tree(root: Path, report: Report) -> Tree:
    """Find the images of `<root>/<class>/...`, or of `<root>/<split>/<class>/...`; report what is not read.

    Links to folders of splits and classes are followed, and none below.
    """
    top = _list(root, "", report)
    inside = {name: _list(root, name, report) for name in top.folders}
    tree, unread = Tree(folders=_splits(root, inside, report)), _Unread()
    _sort_files("", top, unread)
    for split, place in tree.folders.items():
        listing = inside[place] if place else top
        if place:
            _sort_files(place, listing, unread)
        classes = tree.images[split] = {}
        for name in listing.folders:
            folder = os.path.join(place, name)
            found = _list(root, folder, report) if place else inside[name]
            classes[name] = _images_of_class(root, folder, found, unread, report)
    _tell_unread(root, unread, report)
    return tree


def _list(root: Path, relative: str, report: Report) -> _Listing:
    listing = _Listing([], [], [], [], [])
    try:
        with os.scandir(root / relative) as entries:
            for entry in entries:
                if hidden(entry.name):
                    listing.hidden.append(entry.name)
                elif entry.is_dir():
                    listing.folders.append(entry.name)
                    if entry.is_symlink():
                        listing.links.append(entry.name)
                elif entry.is_file():
                    listing.files.append(entry.name)
                else:
                    listing.dead.append(entry.name)
    except OSError as error:
        report.error(root / relative, f"cannot be read ({error.strerror}); change its permissions")
    for names in listing:
        names.sort()
    return listing


def _splits(root: Path, inside: Mapping[str, _Listing], report: Report) -> dict[str, str]:
    """Decide which folders are splits: those that are named so, and hold folders themselves."""
    named = {name: split for name in inside if (split := split_named(name))}
    if not any(like_a_split(name) and inside[name].folders for name in inside):
        _tell_splits_of_sets(root, inside, report)
        return _no_splits(root, list(inside), list(named), report)
    places: dict[str, str] = {}
    for name, split in sorted(named.items(), key=lambda item: item[0] != item[1]):
        if split in places:
            report.error(root, f"{places[split]!r} and {name!r} both stand for {split}; keep one of them")
        else:
            places[split] = name
    others = [repr(name) for name in inside if name not in named]
    full = [name for name in inside if name not in named and (inside[name].folders or inside[name].files)]
    if "train" not in places:
        report.error(
            root, f"has splits and no train; name the folder to train on 'train' (found {few(list(inside))})"
        )
    elif list(places) == ["train"] and full:
        report.error(
            root,
            f"'train' stands for a split, and {few(others)} beside it for none; name the splits train, val "
            "and test, or rename 'train' if it is a class",
        )
    elif others:
        report.warning(root, f"{few(others)}: not read, since the splits are {few(list(places.values()))}")
    for split, name in places.items():
        images = [file for file in inside[name].files if _is_image(file)]
        if images and not inside[name].folders:
            report.error(
                root / name,
                f"has {count(len(images), 'image')} and no folders of classes; sort them into a folder for "
                "each class, or take the folder away",
            )
        if name != split:
            report.note(root, f"{split}: read from the folder {name!r}")
    return {split: places[split] for split in SPLITS if split in places}


def _tell_splits_of_sets(root: Path, inside: Mapping[str, _Listing], report: Report) -> None:
    """Report folders that are no splits by their names alone, but by the folders beside or within them."""
    nested = [name for name, listing in inside.items() if listing.folders]
    parts: dict[str, dict[str, str]] = defaultdict(dict)  # by set, the folder of each split
    for name in nested:
        found = split_of_set(name)
        if found is not None:
            parts[found[0]][found[1]] = name
    within: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in nested:
        within[tuple(inside[name].folders)].append(name)
    for folders in parts.values():
        if len(folders) > 1:
            report.error(
                root, f"{few(list(folders.values()))} look like splits; name them train, val and test"
            )
            return
    for classes, names in within.items():
        if len(classes) > 1 and len(names) > 1:
            report.warning(
                root,
                f"{few(names)} have the same folders within ({few(classes)}), and are taken for classes; if "
                "they are splits, name them train, val and test",
            )


def _no_splits(root: Path, names: list[str], named: list[str], report: Report) -> dict[str, str]:
    """Decide what folders that hold no folders are: classes, of which one may be named `train`."""
    if named and named == names:
        report.error(
            root,
            f"{few(named)}: no folders of classes within; expected one for each class, with its images",
        )
        return {}
    if named and [split_named(name) for name in named] != ["train"]:
        report.error(
            root,
            f"{few(named)}: the name of a split, with images and no folders of classes, beside other "
            "folders; sort the images into a folder for each class, or rename it if it is a class",
        )
    elif named:
        report.warning(root, f"{named[0]!r} is taken for a class, since it holds images and no folders")
    return {ALL: ""}


def _images_of_class(
    root: Path, folder: str, listing: _Listing, unread: _Unread, report: Report
) -> list[str]:
    """Return the images of a class, those of the folders within too, in the order of their paths."""
    if splits := [name for name in listing.folders if split_named(name)]:
        report.error(
            root / folder,
            f"holds {few(splits)}, the names of splits; order the folders as <split>/<class>, or set the "
            "root to this folder",
        )
    found: list[str] = []
    waiting = [(folder, listing)]
    while waiting:
        relative, listing = waiting.pop()
        unread.links += [os.path.join(relative, name) for name in listing.links]
        unread.dead += [os.path.join(relative, name) for name in listing.dead]
        unread.hidden += [os.path.join(relative, name) for name in listing.hidden]
        below = (os.path.join(relative, name) for name in listing.folders if name not in listing.links)
        waiting += [(path, _list(root, path, report)) for path in below]
        images = [os.path.join(relative, name) for name in listing.files if _is_image(name)]
        _sort_others(relative, listing.files, unread)
        unread.deeper += images if relative != folder else []
        found += images
    return sorted(found, key=lambda path: path.split("/"))


def _sort_files(folder: str, listing: _Listing, unread: _Unread) -> None:
    """Note the files that lie beside the folders of classes."""
    unread.outside += [os.path.join(folder, name) for name in listing.files if _is_image(name)]
    unread.plain += [os.path.join(folder, name) for name in listing.dead]
    unread.hidden += [os.path.join(folder, name) for name in listing.hidden]
    _sort_others(folder, listing.files, unread)


def _sort_others(folder: str, files: list[str], unread: _Unread) -> None:
    for name in files:
        stem, suffix = os.path.splitext(name.lower())
        if not _is_image(name):
            plain = suffix in _PLAIN or stem in _PLAIN_NAMES
            (unread.plain if plain else unread.formats).append(os.path.join(folder, name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def images_below(folder: Path) -> tuple[list[Path], str]:
    """Return the images below a folder, by name, and what to say of other files that may be images.

    Args:
        folder: The folder. Links are followed, but no folder is read twice; what is hidden is left out.
    """
    found, unread, seen = [], _Unread(), set()
    for inside, folders, names in os.walk(folder, followlinks=True):
        place = os.stat(inside)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        linked = {name: os.path.islink(os.path.join(inside, name)) for name in folders}
        folders[:] = sorted(
            (name for name in folders if not hidden(name)), key=lambda name: (linked[name], name)
        )
        shown = [name for name in sorted(names) if not hidden(name)]
        found += [Path(inside) / name for name in shown if _is_image(name)]
        _sort_others(os.path.relpath(inside, folder), shown, unread)
    formats = [os.path.normpath(path) for path in unread.formats]
    return sorted(found), f"{folder}: {_other_formats(formats)}" if formats else ""


def _other_formats(files: list[str]) -> str:
    suffixes = Counter(os.path.splitext(path)[1].lower() or "no suffix" for path in files)
    counts = few([f"{count:,} {suffix}" for suffix, count in suffixes.most_common()])
    return f"{_files(files)}: not read ({counts}); images end in {', '.join(IMAGE_SUFFIXES)}: convert others"


def _tell_unread(root: Path, unread: _Unread, report: Report) -> None:
    if unread.dead:
        report.error(root, f"{_files(unread.dead)}: a broken link; copy the file, or delete the link")
    if unread.outside:
        report.warning(root, f"{_files(unread.outside)}: not read, as it lies in no folder of a class")
    if unread.formats:
        report.warning(root, f"{_other_formats(unread.formats)}, or move them elsewhere")
    if unread.links:
        report.warning(
            root, f"{_files(unread.links)}: not read, as links to folders are followed for classes only"
        )
    if unread.deeper:
        report.warning(
            root,
            f"{_files(unread.deeper)}: lies deeper than the folders of classes, and counts as its uppermost "
            "folder's class",
        )
    if unread.plain:
        report.note(root, f"{_files(unread.plain)}: no image, and not read")
    if unread.hidden:
        report.note(root, f"{_files(unread.hidden)}: hidden, and not read")


def _files(paths: list[str]) -> str:
    return repr(min(paths)) + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")


# A CSV


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
    head = lines[0][1] if lines else []
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
        found = few(head) if head else "none"
        other = [f", and no comma but {mark!r} between them" for mark in ";\t|" if mark in "".join(head)]
        between = other[0] if other and len(head) == 1 else ""
        report.error(f"{file}, line 1", f"has the columns {found}{between}; expected path,label[,split]")
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


# Lists


def find_lists(root: Path, report: Report) -> dict[str, str]:
    """Return the name of each split's list below the root, such as train.txt or Validation.txt."""
    found: dict[str, str] = {}
    others, strange = [], []
    names = _list(root, "", report).files
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
        elif like_a_split(stem) and not _is_image(name):
            strange.append(name)
        elif not _is_image(name):
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
        names = _list(Path(folder), "", Report()).files
        paths = (os.path.join(folder, name) for name in names if _is_image(name))
        found += [path for path in paths if path not in listed]
    return found


# Splits that are missing


def held_out_of_train(given: Collection[str]) -> Iterator[tuple[str, float]]:
    """Yield the splits that are to be held out of train, in this order, with the share of each class."""
    if "test" not in given:
        yield "test", TEST_SHARE
    if "val" not in given:
        yield "val", HOLD_OUT


def share_of(count: int, share: float, keep_one: bool = True) -> int:
    """Return how many of the images of a class a share is: rounded half up, and at least one.

    Args:
        count: Images of the class.
        share: The share.
        keep_one: Leave at least one image, even if none is taken.
    """
    number = max(1, int(share * count + 0.5))
    return min(number, count - 1) if keep_one else number
