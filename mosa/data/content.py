"""Identifies data on disk by content: sizes and mtimes decide quickly, digests confirm.

Standard library only: the workflow imports it.
"""

import hashlib
import os
from pathlib import Path

from mosa.data.catalogue import get_task
from mosa.data.digests import combined, identified, look_up
from mosa.data.formats import LAYOUTS
from mosa.data.task import Task


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
    files = {file.name: file for file in LAYOUTS[task.layout].files(task, place)}
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
    if LAYOUTS[task.layout].is_file:
        return root if os.path.isfile(root) else None
    folders = [root / name for name in task.folders] or [root]
    return next((folder for folder in folders if os.path.isdir(folder)), None)
