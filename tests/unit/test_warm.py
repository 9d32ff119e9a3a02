"""A run that the server forks is the run that the command would have been."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mosa.cli import warm

MOSA = [sys.executable, "-m", "mosa.cli"]
TRAIN = ["train", "--task", "demo/digits", "--method", "mosa", "--options", '{"bottleneck": 4}']

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks on Linux only"),
]


@contextlib.contextmanager
def alone():
    """An environment for commands that share a server with no others."""
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        yield os.environ | {"TMPDIR": folder, "MOSA_WARM": "1", "OMP_NUM_THREADS": "1"}
        for process in waiting(folder):
            os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def environment():
    with alone() as environment:
        yield environment


def waiting(folder) -> list[int]:
    """Servers whose socket is below a folder, and the runs that they forked."""
    command = ["pgrep", "-f", f"mosa.cli.serve {folder}"]
    return [int(line) for line in subprocess.run(command, capture_output=True, text=True).stdout.split()]


def command(pack, folder, *more, epochs=2):
    recipe = json.dumps({"epochs": epochs, "batch_size": 16})
    return [*MOSA, *TRAIN, "--pack", pack, "--training", recipe, "--output", folder / "run.json", *more]


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)  # to look takes a while, too


def test_it_is_the_same_run(pack, tmp_path, environment):
    results = []
    plain = os.environ | {"OMP_NUM_THREADS": "1"}
    for number, settings, mask in ((0, plain, 0o027), (1, environment, 0o077), (2, environment, 0o027)):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = subprocess.run(
            [*command(pack, folder)[:-1], "run.json"],
            cwd=folder,
            env=settings,
            capture_output=True,
            text=True,
            umask=mask,
        )
        assert done.returncode == 0, done.stderr
        assert (folder / "run.json").stat().st_mode & 0o777 == 0o666 & ~mask
        record = json.loads((folder / "run.json").read_text())
        results.append((record["metrics"], record["parameters"], "top-1" in done.stdout))
        assert "epoch" in done.stderr
    assert results[0] == results[1] == results[2]
    assert len(waiting(environment["TMPDIR"])) == 1


def test_a_run_that_is_told_to_stop_saves_and_goes_on(pack, tmp_path, environment):
    kept = ["--resume-folder", tmp_path / "kept", "--save-every", "0"]
    long = command(pack, tmp_path, *kept, epochs=12)
    process = subprocess.Popen(long, env=environment, stderr=subprocess.PIPE, text=True)
    until(lambda: list((tmp_path / "kept").glob("*.pt")))
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM and not (tmp_path / "run.json").exists()
    done = subprocess.run(long, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "goes on at epoch" in done.stderr


def test_a_run_without_checkpoints_stops_too(pack, tmp_path, environment):
    process = subprocess.Popen(command(pack, tmp_path, epochs=30), env=environment, stderr=subprocess.PIPE)
    until(lambda: len(waiting(environment["TMPDIR"])) == 2)
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    until(lambda: len(waiting(environment["TMPDIR"])) == 1)


def test_a_run_ends_with_its_command(pack, tmp_path, environment):
    process = subprocess.Popen(command(pack, tmp_path, epochs=30), env=environment, stderr=subprocess.PIPE)
    until(lambda: len(waiting(environment["TMPDIR"])) == 2)
    process.stderr.readline()
    process.kill()
    process.wait()
    until(lambda: len(waiting(environment["TMPDIR"])) == 1)
    assert not (tmp_path / "run.json").exists()


def test_a_run_that_is_killed_is_told(pack, tmp_path, environment):
    process = subprocess.Popen(
        command(pack, tmp_path, epochs=30), env=environment, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(waiting(environment["TMPDIR"])) == 2)
    process.stderr.readline()
    os.kill(max(waiting(environment["TMPDIR"])), signal.SIGKILL)
    assert "was killed" in process.communicate()[1] and process.returncode == 128 + signal.SIGKILL


def test_two_at_a_time_share_one_server(pack, tmp_path, environment):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    both = [subprocess.Popen(command(pack, tmp_path / name), env=environment) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert len(waiting(environment["TMPDIR"])) == 1


def test_what_is_not_alike_has_a_server_of_its_own(environment, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)  # where TMPDIR is looked up anew, and put back

    def address(verb, **changes):
        for name, value in (environment | changes).items():
            monkeypatch.setenv(name, value)
        return warm._address(warm._settings(verb))

    assert address("train") is not None
    assert address("train", HOME="/elsewhere") == address("train")
    assert address("train") != address("train", OMP_NUM_THREADS="2")
    assert address("check", OMP_NUM_THREADS="2") == address("check", OMP_NUM_THREADS="1")


def test_mistakes_end_alike_and_a_folder_that_others_can_enter_is_not_used(pack, tmp_path, environment):
    wrong = command(pack, tmp_path, "--options", '{"bottleneck": 0}')
    with alone() as entered:
        folder = Path(entered["TMPDIR"]) / f"mosa-warm-{os.getuid()}"
        folder.mkdir()
        folder.chmod(0o777)
        plain = subprocess.run(wrong, env=entered, capture_output=True, text=True)
        assert not waiting(entered["TMPDIR"])  # it ran by itself
    forked = subprocess.run(wrong, env=environment, capture_output=True, text=True)
    assert forked.returncode == plain.returncode == 2
    assert forked.stderr == plain.stderr and "bottleneck" in forked.stderr
    unknown = subprocess.run([*MOSA, "train", "--nonsense"], env=environment, capture_output=True, text=True)
    assert unknown.returncode == 2 and "No such option" in unknown.stderr


def test_commands_start_one_server_which_ends_when_there_is_nothing_to_do(environment, monkeypatch):
    start = warm._start
    monkeypatch.setattr(warm, "_start", lambda *arguments: (time.sleep(0.3), start(*arguments)))
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder) / "socket"
        with ThreadPoolExecutor(8) as commands:
            connections = list(commands.map(lambda _: warm.connect(address, {}, idle=1), range(8)))
        assert len(waiting(folder)) == 1  # that of the first one, which is still importing
        warm.hand_over(connections[0], ["--version"], folder, environment)
        assert connections[0].recv(1) == warm.BEGUN  # it has imported
        for connection in connections:
            connection.close()
        until(lambda: not waiting(folder))
        assert not address.exists()


def test_a_run_that_has_begun_is_not_done_again_by_its_command(monkeypatch, capsys):
    ours, theirs = socket.socketpair()

    def begin_and_die():
        theirs.recv(4)
        select.select([theirs], [], [])
        theirs.send(warm.BEGUN)
        theirs.close()  # with what it was sent unread, which resets the connection

    monkeypatch.setattr(warm, "connect", lambda *arguments, start: ours)
    server = threading.Thread(target=begin_and_die)
    server.start()
    assert warm.run_warm(["train"]) == 128 + signal.SIGKILL
    server.join()
    assert "was killed" in capsys.readouterr().err


def test_a_server_that_died_is_replaced(pack, tmp_path, environment):
    subprocess.run([*MOSA, "check", "--help"], env=environment, check=True, capture_output=True)
    before = waiting(environment["TMPDIR"])
    assert before
    for process in before:
        os.kill(process, signal.SIGKILL)
    assert subprocess.run(command(pack, tmp_path), env=environment).returncode == 0
    assert len(waiting(environment["TMPDIR"])) == 1
