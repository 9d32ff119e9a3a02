"""Random streams that are independent of each other and of the global generator."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, stream: str) -> int:
    """Derive the seed of a named stream (63 bits), so that streams never share draws.

    Args:
        seed: The seed of the run.
        stream: What is drawn from it, such as "routing".
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a CPU generator seeded for a named stream of a run."""
    return torch.Generator().manual_seed(derive_seed(seed, stream))


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Have torch's global CPU generator draw from a seed, and put it back; those of GPUs are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
