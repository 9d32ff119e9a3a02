"""Reading a bundle: nothing of it is used before every name, size and digest is verified."""

import gzip
import hashlib
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mosa.base.errors import UserError, plain, shown
from mosa.base.files import PASSING, digest_of_file, unwritable
from mosa.base.words import count, room
from mosa.data.predictions import LARGEST_NAMES, read_images
from mosa.results.bundle.contents import CONFIG, IMAGES, MANIFEST, METADATA, WORKFLOW, Contents, contents_of
from mosa.results.bundle.crate import digests_of

LIMIT_GIB = 16.0  # of all files together, unpacked
_LARGEST_TEXT = LARGEST_NAMES  # bytes of a file that is read into memory as a whole
_MOST_FILES = 500_000
_CHUNK = 1 << 20
_PREFIX = ".bundle-"  # of the folders in which bundles are unpacked
_ABANDONED = 3600.0  # seconds after which such a folder is of a process that was killed
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    gzip.BadGzipFile,
    zlib.error,
)


class Imported(NamedTuple):
    """What importing a bundle did.

    Attributes:
        records: Number of records in the bundle.
        missing: Number of runs of its experiment that it has no record of.
        written: Number of files written.
        there: Number of files that were there already, with the same content.
        manifest: The manifest, in the folder.
        config: The config, in the folder.
    """

    records: int
    missing: int
    written: int
    there: int
    manifest: Path
    config: Path


@contextmanager
def unpacked(bundle: Path, limit_gib: float = LIMIT_GIB, folder: Path | None = None) -> Iterator[Path]:
    """Unpack and verify a bundle into a temporary folder, which exists within the block.

    Args:
        bundle: The zip file.
        limit_gib: Largest size of all its files together, in GiB.
        folder: Where the temporary folder is made; None: where such folders usually are.

    Yields:
        A results folder.

    Raises:
        UserError: It is no bundle, is too large, or something in it is not what a digest says.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder)
    except OSError as error:
        raise unwritable(folder or Path(tempfile.gettempdir()), error) from None
    for left in folder.glob(f"{_PREFIX}*") if folder else ():
        if time.time() - left.stat().st_mtime > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    with temporary:
        _unpack(bundle, Path(temporary.name), limit_gib)
        yield Path(temporary.name)


def import_bundle(bundle: Path, into: Path, limit_gib: float = LIMIT_GIB) -> Imported:
    """Put the verified files of a bundle into a results folder, and change nothing that is there.

    Args:
        bundle: The zip file.
        into: The results folder; it is made if need be.
        limit_gib: As in `unpacked`.

    Raises:
        UserError: As in `unpacked`, or the folder has a different file of the same name; nothing is written
            then.
    """
    new = not into.exists()
    try:
        into.mkdir(parents=True, exist_ok=True)
        with unpacked(bundle, limit_gib, into) as folder:
            return _move(bundle, folder, into)
    except OSError as error:
        raise unwritable(into, error) from None
    finally:
        if new and into.is_dir() and not any(into.iterdir()):
            into.rmdir()


def _move(bundle: Path, folder: Path, into: Path) -> Imported:
    contents = contents_of(_one(folder, MANIFEST, bundle), existing=True, models=True)
    config = _one(folder, CONFIG, bundle)
    paths = [*contents.files, f"manifests/{config.name}"]
    present = [path for path in paths if os.path.lexists(into / path)]
    other = [path for path in present if not _same(folder / path, into / path)]
    if other:
        more = f" (and {count(len(other) - 1, 'other file')})" if len(other) > 1 else ""
        raise UserError(
            f"{into / other[0]}: is there and differs from the bundle's{more}; nothing was imported; take "
            "another folder with --into"
        )
    new = sorted(set(paths) - set(present))
    for path in new:
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / path, into / path)
    manifest = into / contents.manifest
    numbers = len(contents.records), len(contents.missing), len(new), len(present)
    return Imported(*numbers, manifest, into / "manifests" / config.name)


def _same(ours: Path, theirs: Path) -> bool:
    """Return whether two files are the same; of names of images, the content counts."""
    if IMAGES.fullmatch(theirs.name):
        return bool(read_images(theirs, (None, None)))
    return theirs.is_file() and digest_of_file(ours) == digest_of_file(theirs)


def _unpack(bundle: Path, folder: Path, limit_gib: float) -> None:
    try:
        with zipfile.ZipFile(bundle) as archive:
            entries = _checked_entries(bundle, archive, limit_gib)
            wanted = _metadata(bundle, archive, entries)
            for path, digest in wanted.items():
                _extract(bundle, archive, entries[path], folder / path, digest)
    except FileNotFoundError:
        raise UserError(f"{bundle}: there is no such file; expected a bundle of `mosa export`") from None
    except IsADirectoryError:
        raise UserError(f"{bundle}: is a folder; expected a bundle of `mosa export`") from None
    except _ZIP_ERRORS as error:
        raise UserError(f"{bundle}: not a bundle, or damaged ({plain(str(error))}); get it again") from None
    except OSError as error:
        if error.errno in PASSING:
            raise unwritable(folder.parent, error) from None
        raise UserError(f"{bundle}: cannot be unpacked ({error.strerror or error})") from None
    _verify(bundle, folder, set(wanted))


def _checked_entries(bundle: Path, archive: zipfile.ZipFile, limit_gib: float) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by name; names that lead elsewhere, and sizes, are refused before unpacking."""
    infos = archive.infolist()
    if len(infos) > _MOST_FILES:
        raise UserError(f"{bundle}: has {len(infos):,} files; a bundle has at most {_MOST_FILES:,}")
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        if not _is_safe(info):
            raise UserError(
                f"{bundle}: has an entry {shown(name)}, which no bundle has; nothing was unpacked"
            )
        if name in entries:
            raise UserError(f"{bundle}: has {name} twice; nothing was unpacked")
        if not name.endswith(".safetensors") and info.file_size > _LARGEST_TEXT:
            raise UserError(f"{bundle}: {name} takes {info.file_size >> 20} MiB; nothing was unpacked")
        entries[name] = info
    total = sum(info.file_size for info in infos) / 2**30
    if total > limit_gib:
        raise UserError(
            f"{bundle}: takes {room(total)} unpacked, more than {limit_gib:g} GiB; raise it with --limit-gib "
            "if you trust its origin"
        )
    return entries


