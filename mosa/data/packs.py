"""A pack: all splits of a task in one safetensors file, mapped into memory."""

import hashlib
import json
import operator
import os
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mosa.base.errors import UserError, unknown
from mosa.base.files import digest_of_file
from mosa.data.class_names import known_classes
from mosa.data.layouts.source import stratified
from mosa.data.splits import DataSplit, FileStore, FixedStore, RaggedStore, Store
from mosa.data.task import PACK_FORMAT, Task

SPLITS = ("train", "val", "test", "trainval")
PARTS = ("test", "train", "val")  # sorted: their order in the file and in the digest
DTYPES = {"uint8": "U8", "int32": "I32", "int64": "I64"}
SUMMED = 2 << 30  # bytes of a tensor up to which its checksum is compared whenever it is read
NAMES = "names"  # what tensors with names end with, or are called: of images by split, and of classes


class Pack:
    """A pack on disk, of which only what is read is loaded.

    Args:
        path: A file of `mosa.data.make_pack`.
        closed: Splits that may not be opened.

    Attributes:
        path: The file.
        task: The task.
        num_classes: Number of classes.
        size: Side of the square that its splits give, in pixels.
        interpolation: How images were resized; None where they were rendered.
        notes: What was decided for the user, such as a hold-out.
        sets: Names of the data sets of a union.
        packed: Whether it holds pixels; otherwise it lists files, which are decoded when they are read.
        source: The files that it was made from, see `mosa.data.content.task_content`; None: not known.
        digest: SHA-256 of the content of all splits.

    Raises:
        UserError: The file is missing, truncated, or not a pack.
    """

    def __init__(self, path: Path, closed: Collection[str] = ()) -> None:
        self.path = Path(path)
        self.closed = frozenset(closed)
        try:
            with safe_open(self.path, framework="numpy") as file:  # checks the header against the file's size
                metadata = file.metadata() or {}
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                self._tensors = json.loads(file.read(length))
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such pack; make it with `mosa make-data`") from None
        except (OSError, SafetensorError) as error:
            workflows = "packs" in self.path.parts and self.path.suffix == ".safetensors"
            advice = "delete it and make it" if workflows else "name one, or make one"
            raise UserError(
                f"{self.path}: not a readable pack ({error}); {advice} with `mosa make-data`"
            ) from None
        self._start = 8 + length
        if metadata.get("format") != PACK_FORMAT or any(f"{s}.labels" not in self._tensors for s in PARTS):
            raise UserError(f"{path}: not a pack of format {PACK_FORMAT}; make it with `mosa make-data`")
        try:
            task = json.loads(metadata["task"])
            self.task = Task(**task | {name: tuple(task[name]) for name in ("folders", "members")})
            self.num_classes = operator.index(json.loads(metadata["num_classes"]))
            self.size = operator.index(json.loads(metadata["size"]))
            self.interpolation: str | None = json.loads(metadata.get("interpolation", "null"))
            self.notes: list[str] = json.loads(metadata.get("notes", "[]"))
            self.sets: list[str] = json.loads(metadata.get("sets", "[]"))
            self.packed: bool = json.loads(metadata.get("packed", "true"))
            self.source: str | None = json.loads(metadata.get("source", "null"))
            self.digest = metadata["digest"]
            self._sums: dict[str, int] = json.loads(metadata.get("sums", "{}"))  # of packs that have them
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: its description is damaged ({error!r}); delete it and make it with `mosa make-data`"
            ) from None

    def split(self, name: str) -> DataSplit:
        """Return one split; "trainval" is train followed by val.

        Raises:
            UserError: There is no such split, or it is closed.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        if name in self.closed:
            raise UserError(f"{self.path}: {name} is closed, since hyper-parameters are chosen without it")
        if name == "trainval":
            return self.split("train") + self.split("val")
        try:
            return self._read_split(name)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.path}: {name} is damaged ({error!r}); delete it and make it with `mosa make-data`"
            ) from None

    def _read_split(self, name: str) -> DataSplit:
        labels = np.array(self._map(f"{name}.labels"))
        sets = np.array(self._map(f"{name}.sets")) if self.sets else None
        store = self._read_images(name)
        count = len(store.paths if store.sizes is None else store.sizes)
        if labels.shape != (count,) or (sets is not None and sets.shape != (count,)):
            raise ValueError(f"{count} images, but labels of shape {labels.shape}")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= self.num_classes:
            raise ValueError(f"labels that are not from 0 to {self.num_classes - 1}")
        if store.sizes is not None and store.sizes.min(initial=self.size) < self.size:
            raise ValueError(f"images smaller than {self.size} pixels")
        return DataSplit.of(store, labels, self.size, sets)

    def _read_images(self, name: str) -> Store:
        if not self.packed:
            hashes = self._map(f"{name}.hashes").reshape(-1, 32)
            how = self.size, self.task.resize, self.interpolation or "bicubic"
            return FileStore(self._listed(name), hashes, *how)
        images = self._map(f"{name}.images")
        if f"{name}.sizes" not in self._tensors:
            if images.shape[3:] != (3,):
                raise ValueError(f"images of shape {images.shape}")
            return FixedStore(images)
        store = RaggedStore(images, np.array(self._map(f"{name}.sizes")))
        if images.shape != (store.ends[-1] if len(store.ends) else 0,):
            raise ValueError("sizes that are not those of its pixels")
        return store

    def _listed(self, split: str) -> list[str]:
        """Return the files of a split whose images are not packed."""
        return list(map(os.fsdecode, self._map(f"{split}.files").tobytes().split(b"\0")))

    def _hashes(self, split: str) -> bytes:
        """Return the SHA-256 of the files of a split as they are now; as it was, of one that is not here."""
        known = self._map(f"{split}.hashes").reshape(-1, 32)
        rows = zip(map(Path, self._listed(split)), known, strict=True)
        return b"".join(
            bytes.fromhex(digest_of_file(path)) if path.is_file() else row.tobytes() for path, row in rows
        )

    def content_digest(self) -> str:
        """Compute the digest of the content anew, of listed files too; `digest` is what the file says."""
        total = hashlib.sha256()
        for name, described in self._tensors.items():
            if name == "__metadata__" or name.rpartition(".")[2] == NAMES:
                continue
            split, _, kind = name.rpartition(".")
            flat = kind in ("files", "hashes") or (kind == "images" and len(described["shape"]) == 1)
            dtype = {code: dtype for dtype, code in DTYPES.items()}[described["dtype"]]
            shape = None if flat else described["shape"]
            total.update(json.dumps([name, dtype, shape]).encode())
            total.update(self._hashes(split) if kind == "hashes" else _bytes(self._mapped(name)))
        return total.hexdigest()

    def names(self, split: str) -> list[str] | None:
        """Return a name for each image of a split; None: the pack has none, as of what is rendered.

        It is the path below the task's folder, or the place in a file of many images.
        """
        if split == "trainval":
            parts = [self.names("train"), self.names("val")]
            return None if None in parts else parts[0] + parts[1]
        return self._texts(f"{split}.{NAMES}")

    @property
    def class_names(self) -> list[str] | None:
        """A name for each class, by label; None: they are not known."""
        known = known_classes(self.task.full_name)
        return self._texts(NAMES) or (list(known) if len(known) == self.num_classes else None)

    def _texts(self, name: str) -> list[str] | None:
        if name not in self._tensors:
            return None
        return self._map(name).tobytes().decode("utf-8", "backslashreplace").split("\0")

    def fraction(self, fraction: float, seed: int) -> np.ndarray:
        """Return the numbers of a share of train: the subset that came with the data, else a stratified one.

        Args:
            fraction: Share of each class, 0 < fraction <= 1.
            seed: Seeds the choice, where there is no such subset.
        """
        if f"subset.{float(fraction)}" in self._tensors:
            return np.array(self._map(f"subset.{float(fraction)}"))
        return stratified(self._map("train.labels"), fraction, seed)

    def _map(self, name: str) -> np.ndarray:
        """Return a tensor, mapped.

        Raises:
            UserError: It is not what was written.
        """
        tensor, wanted = self._mapped(name), self._sums.get(name)
        if wanted is not None and tensor.nbytes <= SUMMED and zlib.crc32(_bytes(tensor)) != wanted:
            raise UserError(
                f"{self.path}: {name} is damaged (its checksum is another); delete the pack and run the "
                "workflow again, which makes it anew and repeats no run"
            )
        return tensor

    def _mapped(self, name: str) -> np.ndarray:
        described = self._tensors[name]
        start, end = described["data_offsets"]
        dtype = {code: dtype for dtype, code in DTYPES.items()}[described["dtype"]]
        if start == end:
            return np.empty(described["shape"], dtype)
        place, shape = self._start + start, tuple(described["shape"])
        return np.memmap(self.path, dtype, "r", offset=place, shape=shape)


def _bytes(tensor: np.ndarray) -> memoryview | bytes:
    return np.ascontiguousarray(tensor).data.cast("B") if tensor.size else b""
