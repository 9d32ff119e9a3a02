"""Signs of life of runs: a file that a run touches while it trains, by which others know that it lives.

Neither Snakemake's marks of incomplete files nor a log say that: both stay as they are when a machine goes
down or a job is killed. The file lies beside the resume files, on the disk that the nodes of a cluster share.
"""

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import UserError
from mosa.base.files import written_atomically
from mosa.experiment.declared import digest_of_data

EVERY = 20.0  # seconds between two signs of life
SILENT = 90.0  # seconds after which a run on another machine counts as dead
_SUFFIX = ".running.json"


class Sign(NamedTuple):
    """What is known of a run that started and has not ended.

    Attributes:
        alive: Whether it runs now: of a run on this machine, whether its process does; of one elsewhere,
            whether its last sign of life is at most `SILENT` seconds old.
        host: Its machine.
        started, last: When it started and gave its last sign, in seconds since 1970 by the clock of the disk.
        now: The time by that clock.
    """

    alive: bool
    host: str
    started: float
    last: float
    now: float


def name_of(specification: str, seed: int) -> str:
    """Return the stem of a run's file, from the digest of its specification and its seed."""
    return digest_of_data([specification, seed])[:16]


@contextlib.contextmanager
def signs_of_life(folder: Path | None, specification: str, seed: int, every: float = EVERY) -> Iterator[None]:
    """Give signs of life within the block; a run that cannot write them goes on without.

    Args:
        folder: Folder of the resume files; None: no signs are given.
        specification: Digest of the run's specification.
        seed: Its seed.
        every: Seconds between two signs.
    """
    path = None if folder is None else folder / f"{name_of(specification, seed)}{_SUFFIX}"
    ended = threading.Event()
    if path is not None:
        content = {
            "host": socket.gethostname(),
            "place": _place(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
        }
        try:
            with written_atomically(path) as temporary:
                content["started"] = temporary.stat().st_mtime
                temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        except UserError:
            path = None

    def beat() -> None:
        while not ended.wait(every):
            with contextlib.suppress(OSError):
                os.utime(path)

    if path is not None:
        threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()


def read_signs(folder: Path) -> dict[str, Sign]:
    """Return what is known of the runs that started and have not ended, by `name_of`.

    Args:
        folder: Folder of the resume files.
    """
    try:
        paths = [path for path in folder.iterdir() if path.name.endswith(_SUFFIX)]
        now = _clock(folder) if paths else 0.0
    except OSError:
        return {}
    found = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it ends just now
            content, last = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
            if content["place"] is not None and content["place"] == _place():
                alive = _born(int(content["pid"])) == content["born"]
            else:
                alive = now - last <= SILENT
            found[path.name.removesuffix(_SUFFIX)] = Sign(
                alive, str(content["host"]), float(content["started"]), last, now
            )
    return found


def _clock(folder: Path) -> float:
    """Return the time by the clock of the disk, which may not be this machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            return os.stat(file.name).st_mtime
    except OSError:  # it may be read only
        import time

        return time.time()


def _place() -> str | None:
    """Return what tells apart where numbers of processes mean the same processes; None: it is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """Return when a process started, as its number may be used again; None: there is none, or a zombie."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
