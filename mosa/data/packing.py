"""Writing packs: streamed, atomic and locked, with a digest of the content."""

import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mosa.base.errors import UserError
from mosa.base.files import locked, written_atomically
from mosa.data.images import read_image
from mosa.data.layouts.source import Source
from mosa.data.packs import DTYPES, PARTS, Pack
from mosa.data.task import PACK_FORMAT, Task

_HEADER = 1 << 16  # bytes kept for the header, which is only known at the end


def write_pack(path: Path, task: Task, splits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Write splits that are in memory, atomically; several processes may write the same pack at once.

    Args:
        path: File to write.
        task: The task.
        splits: For train, val and test: images, uint8 of shape (n, height, width, 3), and labels (n,).

    Returns:
        The digest of the content.
    """
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

    def write(writer: "_Writer") -> dict[str, Any]:
        for split in PARTS:
            images, labels = splits[split]
            writer.add(f"{split}.images", "uint8", images.shape, [images])
            writer.add(f"{split}.labels", "int64", labels.shape, [labels])
        return {"num_classes": task.num_classes, "size": splits["test"][0].shape[1]}

    return _write(path, task, write)


def pack_source(
    path: Path,
    task: Task,
    source: Source,
    size: int,
    interpolation: str = "bicubic",
    limit_gib: float | None = None,
    threads: int = 1,
) -> str:
    """Decode a task's files once into a pack, or only list them if they would take too much room.

    Args:
        path: File to write.
        task: The task.
        source: What its lists say.
        size: Side of the square that the backbone takes, in pixels.
        interpolation: "bicubic" or "bilinear".
        limit_gib: Largest pack, in GiB; a larger set is decoded while training. None: no limit.
        threads: Threads that decode.

    Returns:
        The digest of the content.

    Raises:
        UserError: An image cannot be read, or the disk has no room.
    """
    count = sum(len(entries) for entries in source.splits.values())
    need = int(3 * size**2 * count * (1 if task.resize == "direct" else (256 / 224) ** 2 * 4 / 3))
    files = not any(isinstance(e.image, np.ndarray) for e in islice(source.splits["train"], 1))
    packed = limit_gib is None or need <= limit_gib * 2**30 or not files
    announced = f"{task.full_name}: {count:,} images, about {need / 2**30:.2f} GiB as a pack"
    print(announced if packed else f"{announced}, over the limit of {limit_gib} GiB: decoded while training",
          file=sys.stderr, flush=True)  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if packed and need > free:
        raise UserError(
            f"{path}: needs about {need / 2**30:.2f} GiB and the disk has {free / 2**30:.2f} GiB; make room, "
            "set paths.packs to another disk, or set packing.limit_gib to decode the images while training"
        )

    def write(writer: "_Writer") -> dict[str, Any]:
        bar = tqdm(total=count, unit="image", desc=task.full_name, disable=not sys.stderr.isatty())
        with bar, ThreadPoolExecutor(threads) as pool:
            for split in PARTS:
                entries = source.splits[split]
                if not packed:
                    paths = "\0".join(str(entry.image.absolute()) for entry in entries).encode()
                    writer.add(f"{split}.files", "uint8", None, [np.frombuffer(paths, np.uint8)])
                    digests = _in_order(
                        pool, lambda e: np.frombuffer(_sha256(e.image), np.uint8), entries, bar
                    )
                    writer.add(f"{split}.hashes", "uint8", None, digests)
                else:
                    sizes: list[tuple[int, int]] = []
                    fixed = task.resize == "direct"
                    images = _in_order(
                        pool, lambda e: read_image(e.image, size, task.resize, interpolation), entries, bar
                    )
                    shape = (len(entries), size, size, 3) if fixed else None
                    writer.add(f"{split}.images", "uint8", shape, _noting(images, sizes))
                labels = np.array([entry.label for entry in entries], np.int64)
                writer.add(f"{split}.labels", "int64", labels.shape, [labels])
                if source.sets:
                    sets = np.repeat(np.arange(len(source.sets)), source.set_sizes[split]).astype(np.int64)
                    writer.add(f"{split}.sets", "int64", sets.shape, [sets])
                if packed and not fixed:
                    writer.add(f"{split}.sizes", "int32", (len(sizes), 2), [np.array(sizes, np.int32)])
        for fraction, index in source.subsets.items():
            writer.add(f"subset.{fraction}", "int64", (len(index),), [np.array(index, np.int64)])
        return {
            "num_classes": source.num_classes,
            "size": size,
            "interpolation": interpolation,
            "notes": source.notes,
            "sets": list(source.sets),
            "packed": packed,
        }

    return _write(path, task, write)


def _in_order(pool: ThreadPoolExecutor, work: Callable, items: Iterable, bar: tqdm) -> Iterator[np.ndarray]:
    """Yield the results in order, a few at a time, so that no split is ever in memory as a whole."""
    items = iter(items)
    while chunk := list(islice(items, 64)):
        for result in pool.map(work, chunk):
            bar.update()
            yield result


def _noting(images: Iterable[np.ndarray], sizes: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    for image in images:
        sizes.append(image.shape[:2])
        yield image


def _sha256(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); extract the archive again") from None


def _write(path: Path, task: Task, write: Callable[["_Writer"], dict[str, Any]]) -> str:
    started = time.time()
    with locked(path):
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed: we hold the lock
            left.unlink(missing_ok=True)
        with contextlib.suppress(UserError):
            pack = Pack(path)
            if pack.task == task and path.stat().st_mtime > started:  # another process made it meanwhile
                return pack.digest
        with written_atomically(path) as temporary, temporary.open("wb") as file:
            writer = _Writer(file)
            described = write(writer)
            writer.finish({"format": PACK_FORMAT, "task": json.dumps(asdict(task)), **_texts(described)})
    return writer.digest.hexdigest()


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in values.items()}


class _Writer:
    """Streams tensors into a safetensors file, and digests names, types, shapes and bytes as they pass."""

    def __init__(self, file) -> None:
        self.file, self.tensors, self.position = file, {}, 0
        self.digest = hashlib.sha256()
        file.seek(8 + _HEADER)

    def add(self, name: str, dtype: str, shape: tuple[int, ...] | None, chunks: Iterable[np.ndarray]) -> None:
        """Write one tensor; without a shape it is flat, and as long as its chunks are."""
        self.digest.update(json.dumps([name, dtype, shape]).encode())
        start = self.position
        for chunk in chunks:
            data = np.ascontiguousarray(chunk, dtype=dtype).data.cast("B") if chunk.size else b""
            self.digest.update(data)
            self.position += self.file.write(data)
        shape = (self.position - start,) if shape is None else shape
        self.tensors[name] = {
            "dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, self.position]
        }  # fmt: skip

    def finish(self, metadata: dict[str, str]) -> None:
        """Write the header, padded with spaces as the format allows."""
        metadata = metadata | {"digest": self.digest.hexdigest()}
        header = json.dumps({"__metadata__": metadata, **self.tensors}).encode()
        if len(header) > _HEADER:
            raise ValueError(f"a header of {len(header)} bytes; room was kept for {_HEADER}")
        self.file.seek(0)
        self.file.write(_HEADER.to_bytes(8, "little") + header.ljust(_HEADER))
