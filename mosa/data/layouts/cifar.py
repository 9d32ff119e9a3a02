"""CIFAR-100: the original pickles, of which nothing is called."""

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from mosa.base.errors import shown, unreadable
from mosa.data.layouts.source import Entry, Report, Source, find_folder, held_out_note, hold_out
from mosa.data.task import Task

# Of the original files: torchvision.datasets.CIFAR100.train_list and test_list.
_MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


def read_cifar100(task: Task, root: Path, report: Report) -> Source | None:
    """Read `<root>/cifar-100-python/{train,test}`; val is held out of train."""
    folder = find_folder(task, root, report)
    if folder is None:
        return None
    parts = {name: _read_part(folder / name, task.num_classes, report) for name in ("train", "test")}
    if any(part is None for part in parts.values()):
        return None
    train, val = hold_out(parts["train"])
    splits = {"train": train, "val": val, "test": parts["test"]}
    return Source(folder, task.num_classes, splits, [held_out_note(len(val))])


def _read_part(file: Path, num_classes: int, report: Report) -> list[Entry] | None:
    try:
        content = file.read_bytes()
    except OSError as error:
        report.error(file, f"cannot be read ({unreadable(error)}); unpack cifar-100-python.tar.gz again")
        return None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != _MD5[file.name]:
        report.warning(
            file, "is not the original file of CIFAR-100, by its MD5 sum; results on it are not comparable"
        )
    try:
        table = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        pixels, labels = table["data"].values, table["fine_labels"]
        labels = labels.values.tolist() if isinstance(labels, _Array) else list(labels)
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * 32 * 32):
            raise ValueError(f"pixels {pixels.dtype} {pixels.shape} and {len(labels)} labels")
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    except Exception as error:  # a hostile or broken pickle can raise anything
        reason = f"it lacks {shown(*error.args)}" if isinstance(error, KeyError) else str(error)[:200]
        report.error(file, f"is not a part of CIFAR-100 ({reason}); unpack cifar-100-python.tar.gz again")
        return None
    wrong = {
        index
        for index, label in enumerate(labels)
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < num_classes
    }
    for index in sorted(wrong):
        report.error(f"{file}, row {index}", f"label {shown(labels[index])}: expected 0 to {num_classes - 1}")
    rows = enumerate(zip(images, labels, strict=True))
    return [Entry(image, label, f"{file}, row {row}") for row, (image, label) in rows if row not in wrong]


class _Dtype:
    """The type of an array of integers, as a pickle describes it."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch("[iu][1248]", code):
            raise pickle.UnpicklingError(f"an array of type {shown(code)}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="


class _Array:
    """An array of integers, as large as the bytes that a pickle holds, whatever shape it claims."""

    def __init__(self, *_: Any) -> None:
        self.values = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_column, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # of Python 2, as the original is
        values = np.frombuffer(raw, dtype.order + dtype.code)
        self.values = values.reshape(shape, order="F" if by_column else "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # as protocol 2 writes bytes; others can make much of little
        raise pickle.UnpicklingError(f"it would call _codecs.encode to {shown(encoding)}")
    return text.encode(encoding)


class _ArraysOnly(pickle._Unpickler):
    """Reads arrays and plain values, which CIFAR's pickles consist of, and calls nothing else.

    The unpickler in C allocates what an index in the file demands; this one takes no more than the file has.
    """

    dispatch = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }
    _TAKEN = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._TAKEN:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return self._TAKEN[module, name]
