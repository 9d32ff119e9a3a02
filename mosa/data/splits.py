"""Data splits for training and evaluation: labels, and images that are read when they are needed."""

import copy
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Protocol

import numpy as np

from mosa.base.errors import UserError
from mosa.base.files import digest_of_file
from mosa.data.images import read_image


class Store(Protocol):
    """Images by index; `sizes` (n, 2) has their heights and widths, if they are known before decoding."""

    sizes: np.ndarray | None

    def __getitem__(self, index: int) -> np.ndarray:
        """Return an image, uint8 (height, width, 3)."""


class FixedStore:
    """Images of one size, uint8 (n, height, width, 3), in memory or mapped from a file."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.sizes = np.broadcast_to(np.array(images.shape[1:3], np.int64), (len(images), 2))

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]


class RaggedStore:
    """Images of different sizes, one after the other in a flat array; `sizes` (n, 2): height and width."""

    def __init__(self, pixels: np.ndarray, sizes: np.ndarray) -> None:
        self.pixels, self.sizes = pixels, sizes.astype(np.int64)
        self.ends = np.cumsum(3 * self.sizes.prod(axis=1))

    def __getitem__(self, index: int) -> np.ndarray:
        height, width = self.sizes[index]
        end = self.ends[index]
        return self.pixels[end - 3 * height * width : end].reshape(height, width, 3)


class FileStore:
    """Images that are decoded on every access, for sets that are too large to pack.

    A file is compared with its SHA-256, a row of `hashes` (n, 32), when it is first read.
    """

    sizes = None

    def __init__(
        self, paths: Sequence[str], hashes: np.ndarray, size: int, resize: str, interpolation: str
    ) -> None:
        self.paths, self.hashes, self.how = paths, hashes, (size, resize, interpolation)
        self.compared = np.zeros(len(paths), bool)

    def __getitem__(self, index: int) -> np.ndarray:
        path = Path(self.paths[index])
        if not self.compared[index] and path.is_file():
            if digest_of_file(path) != self.hashes[index].tobytes().hex():
                raise UserError(
                    f"{path}: was changed since the pack was made, which lists it; put that file back, or "
                    "run the workflow again, which takes the files as they are"
                )
            self.compared[index] = True
        return read_image(path, *self.how)


class DataSplit:
    """A split, or a subset or union of splits; nothing is copied until it is read.

    Args:
        stores: Sources of the images.
        where: For each image the index of its store and its index there, int64 (n, 2).
        labels: Integer labels (n,).
        size: Side of the squares that `read` returns, in pixels.
        sets: In a union, for each image the index of its data set (n,).

    Attributes:
        labels, sets, size: As given.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        where: np.ndarray,
        labels: np.ndarray,
        size: int,
        sets: np.ndarray | None = None,
    ) -> None:
        self.stores, self.where, self.labels, self.size, self.sets = stores, where, labels, size, sets

    @classmethod
    def of(cls, store: Store, labels: np.ndarray, size: int, sets: np.ndarray | None = None) -> "DataSplit":
        """Build the split of all images of one store."""
        number = np.arange(len(labels), dtype=np.int64)
        return cls([store], np.stack([np.zeros_like(number), number], axis=1), labels, size, sets)

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: "DataSplit") -> "DataSplit":
        shift = np.array([len(self.stores), 0])
        where = np.concatenate([self.where, other.where + shift])
        labels = np.concatenate([self.labels, other.labels])
        sets = None if self.sets is None else np.concatenate([self.sets, other.sets])
        return DataSplit([*self.stores, *other.stores], where, labels, self.size, sets)

    def subset(self, index: np.ndarray) -> "DataSplit":
        """Return the split of some of the images, given by their indices."""
        part = copy.copy(self)
        part.where, part.labels = self.where[index], self.labels[index]
        part.sets = None if self.sets is None else self.sets[index]
        return part

    def with_label_noise(self, share: float, classes: int, rng: np.random.Generator) -> "DataSplit":
        """Return the split with symmetric label noise: some images have another class, each alike likely.

        Args:
            share: Share of the images whose label is wrong, rounded to whole images.
            classes: Number of classes of the task.
            rng: Draws the images and their labels.
        """
        noisy = copy.copy(self)
        wrong = rng.permutation(len(self))[: round(share * len(self))]
        noisy.labels = self.labels.copy()
        noisy.labels[wrong] = (self.labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
        return noisy

    @property
    def sizes(self) -> np.ndarray | None:
        """Height and width of each image as it is stored, int64 (n, 2); None if some are not known yet."""
        sizes = [store.sizes for store in self.stores]
        if any(size is None for size in sizes):
            return None
        found = np.empty_like(self.where)
        for store, of_store in enumerate(sizes):
            here = self.where[:, 0] == store
            found[here] = of_store[self.where[here, 1]]
        return found

    def __getitem__(self, index: int) -> np.ndarray:
        """Return an image as it is stored, uint8 (height, width, 3)."""
        store, number = self.where[index]
        return self.stores[store][number]

    def read(self, index: np.ndarray, generators: Iterable[np.random.Generator] | None = None) -> np.ndarray:
        """Read images.

        Args:
            index: Indices of the images (b,).
            generators: For each image the generator of its crop and flip; None: the centre, not flipped.

        Returns:
            uint8 of shape (b, size, size, 3).
        """
        images = np.empty((len(index), self.size, self.size, 3), np.uint8)
        drawing = repeat(None, len(index)) if generators is None else generators
        for place, (number, rng) in enumerate(zip(index, drawing, strict=True)):
            image = self[number]
            top, left, flipped = draw_crop(image.shape[:2], self.size, rng)
            image = image[top : top + self.size, left : left + self.size]
            # Reversing whole pixels is twice as fast as reversing an axis of an array of bytes.
            images[place] = image.view("V3")[:, ::-1].view(np.uint8) if flipped else image
        return images


def draw_crop(shape: Sequence[int], size: int, rng: np.random.Generator | None) -> tuple[int, int, bool]:
    """Draw a square crop of an image, and whether it is flipped.

    Args:
        shape: Height and width of the image, in pixels.
        size: Side of the square.
        rng: Generator; None: the centre, as torchvision's CenterCrop rounds, not flipped.

    Returns:
        First row and column of the square, and whether it is flipped horizontally.
    """
    room = [int(side) - size for side in shape]
    if rng is None:
        top, left = (round(space / 2) for space in room)
        return top, left, False
    top, left = (int(rng.integers(space + 1)) for space in room)
    return top, left, rng.random() < 0.5
