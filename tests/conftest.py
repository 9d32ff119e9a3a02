"""Shared settings of the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes run side by side

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
