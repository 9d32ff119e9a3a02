"""A user's own images as they lie on disk: which files are which split and class, and which are not read.

Standard library only: the workflow identifies and counts the images by it, and the readers read them.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

from mosa.base.errors import UserError
from mosa.base.words import count
from mosa.data.naming import IMAGE_SUFFIXES, SPLITS, few, hidden, like_a_split, split_named, split_of_set
from mosa.data.problems import Report

ALL = "all"  # images of no split

_PLAIN = {".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".log", ".pdf"}
_PLAIN |= {".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".py", ".ipynb", ".db", ".ini", ".bat"}
_PLAIN |= {".sh", ".doc", ".docx", ".xls", ".xlsx"}
_PLAIN_NAMES = {"readme", "license", "licence", "copying", "makefile", "authors", "changelog"}


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


class Listing(NamedTuple):
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
    top = list_folder(root, "", report)
    inside = {name: list_folder(root, name, report) for name in top.folders}
    tree, unread = Tree(folders=_splits(root, inside, report)), _Unread()
    _sort_files("", top, unread)
    for split, place in tree.folders.items():
        listing = inside[place] if place else top
        if place:
            _sort_files(place, listing, unread)
        classes = tree.images[split] = {}
        for name in listing.folders:
            folder = os.path.join(place, name)
            found = list_folder(root, folder, report) if place else inside[name]
            classes[name] = _images_of_class(root, folder, found, unread, report)
    _tell_unread(root, unread, report)
    return tree


def list_folder(root: Path, relative: str, report: Report) -> Listing:
    """Return what is in a folder below the root, sorted; one that cannot be read is reported."""
    listing = Listing([], [], [], [], [])
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


def _splits(root: Path, inside: Mapping[str, Listing], report: Report) -> dict[str, str]:
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
        images = [file for file in inside[name].files if is_image(file)]
        if images and not inside[name].folders:
            report.error(
                root / name,
                f"has {count(len(images), 'image')} and no folders of classes; sort them into a folder for "
                "each class, or take the folder away",
            )
        if name != split:
            report.note(root, f"{split}: read from the folder {name!r}")
    return {split: places[split] for split in SPLITS if split in places}


def _tell_splits_of_sets(root: Path, inside: Mapping[str, Listing], report: Report) -> None:
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


def _images_of_class(root: Path, folder: str, listing: Listing, unread: _Unread, report: Report) -> list[str]:
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
        waiting += [(path, list_folder(root, path, report)) for path in below]
        images = [os.path.join(relative, name) for name in listing.files if is_image(name)]
        _sort_others(relative, listing.files, unread)
        unread.deeper += images if relative != folder else []
        found += images
    return sorted(found, key=lambda path: path.split("/"))


def _sort_files(folder: str, listing: Listing, unread: _Unread) -> None:
    """Note the files that lie beside the folders of classes."""
    unread.outside += [os.path.join(folder, name) for name in listing.files if is_image(name)]
    unread.plain += [os.path.join(folder, name) for name in listing.dead]
    unread.hidden += [os.path.join(folder, name) for name in listing.hidden]
    _sort_others(folder, listing.files, unread)


def _sort_others(folder: str, files: list[str], unread: _Unread) -> None:
    for name in files:
        stem, suffix = os.path.splitext(name.lower())
        if not is_image(name):
            plain = suffix in _PLAIN or stem in _PLAIN_NAMES
            (unread.plain if plain else unread.formats).append(os.path.join(folder, name))


def is_image(name: str) -> bool:
    """Return whether a file is an image by its ending."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def images_below(folder: Path) -> tuple[list[Path], str]:
    """Return the images below a folder, by name, and what to say of other files that may be images.

    Args:
        folder: The folder. Links are followed, but no folder is read twice; what is hidden is left out.

    Raises:
        UserError: It, or a folder within, cannot be read.
    """
    found, unread, seen = [], _Unread(), set()
    for inside, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        try:
            place = os.stat(inside)
        except OSError as error:
            _refuse(error)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        linked = {name: os.path.islink(os.path.join(inside, name)) for name in folders}
        folders[:] = sorted(
            (name for name in folders if not hidden(name)), key=lambda name: (linked[name], name)
        )
        shown = [name for name in sorted(names) if not hidden(name)]
        found += [Path(inside) / name for name in shown if is_image(name)]
        _sort_others(os.path.relpath(inside, folder), shown, unread)
    formats = [os.path.normpath(path) for path in unread.formats]
    return sorted(found), f"{folder}: {_other_formats(formats)}" if formats else ""


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); change its permissions") from None


def _other_formats(files: list[str]) -> str:
    suffixes = Counter(os.path.splitext(path)[1].lower() or "no suffix" for path in files)
    counts = few([f"{count:,} {suffix}" for suffix, count in suffixes.most_common()])
    return f"{_files(files)}: not read ({counts}); images end in {', '.join(IMAGE_SUFFIXES)}: convert others"


def _tell_unread(root: Path, unread: _Unread, report: Report) -> None:
    if unread.dead:
        report.error(root, f"{_files(unread.dead)}: a broken link; copy the file, or delete the link")
    if unread.outside:
        report.warning(root, f"{_files(unread.outside)}: not read: in no folder of a class")
    if unread.formats:
        report.warning(root, f"{_other_formats(unread.formats)}, or move them elsewhere")
    if unread.links:
        report.warning(
            root, f"{_files(unread.links)}: not read, as links to folders are followed for classes only"
        )
    if unread.deeper:
        report.warning(
            root,
            f"{_files(unread.deeper)}: deeper than the folders of classes; the class is that of the "
            "uppermost folder",
        )
    if unread.plain:
        report.note(root, f"{_files(unread.plain)}: no image, and not read")
    if unread.hidden:
        report.note(root, f"{_files(unread.hidden)}: hidden, and not read")


def _files(paths: list[str]) -> str:
    return repr(min(paths)) + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")