def _is_safe(info: zipfile.ZipInfo) -> bool:
    """Return whether an entry is a plain file whose name stays within a folder on every system."""
    name, mode = info.filename, info.external_attr >> 16
    parts = name.split("/")
    plain_file = not mode or (mode & 0o170000) in (0, 0o100000)
    return (
        plain_file
        and not info.flag_bits & 1  # encrypted
        and info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        and name.isprintable()
        and not set(name) & set('\\:*?"<>|')
        and all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
        and not PurePosixPath(name).is_absolute()
    )


def _metadata(bundle: Path, archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> dict[str, str]:
    """Return the digest of every file by its path; refuse a bundle that has other files than it names."""
    if METADATA not in entries:
        raise UserError(f"{bundle}: has no {METADATA}; expected a bundle of `mosa export`")
    try:
        wanted = digests_of(archive.read(entries[METADATA]).decode("utf-8"))
    except UserError as error:
        raise UserError(f"{bundle}: {error}") from None
    missing = sorted(wanted.keys() - entries.keys())
    if missing:
        raise UserError(f"{bundle}: {shown(missing[0])} is missing; get the bundle again")
    unknown = sorted(entries.keys() - wanted.keys() - {METADATA})
    if unknown:
        raise UserError(f"{bundle}: {unknown[0]} is not in its {METADATA}; it was added later")
    return wanted


def _extract(
    bundle: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, digest: str
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256()
    with archive.open(info) as member, target.open("xb") as file:
        while chunk := member.read(_CHUNK):
            found.update(chunk)
            file.write(chunk)
    if target.suffix == ".gz":
        with gzip.open(target) as file:
            if len(file.read(_LARGEST_TEXT + 1)) > _LARGEST_TEXT:
                raise UserError(
                    f"{bundle}: {info.filename} takes more than {_LARGEST_TEXT >> 20} MiB unpacked"
                )
    if found.hexdigest() != digest:
        raise UserError(f"{bundle}: {info.filename}: was changed after it was exported (its SHA-256 differs)")


def _verify(bundle: Path, folder: Path, files: set[str]) -> None:
    """Verify what the digests within the files say; refuse files of no record."""
    manifest, config = _one(folder, MANIFEST, bundle), _one(folder, CONFIG, bundle)
    for path, pattern in ((manifest, MANIFEST), (config, CONFIG)):
        if digest_of_file(path)[:16] != pattern.fullmatch(f"manifests/{path.name}")[1]:
            raise UserError(f"{bundle}: manifests/{path.name}: was changed (it is named by its content)")
    try:
        contents: Contents = contents_of(manifest, existing=True, models=True)
    except UserError as error:
        raise UserError(f"{bundle}: {str(error).replace(f'{folder}{os.sep}', '')}") from None
    known = {*contents.files, f"manifests/{config.name}"}
    others = sorted(path for path in files - known if not path.startswith(WORKFLOW))
    if others:
        raise UserError(f"{bundle}: {others[0]} belongs to no record of its manifest")


def _one(folder: Path, pattern: re.Pattern[str], bundle: Path) -> Path:
    """Return the one file of manifests/ that a pattern names."""
    found = sorted(
        path for path in (folder / "manifests").glob("*") if pattern.fullmatch(f"manifests/{path.name}")
    )
    if len(found) != 1:
        raise UserError(
            f"{bundle}: has {len(found)} files that are named like {pattern.pattern}; expected one"
        )
    return found[0]
