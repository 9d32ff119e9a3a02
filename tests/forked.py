"""Snakemake and mosa without the seconds that their imports take: forked from processes that have done them.

Arguments, folder, environment, streams and exit status are those of a command of its own, as mosa.cli.warm
says and tests/unit/test_warm.py holds.
"""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from mosa.cli import warm
from mosa.cli.serve import serve


def run_mosa(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Run `mosa` in a folder, and return what it printed."""
    command = [sys.executable, "-m", "mosa.cli", *map(str, arguments)]
    _mosa_server()
    environment = os.environ | {"MOSA_WARM": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def run_snakemake(
    folder: Path, *arguments: object, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess:
    """Run `snakemake` in a folder, and return what it printed."""
    _mosa_server()
    with (
        socket.socket(socket.AF_UNIX) as connection,
        open(os.devnull) as nothing,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
    ):
        connection.connect(str(_server()))
        command = list(map(str, arguments))
        streams = [file.fileno() for file in (nothing, output, errors)]
        warm.hand_over(connection, command, str(folder), environment, streams)
        assert connection.recv(1) == warm.BEGUN
        (status,) = connection.recv(1)
        texts = [file.seek(0) or file.read() for file in (output, errors)]
    return subprocess.CompletedProcess(["snakemake", *command], status, *texts)


@cache
def _server() -> Path:
    """Start the server of this process that forks Snakemake, and return the path of its socket."""
    folder = Path(tempfile.mkdtemp(prefix="forked"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return _start(folder / "socket", [__file__])


@cache
def _mosa_server() -> None:
    """Start the server of `mosa.cli.warm`, if there is none: one that commands start ends between tests."""
    address = warm._address(warm._settings("train"))
    if address is None:
        return
    with warm.locked(address), socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(address))
        except OSError:
            address.unlink(missing_ok=True)
            _start(address, ["-m", "mosa.cli.serve"])


def _start(address: Path, program: list[str]) -> Path:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen(64)
        number = listening.fileno()
        command = [sys.executable, *program, address, str(number), "3600"]
        process = subprocess.Popen(command, pass_fds=[number])
    atexit.register(process.kill)
    return address


if __name__ == "__main__":
    import smart_open  # noqa: F401  what Snakemake imports late
    import snakemake.cli
    import snakemake.report.html_reporter
    import snakemake.storage

    import mosa.experiment.workflow  # noqa: F401
    from mosa.experiment import outputs, resources  # noqa: F401

    snakemake.cli.get_argument_parser()  # which imports the plugins

    place, number, seconds = sys.argv[1:]
    sys.argv[0] = "snakemake"
    serve(Path(place), socket.socket(fileno=int(number)), float(seconds), snakemake.cli.main)
