"""Identifies data on disk by content: sizes and mtimes decide quickly, digests confirm.

Standard library only: the workflow imports it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mosa.data.catalogue import get_task
from mosa.data.digests import File, combined, identified, look_up
from mosa.data.discover import find_lists, read_table, read_tree
from mosa.data.naming import IMAGE_SUFFIXES, SPLITS
from mosa.data.problems import Report
from mosa.data.task import Task
from mosa.data.texts import read_text

# As the reader in mosa.data.layouts has them, which imports numpy.
FGVC_IMAGES = {"cub": "images", "nabirds": "images", "dogs": "Images", "flowers": "", "cars": ""}


def task_content(task: Task, root: Path, cache: Path | None) -> str | None:
    """Return the SHA-256 of what a task's reader reads: its lists, and the images that they name.

    It covers the path of each file relative to the task's folder, and the file's bytes. It does not depend
    on where the root lies, or on mtimes. A union is identified by its members. What is missing or broken is
    left out; `mosa check` reports it.

    Args:
        task: The task.
        root: Folder of its benchmark; ignored for a user's own task, which has a root.
        cache: Folder of packs; its folder `sources` keeps the digests, so that only files whose size or
            mtime changed are read again. None: all files are read.

    Returns:
        The digest in hex; None for a rendered task, and where the task's folder is missing.
    """
    if not task.on_disk:
        return None
    if task.layout == "union":
        members = {name: task_content(get_task(name), root, cache) for name in task.members}
        return None if None in members.values() else combined(members)
    place = _place(task, Path(task.root or root))
    if place is None:
        return None
    files = {file.name: file for file in _LAYOUTS[task.layout](task, place)}
    key = _key(f"{task.layout} {os.path.abspath(place)}")
    kept = cache and Path(cache) / "sources" / task.benchmark / f"{task.name}-{key}.json"
    announced = f"{task.benchmark}: reading {{:,}} files of {task.name} once, to identify them by content"
    return identified(files.values(), kept, combined, announced)


def file_content(path: Path, cache: Path | None) -> str | None:
    """Return the SHA-256 of a single file such as weights, in hex; None where there is no file.

    Args:
        path: The file.
        cache: Folder of packs; its folder `sources` keeps the digest until the file's size or mtime changes.
            None: the file is read each time.
    """
    file = look_up(os.path.abspath(path), "file")
    if file is None:
        return None
    kept = cache and Path(cache) / "sources" / "files" / f"{_key(file.path)}.json"
    return identified([file], kept, lambda digests: digests.get(file.name), "")


def _key(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:12]


def _place(task: Task, root: Path) -> Path | None:
    """Return the task's folder, under any of its names, or the CSV of a user's own task."""
    if task.layout == "csv":
        return root if os.path.isfile(root) else None
    folders = [root / name for name in task.folders] or [root]
    return next((folder for folder in folders if os.path.isdir(folder)), None)


# What each reader in mosa.data.layouts reads


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


_LAYOUTS: dict[str, Callable[[Task, Path], Iterator[File]]] = {
    "vtab": _vtab_files,
    "fgvc": _fgvc_files,
    "cifar100": _cifar_files,
    "aircraft": _aircraft_files,
    "food101": _food_files,
    "lists": _own_list_files,
    "folder": _folder_files,
    "csv": _csv_files,
}


def _file(folder: str | Path, path: str) -> Iterator[File]:
    file = look_up(f"{folder}/{path}", path)
    if file is not None:
        yield file


def _image(folder: str | Path, base: str, relative: str) -> Iterator[File]:
    """Yield the image that a list names, by the rules of `mosa.data.layouts.source.find_image`."""
    if not relative or relative.startswith("/") or ".." in relative.split("/"):
        return
    name = f"{base}/{relative}" if base else relative
    file = look_up(f"{folder}/{name}", name) or _of_another_format(folder, os.path.splitext(name)[0])
    if file is not None:
        yield file


def _of_another_format(folder: str | Path, stem: str) -> File | None:
    names = (f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES[:3])
    return next((file for name in names if (file := look_up(f"{folder}/{name}", name))), None)


def _lines(path: Path) -> list[str]:
    return (read_text(path, Report(), "") or "").rstrip().splitlines()


def _object(path: Path) -> dict:
    try:
        content = json.loads(read_text(path, Report(), "") or "null")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
