"""Writing packs: streamed, atomic and locked, with a digest of the content."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mosa.base.errors import UserError, plain
from mosa.base.files import digest_of_file, locked, written_atomically
from mosa.base.words import room
from mosa.data.images import read_image
from mosa.data.layouts.source import Entry, Source
from mosa.data.packs import DTYPES, NAMES, PARTS, Pack
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
    content: str | None = None,
    verify: Callable[[], None] | None = None,
) -> str:
    """Decode a task's files once into a pack, or only list them if they would take too much room.

    Args:
        path: File to write.
        task: The task.
        source: What its lists say.
        size: Side of the square that the backbone takes, in pixels.
        interpolation: One of `mosa.data.task.INTERPOLATIONS`.
        limit_gib: Largest pack, in GiB; a larger set is decoded while training. None: no limit.
        threads: Threads that decode.
        content: Identifies the files, see `mosa.data.content.task_content`; it is stored in the pack.
        verify: Called when all files are read; what it raises leaves no pack behind.

    Returns:
        The digest of the content.

    Raises:
        UserError: An image cannot be read, or the disk has no room.
    """
    packed = _decide_packing(path, task, source, size, limit_gib)
    side = size if task.resize == "direct" else None
    noted: list[str] = []

    def read(entry: Entry) -> np.ndarray:
        if not packed:
            return np.frombuffer(bytes.fromhex(digest_of_file(entry.image)), np.uint8)
        notes: list[str] = []
        try:
            pixels = read_image(entry.image, size, task.resize, interpolation, notes)
        except UserError as error:
            raise UserError(_placed(entry, str(error))) from None
        noted.extend(_placed(entry, f"{entry.image}: {note}") for note in notes)
        return pixels

    def write(writer: "_Writer") -> dict[str, Any]:
        with _reading(task, source, read, threads) as in_order:
            for split in PARTS:
                _add_split(writer, split, source, in_order, packed, side)
                writer.add_names(
                    f"{split}.{NAMES}", [_name_of(entry, source) for entry in source.splits[split]]
                )
        for fraction, index in source.subsets.items():
            writer.add(f"subset.{fraction}", "int64", (len(index),), [np.array(index, np.int64)])
        writer.add_names(NAMES, source.names)
        if noted:
            more = f" (and {len(noted) - 1} more: `mosa check` lists them)" if len(noted) > 1 else ""
            print(f"warning: {noted[0]}{more}", file=sys.stderr, flush=True)
        if verify is not None:
            verify()
        return {
            "num_classes": source.num_classes,
            "size": size,
            "interpolation": interpolation,
            "notes": source.notes,
            "sets": list(source.sets),
            "packed": packed,
            "source": content,
        }

    return _write(path, task, write, content)


def _placed(entry: Entry, text: str) -> str:
    """Return what is said of an image after where it is listed, unless its file is all there is to say."""
    return plain(text if entry.place == str(entry.image) else f"{entry.place}: {text}")


def _name_of(entry: Entry, source: Source) -> str:
    """Return the path of an image below the folder of its task, or its place in a file of many."""
    if isinstance(entry.image, np.ndarray):
        return entry.place.removeprefix(f"{source.root}{os.sep}")
    return str(entry.image).removeprefix(f"{source.root}{os.sep}")


def _count(source: Source) -> int:
    return sum(len(entries) for entries in source.splits.values())


def _decide_packing(path: Path, task: Task, source: Source, size: int, limit_gib: float | None) -> bool:
    """Decide whether the pack holds pixels or lists files; report it, and check that the disk has room."""
    count = _count(source)
    need = int(3 * size**2 * count * (1 if task.resize == "direct" else (256 / 224) ** 2 * 4 / 3))
    files = not any(isinstance(entry.image, np.ndarray) for entry in islice(source.splits["train"], 1))
    packed = limit_gib is None or need <= limit_gib * 2**30 or not files
    announced = f"{task.full_name}: {count:,} images, about {room(need / 2**30)} as a pack"
    over = "" if packed else f", over the limit of {limit_gib} GiB: decoded while training"
    print(announced + over, file=sys.stderr, flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); choose another folder") from None
    if packed and need > free:
        raise UserError(
            f"{path}: needs about {room(need / 2**30)} and the disk has {room(free / 2**30)}; make room, "
            "set paths.packs to another disk, or set packing.limit_gib to decode the images while training"
        )
    return packed


@contextlib.contextmanager
def _reading(
    task: Task, source: Source, read: Callable[[Entry], np.ndarray], threads: int
) -> Iterator[Callable[[list[Entry]], Iterator[np.ndarray]]]:
    """Give a function that reads entries in threads and yields the results in order, with one bar for all."""
    bar = tqdm(total=_count(source), unit="image", desc=task.full_name, disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(threads) as pool:

        def in_order(entries: list[Entry]) -> Iterator[np.ndarray]:
            entries = iter(entries)
            while chunk := list(islice(entries, 64)):  # so that no split is ever in memory as a whole
                for result in pool.map(read, chunk):
                    bar.update()
                    yield result

        yield in_order


def _add_split(
    writer: "_Writer",
    split: str,
    source: Source,
    in_order: Callable[[list[Entry]], Iterator[np.ndarray]],
    packed: bool,
    side: int | None,
) -> None:
    """Write one split.

    Args:
        writer: Takes the tensors.
        split: "train", "val" or "test".
        source: The task's lists.
        in_order: Yields the pixels of each image, or the SHA-256 of its file if it is not packed.
        packed: Whether the pack holds pixels; otherwise it lists files.
        side: Side of the images, in pixels, if all are squares of one size.
    """
    entries = source.splits[split]
    sizes: list[tuple[int, int]] = []
    if packed:
        shape = None if side is None else (len(entries), side, side, 3)
        writer.add(f"{split}.images", "uint8", shape, _noting(in_order(entries), sizes))
    else:
        paths = b"\0".join(os.fsencode(entry.image.absolute()) for entry in entries)
        writer.add(f"{split}.files", "uint8", None, [np.frombuffer(paths, np.uint8)])
        writer.add(f"{split}.hashes", "uint8", None, in_order(entries))
    labels = np.array([entry.label for entry in entries], np.int64)
    writer.add(f"{split}.labels", "int64", labels.shape, [labels])
    if source.sets:
        sets = np.repeat(np.arange(len(source.sets)), source.set_sizes[split]).astype(np.int64)
        writer.add(f"{split}.sets", "int64", sets.shape, [sets])
    if packed and side is None:
        writer.add(f"{split}.sizes", "int32", (len(sizes), 2), [np.array(sizes, np.int32)])


def _noting(images: Iterable[np.ndarray], sizes: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    for image in images:
        sizes.append(image.shape[:2])
        yield image


def _write(
    path: Path, task: Task, write: Callable[["_Writer"], dict[str, Any]], content: str | None = None
) -> str:
    started = time.time()
    with locked(path):
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed: we hold the lock
            left.unlink(missing_ok=True)
        with contextlib.suppress(UserError):
            pack = Pack(path)
            made = path.stat().st_mtime > started  # by another process, meanwhile
            if made and pack.task == task and pack.source == content:
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
        self.sums: dict[str, int] = {}
        self.digest = hashlib.sha256()
        file.seek(8 + _HEADER)

    def add(self, name: str, dtype: str, shape: tuple[int, ...] | None, chunks: Iterable[np.ndarray]) -> None:
        """Write one tensor; without a shape it is flat, and as long as its chunks are."""
        self.digest.update(json.dumps([name, dtype, shape]).encode())
        start, sum_ = self.position, 0
        for chunk in chunks:
            data = np.ascontiguousarray(chunk, dtype=dtype).data.cast("B") if chunk.size else b""
            self.digest.update(data)
            sum_ = zlib.crc32(data, sum_)
            self.position += self.file.write(data)
        self.sums[name] = sum_
        shape = (self.position - start,) if shape is None else shape
        self.tensors[name] = {
            "dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, self.position]
        }  # fmt: skip

    def add_names(self, name: str, names: Sequence[str]) -> None:
        """Write names, which are not part of the digest: packs that have none are as good."""
        if names:
            text = b"\0".join(os.fsencode(one.replace("\0", " ")) for one in names)
            before = self.digest.copy()
            self.add(name, "uint8", None, [np.frombuffer(text, np.uint8)])
            self.digest = before

    def finish(self, metadata: dict[str, str]) -> None:
        """Write the header, padded with spaces as the format allows."""
        metadata = metadata | {"digest": self.digest.hexdigest(), "sums": json.dumps(self.sums)}
        header = json.dumps({"__metadata__": metadata, **self.tensors}).encode()
        if len(header) > _HEADER:
            raise ValueError(f"a header of {len(header)} bytes; room was kept for {_HEADER}")
        self.file.seek(0)
        self.file.write(_HEADER.to_bytes(8, "little") + header.ljust(_HEADER))
