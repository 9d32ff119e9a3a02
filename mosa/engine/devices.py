"""Which GPU a run takes, where several runs share a machine with several GPUs."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from mosa.base.errors import Shortage, UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_WAIT = 0.5  # seconds between two looks for a free place


def take_gpu(gpus: Sequence[str], runs_per_gpu: int = 1, folder: Path | None = None) -> tuple[str, FileLock]:
    """Take a place on a GPU, waiting until there is one; it is free again when this process ends.

    Snakemake counts GPUs, but does not say which is whose. Every place has a lock file; all first places are
    tried before any second one.

    Args:
        gpus: Names of the GPUs, which tell them apart on this machine, such as UUIDs.
        runs_per_gpu: Places on each.
        folder: Where the lock files are; None: a folder of this user's in the system's temporary folder.

    Returns:
        The GPU, and the lock to hold on to.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"mosa-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    waits = False
    while True:
        for place in range(runs_per_gpu):
            for gpu in gpus:
                lock = FileLock(folder / f"{re.sub('[^A-Za-z0-9-]', '_', gpu)}.{place}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return gpu, lock
        if not waits:
            waits = True
            print(f"waiting for a free GPU among {', '.join(gpus)}", file=sys.stderr, flush=True)
        time.sleep(_WAIT)


def choose_device(device: str, runs_per_gpu: int = 1) -> tuple[str, FileLock | None]:
    """Return the device of a run, and the lock that goes with it.

    "cuda" becomes a free GPU of those that CUDA_VISIBLE_DEVICES names, or of all. It is made the only one
    that this process sees, which is the one way to take a MIG instance, and keeps CUDA off the others. Where
    there is one GPU to take, and for any other device, it is what was asked for.

    Raises:
        UserError: There is no such device.
        Shortage: No GPU can be seen.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"device {device!r}: expected cpu, cuda, or a GPU by its number such as cuda:1")
    if device == "cpu":
        return device, None
    import torch

    gpus = visible_gpus()
    if not gpus:
        raise _no_gpu(torch.version.cuda or torch.version.hip)
    number = device.partition(":")[2]
    if number and int(number) >= len(gpus):
        raise UserError(
            f"device {device}: the last of the {len(gpus)} that can be seen is cuda:{len(gpus) - 1}"
        )
    if number or len(gpus) == 1:
        return device, None
    uuids = _uuids()
    identities = {identity(gpu, uuids): gpu for gpu in gpus}
    taken, lock = take_gpu(list(identities), runs_per_gpu)
    return _alone(identities[taken], gpus), lock


def _alone(gpu: str, gpus: Sequence[str]) -> str:
    """Hide all GPUs but one from this process, and return its device."""
    import torch

    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = gpu
    if torch.cuda.device_count() == 1:
        return "cuda"
    # CUDA has looked already, and looks no more.
    del os.environ[VISIBLE]
    if before is not None:
        os.environ[VISIBLE] = before
    return f"cuda:{gpus.index(gpu)}"


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes.

    These are numbers, UUIDs (also shortened) or MIG instances. As CUDA does, names end at the first that
    means nothing, such as -1. CUDA itself shows one MIG instance at most; all that are named are returned.
    """
    import torch

    given = os.environ.get(VISIBLE)
    if given is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    names = []
    for name in map(str.strip, given.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", name) or name in names:
            break
        names.append(name)
    if names and names[0].startswith("MIG-"):
        return names
    return names[: torch.cuda.device_count()]


def identity(gpu: str, uuids: Sequence[str]) -> str:
    """Return what tells a GPU apart from all others of this machine: its UUID, where it can be known.

    A number does not: in containers, and under Slurm with device control groups, every job counts from 0.

    Args:
        gpu: Its name, as of `visible_gpus`.
        uuids: The UUIDs that the driver shows, in its order.
    """
    if gpu.isdigit():
        return uuids[int(gpu)] if int(gpu) < len(uuids) else gpu
    return next((uuid for uuid in uuids if uuid.startswith(gpu)), gpu)


def _uuids() -> list[str]:
    """Return the UUIDs of the GPUs that the driver shows, in its order; nothing if it cannot be asked."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.startswith("GPU-")]


def _no_gpu(built_for: str | None) -> UserError:
    if not built_for:
        return UserError(
            "device cuda: this PyTorch is built without CUDA; install one with it, or set device: cpu"
        )
    if VISIBLE in os.environ:
        return Shortage(f"device cuda: {VISIBLE} is {os.environ[VISIBLE]!r}, of which no GPU can be used")
    return Shortage("device cuda: PyTorch sees no GPU here; see nvidia-smi, or set device: cpu")
