"""Shared settings of the tests."""

import gc
import os
import re

os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes run side by side
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import marks
import pytest
import torch
from standin import make_fgvc, write_small_pack

from mosa.data import make_pack
from mosa.data.catalogue import get_task

torch.set_num_threads(1)


def pytest_configure(config):
    marks.asked = re.search(r"(?<!not )\bthorough\b", config.option.markexpr) is not None


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # half a million objects that last: the collector need not look at them again


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """A pack in the form of demo/digits, see `standin.write_small_pack`."""
    path = tmp_path_factory.mktemp("packs") / "digits.safetensors"
    return write_small_pack(path, {"train": 40, "val": 20, "test": 30})


@pytest.fixture
def lock(monkeypatch):
    """A function that has a folder refuse to be read, as modes refuse nothing to root."""

    def lock(folder):
        scandir = os.scandir

        def refused(path):
            if os.fspath(path) == str(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refused)

    return lock


@pytest.fixture(scope="session")
def flowers(tmp_path_factory):
    """A pack of Flowers102's form, whose images leave room to crop."""
    folder = tmp_path_factory.mktemp("flowers")
    make_fgvc(folder, get_task("fgvc/flowers"))
    make_pack("fgvc/flowers", folder / "pack", folder, image_size=32)
    return folder / "pack"
