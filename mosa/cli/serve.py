"""The server of `mosa.cli.warm`: it imports what commands need, and forks for each that connects.

It is started as `python -m mosa.cli.serve ADDRESS FILENO IDLE`, with the number of a socket that listens.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mosa.cli.warm import BEGUN

# What libraries import when they first write a file: matplotlib one of each format, fontTools for PDF.
_LATE = [f"matplotlib.backends.backend_{name}" for name in ("agg", "pdf", "svg")]
_LATE += ["fontTools.subset"]


def serve(address: Path, listening: socket.socket, idle: float, program: Callable[[], None]) -> None:
    """Fork for each command that connects.

    Args:
        address: Path of the socket, which is removed at the end.
        listening: The socket.
        idle: Seconds without a command after which this ends.
        program: What a command calls, with its arguments in `sys.argv`.
    """
    os.chdir("/")
    gc.freeze()  # a child's collector leaves what is imported alone, and with it the memory that they share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    listening.settimeout(idle)
    with contextlib.suppress(TimeoutError):
        while True:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    listening.close()
                    _be_the_run(connection, program)
    address.unlink(missing_ok=True)


def _be_the_run(connection: socket.socket, program: Callable[[], None]) -> NoReturn:
    """Do the run of the command at the other end in this process, send its exit status, and end."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.settimeout(None)
        length, streams, _, _ = socket.recv_fds(connection, 4, 3)
        message = connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
        _take_over(json.loads(message), streams)
        threading.Thread(target=_obey, args=[connection], daemon=True).start()
        connection.send(BEGUN)
        program()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(OSError):
        connection.send(bytes([status & 0xFF]))
    os._exit(status)


def _take_over(run: dict, streams: list[int]) -> None:
    """Make the command's streams, environment, umask, folder and arguments those of this process."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(run["environment"])
    os.umask(run["umask"])
    os.chdir(run["folder"])
    sys.argv[1:] = run["arguments"]


def _obey(connection: socket.socket) -> None:
    """Send this process the signals that the command passes on; end it when the command has ended."""
    with contextlib.suppress(OSError):
        while number := connection.recv(1):
            os.kill(os.getpid(), number[0])
    os._exit(128 + signal.SIGKILL)


def _import_all() -> Callable[[], None]:
    """Import what commands need, and return what each calls."""
    import mosa.engine.preflight
    import mosa.engine.run
    import mosa.search.trials  # noqa: F401
    from mosa.cli.commands import run
    from mosa.results.registry import KINDS, registered

    with contextlib.suppress(ModuleNotFoundError):  # of an extra: the command that needs it says so
        for kind in KINDS:
            registered(kind)  # imports the modules of all
        for name in ("mosa.results.report.build", *_LATE):
            importlib.import_module(name)
    return run


if __name__ == "__main__":
    place, number, seconds = sys.argv[1:]
    program = _import_all()
    sys.argv[0] = "mosa"
    serve(Path(place), socket.socket(fileno=int(number)), float(seconds), program)
