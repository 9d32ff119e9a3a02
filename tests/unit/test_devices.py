"""Which GPU a run takes: a free one, and none twice, among processes of their own."""

import subprocess
import sys

from mosa.engine.devices import choose_device, take_gpu

HOLD = """
import sys, time
from pathlib import Path
from mosa.engine.devices import take_gpu
gpu, lock = take_gpu(["0", "1"], 2, Path(sys.argv[1]))
print(gpu, flush=True)
sys.stdin.read()
"""


def test_runs_spread_over_the_gpus_before_they_share_one(tmp_path):
    processes = []
    try:
        taken = []
        for _ in range(4):
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD, str(tmp_path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            processes.append(process)
            taken.append(process.stdout.readline().strip())
        assert taken == ["0", "1", "0", "1"]
        waiting = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(waiting)
        processes[1].kill()  # a run that dies frees its place
        assert waiting.stdout.readline().strip() == "1"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_what_is_given_is_taken(monkeypatch):
    assert choose_device("cpu") == ("cpu", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert choose_device("cuda") == ("cuda", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert choose_device("cuda") == ("cuda", None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    device, lock = choose_device("cuda")
    assert device in ("cuda:0", "cuda:1") and lock.is_locked
    lock.release()


def test_a_lock_folder_is_private(tmp_path):
    _, lock = take_gpu(["0"], 1, tmp_path / "locks")
    assert (tmp_path / "locks").stat().st_mode & 0o077 == 0
    lock.release()
