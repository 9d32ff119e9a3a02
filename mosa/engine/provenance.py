"""Where a result comes from: code, libraries, machine."""

import contextlib
import hashlib
import importlib.metadata
import platform
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from mosa.base.files import PACKAGE

_SHOW = ("cli", "results")  # packages that decide no result
LIBRARIES = ("mosa-benchmark", "torch", "timm", "numpy", "safetensors")


@cache
def versions(method: str = "") -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute a run of a method."""
    found = {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    if method == "peft":  # the library of the same name; the method says so where it is not installed
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found["peft"] = importlib.metadata.version("peft")
    return found


@cache
def code_digest() -> str:
    """Return the SHA-256 of the package's code that decides a result, as it lies on disk."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        if name.parts[0] not in _SHOW:
            digest.update(f"{name.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@cache
def git_state() -> dict[str, str | bool | None]:
    """Return the commit of this package's checkout and whether the package's files differ from it.

    As it was when this process first asked: modules that are loaded stay what they are.
    """
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--", "mosa"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def describe_device(device: torch.device) -> dict[str, str | int]:
    """Return type, name and CPU threads of what computes."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"type": device.type, "name": name, "threads": torch.get_num_threads()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory of the device (GPU) or of this process (CPU), in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
