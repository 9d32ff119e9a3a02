"""Writing files so that they appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mosa.errors import UserError


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside the wanted one, and rename it when the block ends well.

    Args:
        path: The file to appear; its folder is made.

    Yields:
        The path to write to.

    Raises:
        UserError: The file cannot be written: full disk, no permission, not a folder.
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
        temporary.chmod(0o666 & ~umask)  # mkstemp is private; the file is as public as any other
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); make room, or choose another folder"
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
