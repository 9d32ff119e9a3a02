"""Which GPU a run takes, where several runs share a machine with several GPUs."""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

_WAIT = 0.5  # seconds between two looks for a free place


def take_gpu(gpus: Sequence[str], runs_per_gpu: int = 1, folder: Path | None = None) -> tuple[str, FileLock]:
    """Take a place on a GPU, waiting until there is one; it is free again when this process ends.

    Snakemake counts GPUs, but does not say which is whose. Every place has a lock file; all first places are
    tried before any second one.

    Args:
        gpus: Names of the GPUs, which tell them apart on this machine (indices, or UUIDs).
        runs_per_gpu: Places on each.
        folder: Where the lock files are; None: a folder of this user's in the system's temporary folder.

    Returns:
        The GPU, and the lock to hold on to.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"mosa-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        for place in range(runs_per_gpu):
            for gpu in gpus:
                lock = FileLock(folder / f"{gpu}.{place}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return gpu, lock
        time.sleep(_WAIT)


def choose_device(device: str, runs_per_gpu: int = 1) -> tuple[str, FileLock | None]:
    """Return the device of a run, and the lock that goes with it.

    "cuda" becomes a free GPU of several, "cuda:1"; where there is one GPU, or CUDA_VISIBLE_DEVICES says which
    one (as Slurm does), and for any other device, it is what was asked for.
    """
    import torch

    if device != "cuda" or "CUDA_VISIBLE_DEVICES" in os.environ or torch.cuda.device_count() < 2:
        return device, None
    gpu, lock = take_gpu([str(index) for index in range(torch.cuda.device_count())], runs_per_gpu)
    return f"cuda:{gpu}", lock
