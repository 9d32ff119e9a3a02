"""How tasks lie on disk: each layout is declared once, by its reader, its files and its numbers.

Standard library only: the workflow identifies and counts images by it. The readers in mosa.data.layouts need
numpy; they are imported when one is called for.
"""

import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mosa.base.errors import UserError, unknown
from mosa.base.plugins import Registry, in_use
from mosa.data.digests import File, look_up
from mosa.data.discover import ALL, read_tree
from mosa.data.held_out import held_out_of_train, share_of
from mosa.data.listed import find_lists, read_table
from mosa.data.naming import SPLITS, in_other_formats
from mosa.data.problems import Report
from mosa.data.task import Task
from mosa.data.texts import read_text

if TYPE_CHECKING:
    from mosa.data.layouts.source import Source

    Reader = Callable[[Task, Path, Report], Source | None]

# The folder of the images of each FGVC data set.
FGVC_IMAGES = {"cub": "images", "nabirds": "images", "dogs": "Images", "flowers": "", "cars": ""}
Counts = dict[str, Counter[str]]


class Layout(NamedTuple):
    """How a task lies on disk.

    Attributes:
        reader: The function that reads it; or its module in mosa.data.layouts and its name, such as
            "own:read_folder".
        files: Yields what the reader reads: lists, and the images that they name, or the folders of classes.
            They identify the task by content. By default all files below the task's folder.
        own: What docs/configuration.md says of it, as a layout of a user's own tasks; "": it is none.
        count: Counts a user's own images by split and class, as they lie there, without opening one.
        is_file: The root of a task is a file.
    """

    reader: "str | Reader"
    files: Callable[[Task, Path], Iterator[File]]
    own: str = ""
    count: Callable[[Path], Counts] = lambda root: {}
    is_file: bool = False

    def read(self) -> "Reader":
        """Return the reader."""
        if not isinstance(self.reader, str):
            return self.reader
        module, _, name = self.reader.partition(":")
        return getattr(importlib.import_module(f"mosa.data.layouts.{module}"), name)


