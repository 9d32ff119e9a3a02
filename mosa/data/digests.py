"""Digests of sets of files, kept on disk so that only files that changed are read again.

Standard library only: the workflow imports it.
"""

import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache as once
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import UserError
from mosa.base.files import written_atomically

_THREADS = 4
_CHUNK = 64  # files that a thread reads at a time
_MANY = 2000  # files from which on reading is announced
_WHOLE = 1 << 20  # bytes up to which a file is read at once
_SETTLED = 2_000_000_000  # ns after which a change is sure to show in a file's mtime


class File(NamedTuple):
    """A file as it was looked up.

    Attributes:
        name: Path relative to the folder of its set; a folder ends in a slash, and counts as an empty file.
        path: Path to open.
        size: Size in bytes.
        mtime: Time of the last change, in ns.
    """

    name: str
    path: str
    size: int
    mtime: int


def look_up(path: str, name: str) -> File | None:
    """Return a file with its size and mtime; None if there is none, or what is there is no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no disk can hold
        return None
    return File(name, path, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def combined(digests: Mapping[str, str]) -> str:
    """Return the SHA-256, in hex, over the sorted pairs of a name and a digest."""
    digest = hashlib.sha256()
    for name in sorted(digests):
        digest.update(os.fsencode(name) + b"\0" + digests[name].encode() + b"\n")
    return digest.hexdigest()


def identified(
    files: Iterable[File],
    kept: Path | None,
    combine: Callable[[Mapping[str, str]], str | None],
    announced: str,
) -> str | None:
    """Return the content of files: as it was kept, or from the digests of those that changed since.

    Args:
        files: The files, of different names.
        kept: File of the cache. None: all files are read.
        combine: Turns the digests of the files that can be read, by name, into the content.
        announced: What to print before many files are read, with a place for their number.
    """
    started = time.time_ns()
    files = sorted(files)
    fingerprint = _fingerprint(files)
    cached = _Cache.read(kept)
    if cached.fingerprint == fingerprint:
        return cached.content
    known = cached.digests()
    digests = {f.name: known[f.name][2] for f in files if known.get(f.name, ())[:2] == [f.size, f.mtime]}
    digests |= _read([file for file in files if file.name not in digests], announced)
    content = combine(digests)
    if kept is not None:
        # A change that follows within a tick of the disk's clock leaves size and mtime as they are.
        settled = [f for f in files if f.name in digests and abs(started - f.mtime) > _SETTLED]
        entries = {f.name: [f.size, f.mtime, digests[f.name]] for f in settled}
        _Cache(fingerprint if len(settled) == len(files) else "", content).write(kept, entries)
    return content


def _fingerprint(files: Iterable[File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.name) + b"\0%d %d\n" % (file.size, file.mtime))
    return digest.hexdigest()


def _read(files: list[File], announced: str) -> dict[str, str]:
    """Return the digests of files by name, without those that cannot be read."""
    count = sum(not file.name.endswith("/") for file in files)
    many = count > _MANY
    if many:
        print(announced.format(count), file=sys.stderr, flush=True)
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    digests: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        read = pool.map(lambda chunk: [(file.name, _digest(file)) for file in chunk], chunks)
        if many and sys.stderr.isatty():
            from tqdm import tqdm

            read = tqdm(read, total=len(chunks), unit="file", unit_scale=_CHUNK)
        for chunk in read:
            digests.update((name, digest) for name, digest in chunk if digest is not None)
    return digests


def _digest(file: File) -> str | None:
    if file.name.endswith("/"):
        return hashlib.sha256().hexdigest()
    try:
        with open(file.path, "rb", buffering=0) as opened:
            if file.size < _WHOLE:  # file_digest takes a buffer of 256 KiB for each file
                return hashlib.sha256(opened.read()).hexdigest()
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None


class _Cache:
    """The content of a set of files as it was last time: a line that decides, and a line of digests.

    Attributes:
        fingerprint: SHA-256 over names, sizes and mtimes; empty if some file has to be read again.
        content: The content that belongs to it.
    """

    def __init__(self, fingerprint: str = "", content: str | None = None, digests: str = "{}") -> None:
        self.fingerprint, self.content, self._digests = fingerprint, content, digests

    @classmethod
    def read(cls, path: Path | None) -> "_Cache":
        """Read a file of the cache; one that is missing or damaged counts as empty."""
        if path is None:
            return cls()
        try:
            with path.open(encoding="ascii") as file:
                head, digests = json.loads(file.readline()), file.read()
            return cls(head["fingerprint"], head["content"], digests)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return cls()

    def digests(self) -> dict[str, list]:
        """Return size, mtime and digest of each file by its name, as far as they are known."""
        try:
            found = json.loads(self._digests)
            return {name: [size, mtime, str(digest)] for name, (size, mtime, digest) in found.items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def write(self, path: Path, digests: Mapping[str, list]) -> None:
        """Write a file of the cache, or warn once that this is impossible."""
        head = {"fingerprint": self.fingerprint, "content": self.content}
        try:
            with written_atomically(path) as temporary:
                temporary.write_text(f"{json.dumps(head)}\n{json.dumps(digests)}\n", encoding="ascii")
        except UserError:
            _warn_unwritable(path.parents[1])


@once
def _warn_unwritable(folder: Path) -> None:
    print(
        f"warning: {folder} cannot be written, so images and weights are read again each time to identify "
        "them",
        file=sys.stderr,
    )
