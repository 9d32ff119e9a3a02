"""Shared settings of the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes run side by side
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from standin import make_fgvc

from mosa.data import make_pack
from mosa.data.catalogue import get_task
from mosa.data.packing import write_pack

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """A pack in the form of demo/digits, small and learnable: the class is the brightness."""
    task = get_task("demo/digits")
    rng = np.random.default_rng(0)
    splits = {}
    for split, size in {"train": 40, "val": 20, "test": 30}.items():
        labels = rng.permutation(np.arange(size) % 10)
        noise = rng.integers(0, 20, (size, 32, 32, 3))
        splits[split] = ((labels[:, None, None, None] * 23 + noise).astype(np.uint8), labels.astype(np.int64))
    path = tmp_path_factory.mktemp("packs") / "digits.safetensors"
    write_pack(path, task, splits)
    return path


@pytest.fixture(scope="session")
def flowers(tmp_path_factory):
    """A pack of Flowers102's form, whose images leave room to crop."""
    folder = tmp_path_factory.mktemp("flowers")
    make_fgvc(folder, get_task("fgvc/flowers"))
    make_pack("fgvc/flowers", folder / "pack", folder, image_size=32)
    return folder / "pack"
