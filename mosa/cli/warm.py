"""Short commands without the seconds that imports take: a server that has done them forks for each command.

Where MOSA_WARM is set, as the workflow does for jobs on its own machine, commands connect to the server
(`mosa.cli.serve`); those that need torch start it if there is none. Its child takes over the command's
arguments, environment, folder, umask and standard streams, and is the run. The command passes signals on to
the run, and ends with its exit status; if the command is killed, so is the run. If anything fails before the
run begins, the command does the run itself.

A server serves commands that would have been processes like it: of the same user, interpreter, code, control
group, CPUs and settings of libraries. It ends after some time without work. Linux only.

Importing is two thirds of a demo run of one epoch; forked, such a run takes 0.4 of the time, and a
workflow of 64 runs of 8 epochs 0.7 (benchmarks/core_time.py). Several runs in one process gain less, and give
up one job per record.
multiprocessing's fork server serves children of one living parent only, and its Listener saves no lines here.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mosa.base.errors import Shortage, UserError
from mosa.base.files import PACKAGE, locked

STARTING = ("train", "tune", "check")  # they need torch; others come if there is a server
BEGUN = b"\0"  # what the server sends when the run begins; the next byte is the exit status
IDLE = 30.0  # seconds without work after which the server ends
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# Variables that libraries read when they are imported.
_SETTINGS = ("OMP_", "MKL_", "KMP_", "OPENBLAS", "PYTHON", "LD_", "MALLOC_", "GLIBC_")
_SETTINGS += ("TORCH", "CUDA", "NVIDIA_", "MPL")
COMPUTING = ("train", "tune")  # in as many threads as these say; the others share a server of one
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_warm(arguments: Sequence[str]) -> int | None:
    """Run a command in a child of the server.

    Args:
        arguments: Those of `mosa`, beginning with the verb.

    Returns:
        The exit status; None: the run has not begun, and is left to the caller.
    """
    try:
        settings = _settings(arguments[0])
        address = _address(settings)
        if address is None:
            return None
        with connect(address, settings, start=arguments[0] in STARTING) as connection:
            hand_over(connection, arguments, os.getcwd(), os.environ)
            with _passing_on(connection) as passed:
                if _receive(connection) != BEGUN:
                    return 128 + passed[-1] if passed else None
                status = _receive(connection)
    except (OSError, subprocess.SubprocessError, UserError):
        return None
    if status:
        return status[0]
    if passed:  # a signal ended the run, which had nothing to save
        return 128 + passed[-1]
    print(f"{Shortage.label}: the run's process was killed; is there enough memory?", file=sys.stderr)
    return 128 + signal.SIGKILL


def hand_over(
    connection: socket.socket,
    arguments: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    streams: Sequence[int] = (0, 1, 2),
) -> None:
    """Send the server what a run is: its arguments, folder, environment, umask and standard streams."""
    run = {
        "arguments": list(arguments),
        "folder": folder,
        "umask": _umask(),
        "environment": dict(environment),
    }
    message = json.dumps(run).encode()
    socket.send_fds(connection, [len(message).to_bytes(4, "big")], list(streams))
    connection.sendall(message)


def _settings(verb: str) -> dict[str, str]:
    """Return the variables that libraries read when they are imported, as a server for this verb has them."""
    settings = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}
    return settings if verb in COMPUTING else settings | dict.fromkeys(_THREADS, "1")


def _address(settings: Mapping[str, str]) -> Path | None:
    """Return the path of the socket of a server with these settings; None: there can be no server."""
    if sys.platform != "linux":
        return None
    folder = Path(tempfile.gettempdir()) / f"mosa-warm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        return None  # whoever can connect to the server can run anything as this user
    newest = max(path.stat().st_mtime_ns for path in PACKAGE.rglob("*.py"))
    group = Path("/proc/self/cgroup").read_text()
    alike = [sys.executable, str(PACKAGE), newest, group, dict(settings), sorted(os.sched_getaffinity(0))]
    return folder / hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()[:16]


def connect(
    address: Path, settings: Mapping[str, str], idle: float = IDLE, start: bool = True
) -> socket.socket:
    """Connect to the server.

    Args:
        address: Path of its socket, which is private to this user.
        settings: Variables that a server has which is started here.
        idle: Seconds without work after which a server that is started here ends.
        start: Whether to start one if there is none.

    Raises:
        OSError: There is none.
    """
    connection = socket.socket(socket.AF_UNIX)
    with locked(address):  # several commands start one server
        try:
            connection.connect(str(address))
        except (FileNotFoundError, ConnectionRefusedError):
            if not start:
                raise
            _start(address, settings, idle)
            connection.connect(str(address))
    return connection


def _start(address: Path, settings: Mapping[str, str], idle: float) -> None:
    """Start the server. Its socket listens at once, and commands wait there while it imports."""
    address.unlink(missing_ok=True)  # of a server that was killed
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen(64)
        number = listening.fileno()
        command = [sys.executable, "-m", "mosa.cli.serve", str(address), str(number), str(idle)]
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        environment = {**os.environ, **settings}
        subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=[number], **streams)


def _receive(connection: socket.socket) -> bytes:
    """Return the byte that comes next; nothing, if the other side has ended."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1)
    return b""


@contextlib.contextmanager
def _passing_on(connection: socket.socket) -> Iterator[list[int]]:
    """Pass signals that ask to stop on to the run, and list them."""
    passed: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        passed.append(number)
        with contextlib.suppress(OSError):
            connection.send(bytes([number]))

    before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
