"""A split as the trainer sees it: labels, and images that are read when they are needed."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from mosa.data.images import read_image


class Store(Protocol):
    """Images by number; `images` is an array of all of them where they have one size."""

    images: np.ndarray | None

    def __getitem__(self, index: int) -> np.ndarray:
        """Return an image, uint8 (height, width, 3)."""


class FixedStore:
    """Images of one size, uint8 (n, height, width, 3), in memory or mapped from a file."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]


class RaggedStore:
    """Images of any sizes, one after the other in a flat array, with `sizes` (n, 2): height and width."""

    images = None

    def __init__(self, pixels: np.ndarray, sizes: np.ndarray) -> None:
        self.pixels, self.sizes = pixels, sizes
        self.ends = np.cumsum(3 * sizes.astype(np.int64).prod(axis=1))

    def __getitem__(self, index: int) -> np.ndarray:
        height, width = self.sizes[index]
        end = self.ends[index]
        return self.pixels[end - 3 * int(height) * int(width) : end].reshape(height, width, 3)


class FileStore:
    """Images that are decoded every time, for sets too large to pack."""

    images = None

    def __init__(self, paths: Sequence[str], size: int, resize: str, interpolation: str) -> None:
        self.paths, self.how = paths, (size, resize, interpolation)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(Path(self.paths[index]), *self.how)


class Split:
    """A split, or a subset or union of splits; nothing is copied until it is read.

    Args:
        stores: Where the images lie.
        where: For each image its store and its number there, int64 (n, 2).
        labels: Integer labels (n,).
        size: Side of the square that `read` gives, in pixels.
        sets: For each image the number of the data set it comes from, in a union (n,).

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
    def of(cls, store: Store, labels: np.ndarray, size: int, sets: np.ndarray | None = None) -> "Split":
        """Build the split that has all images of one store."""
        number = np.arange(len(labels), dtype=np.int64)
        return cls([store], np.stack([np.zeros_like(number), number], axis=1), labels, size, sets)

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: "Split") -> "Split":
        shift = np.array([len(self.stores), 0])
        where = np.concatenate([self.where, other.where + shift])
        labels = np.concatenate([self.labels, other.labels])
        sets = None if self.sets is None else np.concatenate([self.sets, other.sets])
        return Split([*self.stores, *other.stores], where, labels, self.size, sets)

    def subset(self, index: np.ndarray) -> "Split":
        """Return the split of some of the images, by their numbers."""
        part = copy.copy(self)
        part.where, part.labels = self.where[index], self.labels[index]
        part.sets = None if self.sets is None else self.sets[index]
        return part

    @property
    def in_one_size(self) -> bool:
        """Whether all images are stored in the size in which they are read."""
        return all(
            store.images is not None and store.images.shape[1:3] == (self.size, self.size)
            for store in self.stores
        )

    def read(self, index: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Read images.

        Args:
            index: Numbers of the images (b,).
            rng: Draws a crop and a horizontal flip for each image; None: the centre, not flipped.

        Returns:
            uint8 of shape (b, size, size, 3).
        """
        images = np.empty((len(index), self.size, self.size, 3), np.uint8)
        for place, (store, number) in enumerate(self.where[index]):
            images[place] = _crop(self.stores[store][number], self.size, rng)
        return images


def _crop(image: np.ndarray, size: int, rng: np.random.Generator | None) -> np.ndarray:
    room = image.shape[0] - size, image.shape[1] - size
    if rng is None:  # as torchvision's CenterCrop rounds
        top, left = (round(space / 2) for space in room)
    else:
        top, left = (int(rng.integers(space + 1)) for space in room)
    image = image[top : top + size, left : left + size]
    if rng is None or rng.random() >= 0.5:
        return image
    return image.view("V3")[:, ::-1].view(np.uint8)  # whole pixels, which is twice as fast to copy
