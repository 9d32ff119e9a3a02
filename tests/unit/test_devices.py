"""Which GPU a run takes: a free one of those that are visible, and none twice, among separate processes."""

import os
import subprocess
import sys

import pytest

from mosa.base.errors import Shortage, UserError
from mosa.engine.devices import choose_device, identity, take_gpu, visible_gpus

HOLD = """
import sys, time
from pathlib import Path
from mosa.engine.devices import take_gpu
gpu, lock = take_gpu(["0", "1"], 2, Path(sys.argv[1]))
print(gpu, flush=True)
sys.stdin.read()
"""
# A process on a machine with as many GPUs, in the place of torch a count of what is visible.
CHOOSE = """
import os, sys
from types import SimpleNamespace
def count():
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return int(sys.argv[1]) if names is None else len([name for name in names.split(",") if name])
sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(device_count=count))
from mosa.engine import devices
device, lock = devices.choose_device("cuda", int(sys.argv[2]))
print(device, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""
UUIDS = [f"GPU-{number}2f7b0a1-0000-4a4a-b5b5-{number:012}" for number in range(4)]


@pytest.fixture
def processes():
    """Processes that are ended at the end."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a temporary folder of its own, and `nvidia-smi` of four GPUs."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n" + "".join(f"echo {uuid}\n" for uuid in UUIDS))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tool


def start(processes, code, *arguments, visible=None):
    """Start a process, and return what it says first."""
    environment = os.environ | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    processes.append(process)
    return process


def said(process):
    return process.stdout.readline().strip()


def test_runs_spread_over_the_gpus_before_they_share_one(tmp_path, processes):
    taken = [said(start(processes, HOLD, tmp_path)) for _ in range(4)]
    assert taken == ["0", "1", "0", "1"]
    waiting = start(processes, HOLD, tmp_path)
    processes[1].kill()  # a run that dies frees its place
    assert said(waiting) == "1"


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "3"],
        ["1", "3"],
        [UUIDS[2], UUIDS[0]],
        ["GPU-02f7", "GPU-12f7"],  # as short as they are unique
        ["MIG-11111111-2222-3333-4444-555555555555", "MIG-GPU-02f7b0a1/1/0"],
    ],
)
def test_runs_spread_over_the_visible_set(names, machine, processes):
    taken = [said(start(processes, CHOOSE, 4, 1, visible=",".join(names))) for _ in names]
    assert taken == [f"cuda {name}" for name in names]  # each sees its own alone
    waiting = start(processes, CHOOSE, 4, 1, visible=",".join(names))
    processes[1].kill()
    assert said(waiting) == f"cuda {names[1]}"


def test_a_gpu_is_one_whatever_it_is_called(machine, processes):
    assert said(start(processes, CHOOSE, 4, 1, visible=f"0,{UUIDS[1]}")) == "cuda 0"
    assert said(start(processes, CHOOSE, 4, 1, visible=f"{UUIDS[0]},{UUIDS[1]}")) == f"cuda {UUIDS[1]}"
    assert said(start(processes, CHOOSE, 4, 1)) == "cuda 2"  # without the variable: all four


def test_numbers_of_two_allocations_are_not_the_same_gpus(machine, processes):
    """Where Slurm hides devices by control groups, every job counts from 0."""
    assert said(start(processes, CHOOSE, 2, 1, visible="0,1")) == "cuda 0"
    machine.write_text("#!/bin/sh\n" + "".join(f"echo {uuid}\n" for uuid in UUIDS[2:]))
    assert said(start(processes, CHOOSE, 2, 1, visible="0,1")) == "cuda 0"


def test_without_a_driver_to_ask_names_are_compared(machine, processes):
    assert identity("2", UUIDS) == identity("GPU-22f7", UUIDS) == UUIDS[2]
    assert identity("2", []) == "2" and identity("GPU-02f7", []) == "GPU-02f7"
    machine.write_text("#!/bin/sh\nexit 9\n")
    assert said(start(processes, CHOOSE, 2, 1, visible="0,1")) == "cuda 0"
    assert said(start(processes, CHOOSE, 2, 1, visible="0,1")) == "cuda 1"


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        (None, 3, ["0", "1", "2"]),
        ("", 0, []),
        ("-1", 0, []),
        ("NoDevFiles", 0, []),
        ("2, 0", 2, ["2", "0"]),
        ("1,-1,0", 1, ["1"]),  # what follows an invalid name is hidden
        ("0,7,1", 1, ["0"]),  # there are four
        ("1,1", 1, ["1"]),
    ],
)
def test_the_visible_set_is_read_as_cuda_reads_it(given, count, expected, machine, monkeypatch):
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert visible_gpus() == expected


def test_what_is_given_is_taken(machine, monkeypatch):
    assert choose_device("cpu") == ("cpu", None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert choose_device("cuda") == ("cuda", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert choose_device("cuda") == ("cuda", None)


def test_a_process_that_uses_cuda_already_takes_its_gpu_by_number(machine, monkeypatch):
    """The others cannot be hidden any more; the set stays as it was."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    taken = [choose_device("cuda") for _ in range(2)]
    assert [device for device, _ in taken] == ["cuda:0", "cuda:1"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"
    for _, lock in taken:
        lock.release()


def test_a_device_that_is_not_there_is_refused_in_one_sentence(machine, monkeypatch):
    with pytest.raises(UserError, match="device 'gpu': expected cpu, cuda"):
        choose_device("gpu")
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(UserError, match="this PyTorch is built without CUDA"):
        choose_device("cuda")
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="device cuda:2: the last of the 2 that can be seen is cuda:1"):
        choose_device("cuda:2")
    assert choose_device("cuda:1") == ("cuda:1", None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(Shortage, match="PyTorch sees no GPU here"):
        choose_device("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(Shortage, match="CUDA_VISIBLE_DEVICES is ''"):
        choose_device("cuda")


def test_a_lock_folder_is_private(tmp_path):
    _, lock = take_gpu(["0"], 1, tmp_path / "locks")
    assert (tmp_path / "locks").stat().st_mode & 0o077 == 0
    lock.release()