def all_files(task: Task, folder: Path) -> Iterator[File]:
    """Yield every file below a folder."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield from _file(folder, path.relative_to(folder).as_posix())


# What each reader reads


def _vtab_files(task: Task, folder: Path) -> Iterator[File]:
    """Read lists of train and val, or else their joint list, whose labels alone count beside them."""
    if os.path.isfile(folder / "train800.txt"):
        yield from _listed(folder, ("train800.txt", "val200.txt", "test.txt"))
        yield from _file(folder, "train800val200.txt")
    else:
        yield from _listed(folder, ("train800val200.txt", "test.txt"))


def _own_list_files(task: Task, folder: Path) -> Iterator[File]:
    return _listed(folder, find_lists(folder, Report()).values())


def _listed(folder: Path, lists: Iterable[str]) -> Iterator[File]:
    for name in lists:
        yield from _file(folder, name)
        for line in _lines(folder / name):
            yield from _image(folder, "", line.rstrip().rpartition(" ")[0].strip())


def _fgvc_files(task: Task, folder: Path) -> Iterator[File]:
    subsets = sorted(file.name for file in folder.glob("train_*.json"))
    for name in (*(f"{split}.json" for split in SPLITS), *subsets):
        yield from _file(folder, name)
        for relative in _object(folder / name):
            yield from _image(folder, FGVC_IMAGES[task.name], relative)


def _cifar_files(task: Task, folder: Path) -> Iterator[File]:
    for name in ("train", "test"):
        yield from _file(folder, name)


def _aircraft_files(task: Task, folder: Path) -> Iterator[File]:
    yield from _file(folder, "data/variants.txt")
    for split in SPLITS:
        name = f"data/images_variant_{split}.txt"
        yield from _file(folder, name)
        for line in _lines(folder / name):
            yield from _image(folder, "data/images", f"{line.strip().partition(' ')[0]}.jpg")


def _food_files(task: Task, folder: Path) -> Iterator[File]:
    for split in ("train", "test"):
        name = f"meta/{split}.json"
        yield from _file(folder, name)
        for images in _object(folder / name).values():
            for relative in images if isinstance(images, list) else ():
                yield from _image(folder, "images", f"{relative}.jpg")


def _csv_files(task: Task, path: Path) -> Iterator[File]:
    folder = str(path.parent)
    yield from _file(folder, path.name)
    for row in read_table(path, Report()) or ():
        yield from _image(folder, "", row.path)


def _folder_files(task: Task, folder: Path) -> Iterator[File]:
    """Yield images, and the folders of classes, which number the classes even if they are empty."""
    tree = read_tree(folder, Report())
    for split, classes in tree.images.items():
        for name, images in classes.items():
            name = os.path.join(tree.folders[split], name)
            yield File(f"{name}/", f"{folder}/{name}", 0, 0)
            for image in images:
                yield from _file(folder, image)


# The numbers of a user's own images


def _count_tree(root: Path) -> Counts:
    tree = read_tree(root, Report()).images.items()
    return {
        split: Counter({name: len(images) for name, images in classes.items() if images})
        for split, classes in tree
    }


def _count_table(root: Path) -> Counts:
    counts: Counts = {}
    for row in read_table(root, Report()) or ():
        counts.setdefault(row.split, Counter())[row.label] += 1
    return counts


def _count_lists(root: Path) -> Counts:
    if not os.path.isdir(root):
        return {}
    found = find_lists(root, Report()).items()
    return {
        split: Counter(line.rstrip().rpartition(" ")[2] for line in _lines(root / name))
        for split, name in found
    }


def count_own(task: Task) -> dict[str, int]:
    """Return the number of images of each split of a user's own task, as its lists and folders have them.

    Returns:
        The numbers, with those held out of train; empty where nothing is found, or train is not.
    """
    counts = LAYOUTS[task.layout].count(Path(task.root or ""))
    if ALL in counts:
        counts["train"] = counts.pop(ALL)
    if not counts.get("train"):
        return {}
    for split, share in list(held_out_of_train(counts)):
        held = Counter({name: share_of(count, share) for name, count in counts["train"].items()})
        counts["train"], counts[split] = counts["train"] - held, held
    return {split: counts[split].total() for split in SPLITS}


def _file(folder: str | Path, path: str) -> Iterator[File]:
    file = look_up(f"{folder}/{path}", path)
    if file is not None:
        yield file


def _image(folder: str | Path, base: str, relative: str) -> Iterator[File]:
    """Yield the image that a list names, by the rules of `mosa.data.layouts.source.find_image`."""
    if not relative or relative.startswith("/") or ".." in relative.split("/"):
        return
    name = f"{base}/{relative}" if base else relative
    for one in (name, *in_other_formats(name)):
        if (file := look_up(f"{folder}/{one}", one)) is not None:
            yield file
            return


def _lines(path: Path) -> list[str]:
    return (read_text(path, Report(), "") or "").rstrip().splitlines()


def _object(path: Path) -> dict:
    try:
        content = json.loads(read_text(path, Report(), "") or "null")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


_LAYOUTS = {
    "vtab": Layout("lists:read_vtab", _vtab_files),
    "fgvc": Layout("fgvc:read_fgvc", _fgvc_files),
    "cifar100": Layout("cifar:read_cifar100", _cifar_files),
    "aircraft": Layout("general:read_aircraft", _aircraft_files),
    "food101": Layout("general:read_food101", _food_files),
    "folder": Layout("own:read_folder", _folder_files, "a folder per class", _count_tree),
    "csv": Layout("own:read_csv", _csv_files, "path,label[,split]", _count_table, is_file=True),
    "lists": Layout(
        "own:read_lists",
        _own_list_files,
        "{train,val,test}.txt with a path and a label per line",
        _count_lists,
    ),
}
LAYOUTS: Registry[Layout] = Registry("layout", _LAYOUTS)


def check_reader(task: Task) -> None:
    """Refuse to read a task with another reader than the one that is meant.

    Raises:
        UserError: There is no such layout, or it is from another plugin.
    """
    if task.layout not in LAYOUTS and task.layout != "union":
        raise unknown("layout", task.layout, LAYOUTS)
    found = next((one.sha256 for one in in_use() if task.layout in one.names("layout")), "")
    if found != task.reader:
        raise UserError(
            f"{task.full_name}: its layout {task.layout!r} is read by other code than is meant (SHA-256 "
            f"{found[:16] or 'of no plugin'}, expected {task.reader[:16]}); run the workflow again, to pack "
            "the images anew"
        )


def own_layouts() -> dict[str, str]:
    """Return what the layouts of a user's own tasks are, by name."""
    return {name: layout.own for name, layout in LAYOUTS.items() if layout.own}
