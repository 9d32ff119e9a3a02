"""Short runs without the seconds that importing torch takes: a process that has done so forks for each.

Where MOSA_WARM is set, as the workflow does for jobs on its own machine, `mosa train` and `mosa tune` hand
their arguments, environment and standard streams to a process that waits with everything imported, and which
they start if there is none. It forks; the child is the run. A signal that the command gets goes on to the
run, and if the command is killed, so is the run. If anything goes wrong before the run begins, the command
does it itself.

A process serves commands that would have been the same as it: of the same user, interpreter, package, control
group and settings of threads. It ends after some time without work. Linux only.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from mosa.base.files import PACKAGE

COMMANDS = ("train", "tune")
IDLE = 30.0  # seconds without work after which the process ends
_START = 20.0  # seconds that it may take to start listening
_BEGUN = b"\0"
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def run_warm(arguments: Sequence[str]) -> int | None:
    """Run a command in a fork of the process that waits.

    Args:
        arguments: Those of `mosa`, beginning with the command.

    Returns:
        The exit status; None: the command has not begun, and is to be run here.
    """
    try:
        address = _address()
        if address is None:
            return None
        with _connect(address) as connection:
            told = {"arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)}
            payload = json.dumps(told | {"umask": _umask()}).encode()
            socket.send_fds(connection, [len(payload).to_bytes(4, "big")], [0, 1, 2])
            connection.sendall(payload)
            with _passing_on(connection) as passed:
                if connection.recv(1) != _BEGUN:
                    return 128 + passed[-1] if passed else None
                status = connection.recv(1)
    except (OSError, subprocess.SubprocessError):
        return None
    if status:
        return status[0]
    if passed:  # and the run had nothing to save
        return 128 + passed[-1]
    print("error: the run's process was killed; is there enough memory?", file=sys.stderr)
    return 128 + signal.SIGKILL


def _address() -> Path | None:
    """Return the path of the socket for commands such as this one; None: it cannot be had here."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    folder = Path(tempfile.gettempdir()) / f"mosa-warm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        return None  # somebody else's: who can connect can run anything in our name
    names = (
        "OMP_",
        "MKL_",
        "KMP_",
        "OPENBLAS",
        "PYTHON",
        "LD_",
        "MALLOC_",
        "GLIBC_",
        "TORCH",
        "CUDA",
        "NVIDIA_",
    )
    settings = {name: value for name, value in os.environ.items() if name.startswith(names)}
    newest = max(path.stat().st_mtime_ns for path in PACKAGE.rglob("*.py"))
    group = Path("/proc/self/cgroup").read_text()
    alike = [sys.executable, str(PACKAGE), newest, group, settings, sorted(os.sched_getaffinity(0))]
    return folder / hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()[:16]


def _connect(address: Path) -> socket.socket:
    """Connect to the process that waits, and start it if there is none."""
    deadline = time.monotonic() + _START
    started = None
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(address))
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > deadline:
                raise
        if started is None or started.poll() is not None:
            command = [sys.executable, "-m", "mosa.cli.warm", str(address)]
            streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            started = subprocess.Popen(command, start_new_session=True, **streams)
        time.sleep(0.02)


@contextlib.contextmanager
def _passing_on(connection: socket.socket) -> Iterator[list[int]]:
    """Pass the signals that ask to stop on to the run; the list has those that came."""
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


def serve(address: Path, idle: float = IDLE) -> None:
    """Import what runs need, and fork for each command that comes.

    Args:
        address: Path of the socket.
        idle: Seconds without a command after which it ends.
    """
    lock = open(f"{address}.lock", "w")  # noqa: SIM115 - held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # there is one
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen(64)  # those that come meanwhile wait as long as importing takes
        import mosa.engine.run
        import mosa.search.trials  # noqa: F401

        os.chdir("/")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
        listening.settimeout(idle)
        while True:
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                break
            if os.fork() == 0:
                listening.close()
                lock.close()
                _be_the_run(connection)
            connection.close()
        address.unlink(missing_ok=True)


def _be_the_run(connection: socket.socket) -> None:
    """Run the command that a connection tells, in this process, and end it."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.settimeout(None)
        header, streams, _, _ = socket.recv_fds(connection, 4, 3)
        payload = connection.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
        told = json.loads(payload)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(told["environment"])
        os.umask(told["umask"])
        os.chdir(told["folder"])
        sys.argv = ["mosa", *told["arguments"]]
        threading.Thread(target=_listen, args=[connection], daemon=True).start()
        connection.send(_BEGUN)
        status = _status_of_main()
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(OSError):
        connection.send(bytes([status & 0xFF]))
    os._exit(status)


def _status_of_main() -> int:
    from mosa.cli import main

    try:
        main(warm=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _listen(connection: socket.socket) -> None:
    """Do as the command is told: stop by a signal, or end with it."""
    while True:
        try:
            number = connection.recv(1)
        except OSError:
            number = b""
        if not number:
            os._exit(128 + signal.SIGKILL)
        os.kill(os.getpid(), number[0])


if __name__ == "__main__":
    serve(Path(sys.argv[1]), *map(float, sys.argv[2:]))
