"""Writing files so that they appear complete or not at all."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from mosa.base.errors import Shortage, UserError

PACKAGE = Path(__file__).parents[1]  # the folder of `mosa`
SCHEMAS = PACKAGE / "schemas"
# Where Snakefile, rules, profiles and configs are: below the package in a wheel, otherwise beside it.
WORKFLOW = PACKAGE / "workflow" if (PACKAGE / "workflow" / "Snakefile").is_file() else PACKAGE.parent
# Errors of a disk that pass: no room, no quota, a server or a device that does not answer.
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file, and rename it to the file if the block succeeds.

    Args:
        path: The file; its folder is created.

    Yields:
        The path to write to.

    Raises:
        Shortage: The disk is full, or does not answer.
        UserError: The file cannot be written: no permission, or its parent is not a folder.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; give it the usual permissions
        temporary.replace(path)
        temporary = None
    except OSError as error:
        if (
            error.filename not in (None, str(path), str(path.parent), str(temporary))
            and temporary is not None
        ):
            reason = error.strerror or error
            raise UserError(f"{error.filename}: {reason}; {path} is as it was, do this again") from None
        raise unwritable(path, error) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is about to be written; other processes wait.

    Args:
        path: The file; the lock is a hidden file beside it, and its folder is created.

    Raises:
        UserError: The folder cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield
    finally:
        lock.release()


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece, as hexadecimal digits.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{path}: cannot be read ({reason}); see to its permissions, or copy it again"
        ) from None


def unwritable(path: Path, error: OSError) -> UserError:
    """Return the error for a file or folder that cannot be written: a `Shortage` where that may pass."""
    kind = Shortage if error.errno in PASSING else UserError
    reason = error.strerror or error
    return kind(f"{path}: cannot be written ({reason}); make room, or choose another folder")
