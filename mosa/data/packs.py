"""A packed task: all its splits as uint8 arrays in one safetensors file, read split by split."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mosa.data.catalogue import Task, get_task
from mosa.errors import UserError, unknown
from mosa.files import written_atomically

FORMAT = "mosa-pack-1"
SPLITS = ("train", "val", "test", "trainval")


def write_pack(path: Path, task: Task, splits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Write a task's splits, atomically; several processes may write the same pack at once.

    Args:
        path: File to write.
        task: The task.
        splits: For train, val and test: images, uint8 of shape (n, height, width, 3), and labels (n,).

    Returns:
        The digest of the content.
    """
    arrays: dict[str, np.ndarray] = {}
    for split, (images, labels) in splits.items():
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or images.shape[-1] != 3
            or len(images) != len(labels)
        ):
            raise ValueError(
                f"{task.full_name} {split}: images {images.dtype} {images.shape} and {len(labels)} labels; "
                f"expected uint8 (n, height, width, 3) and n labels"
            )
        arrays[f"{split}.images"] = np.ascontiguousarray(images)
        arrays[f"{split}.labels"] = np.ascontiguousarray(labels, dtype=np.int64)
    digest = _digest(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "task": task.full_name, "version": str(task.version), "digest": digest}
    with FileLock(path.with_name(f".{path.name}.lock")), written_atomically(path) as temporary:
        save_file(arrays, temporary, metadata=metadata)
    return digest


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class Pack:
    """A pack on disk, of which only the wanted split is read.

    Args:
        path: A file of `write_pack`.

    Attributes:
        path: The file.
        task: The task.
        version: Version of what made the images.
        digest: SHA-256 of the content of all splits.

    Raises:
        UserError: The file is missing, truncated, or not a pack.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with self._open() as file:
            metadata, keys = file.metadata() or {}, set(file.keys())
        wanted = {f"{split}.{kind}" for split in ("train", "val", "test") for kind in ("images", "labels")}
        if metadata.get("format") != FORMAT or not wanted <= keys:
            raise UserError(f"{path}: not a pack of format {FORMAT}; make it with `mosa make-data`")
        self.task = get_task(metadata["task"])
        self.version = metadata["version"]
        self.digest = metadata["digest"]

    def _open(self) -> safe_open:
        try:
            return safe_open(self.path, framework="numpy")
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{self.path}: not a readable pack ({error}); delete it and make it with `mosa make-data`"
            ) from None

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Read one split; "trainval" is train followed by val.

        Returns:
            Images, uint8 of shape (n, height, width, 3), and labels, int64 of shape (n,).

        Raises:
            UserError: There is no such split.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        if name == "trainval":
            parts = [self.split(part) for part in ("train", "val")]
            return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        with self._open() as file:
            return file.get_tensor(f"{name}.images"), file.get_tensor(f"{name}.labels")
