"""Batches of a split: read from disk or kept on the device, cropped, flipped and normalised there."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from mosa.data.splits import DataSplit, draw_crop

RESIDENT_BYTES = 2 << 30  # a split of at most this size is kept in a CPU's memory as a whole
RESIDENT_SHARE = 8  # on a GPU, one of at most this part of the memory that is free
_AHEAD = 2  # batches that a thread reads while the model computes


class Images:
    """A split, normalised on the device as it is drawn.

    A small split lies on the device as a whole: one of a single size, and on a GPU also one of which crops
    are drawn. Batches of other splits are read from disk while the model computes. What is drawn is the same.

    Args:
        split: The images.
        mean: Mean per channel, for pixels in 0 ... 1.
        std: Standard deviation per channel.
        device: Where batches are made.
        augment: Seed of random crops and flips; None: every image is shown as it is, or its centre.
        views: Crops and flips that an image has in all, as in `mosa.experiment.recipe.Recipe`.
        channels_last: Lay batches out with channels last.
        workers: Threads that read, each a batch of its own; what is read is the same for any number.
        resident: Whether all pixels lie on the device; None: as said above.
    """

    def __init__(
        self,
        split: DataSplit,
        mean,
        std,
        device: torch.device,
        augment: int | None = None,
        views: int = 0,
        channels_last: bool = False,
        workers: int = 1,
        resident: bool | None = None,
    ) -> None:
        self.split, self.device, self.workers = split, device, workers
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.labels = torch.as_tensor(split.labels).long().to(device)
        self.mean = 255 * torch.tensor(mean, device=device).view(3, 1, 1)
        self.std = 255 * torch.tensor(std, device=device).view(3, 1, 1)
        self.augment, self.views = augment, views if augment is not None else 0
        resident = lies_on_device(split, augment, device) if resident is None else resident
        self.images = self.pixels = None
        if resident and augment is None:
            self.images = self._to_device(split.read(np.arange(len(split))))
        elif resident:
            self.pixels = Pixels(split, device)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, order: Tensor | None = None, epoch: int = 0, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images (b, 3, height, width) and labels (b,).

        Args:
            size: Images of a batch, b; the last has what is left.
            order: Indices of the images, in the order in which to yield them; None: as they are.
            epoch: Number of the epoch, on which crops and flips depend.
            start: Number of batches to leave out at the beginning.
        """
        order = torch.arange(len(self)) if order is None else order
        chunks = list(enumerate(order.split(size)))[start:]
        drawn = self._read(chunks, epoch) if self.images is self.pixels is None else self._draw(chunks, epoch)
        for images, (_, chunk) in zip(drawn, chunks, strict=True):
            yield images.float().sub_(self.mean).div_(self.std), self.labels[chunk.to(self.device)]

    def _draw(self, chunks: list[tuple[int, Tensor]], epoch: int) -> Iterator[Tensor]:
        for number, chunk in chunks:
            if self.images is not None:
                yield self.images[chunk.to(self.device)]
            else:
                index = chunk.numpy()
                yield self._laid_out(self.pixels.crops(index, self._generators(index, epoch, number)))

    def _read(self, chunks: list[tuple[int, Tensor]], epoch: int) -> Iterator[Tensor]:
        def read(index: np.ndarray, number: int) -> np.ndarray:
            return self.split.read(index, self._generators(index, epoch, number))

        with ThreadPoolExecutor(self.workers) as pool:
            waiting = deque()
            for number, chunk in chunks:
                waiting.append(pool.submit(read, chunk.numpy(), number))
                if len(waiting) > _AHEAD * self.workers:
                    yield self._to_device(waiting.popleft().result())
            while waiting:
                yield self._to_device(waiting.popleft().result())

    def _generators(self, index: np.ndarray, epoch: int, number: int) -> Iterator[np.random.Generator] | None:
        """Return what draws the crop and the flip of each image of a batch."""
        if self.augment is None:
            return None
        if self.views:  # the image's own, in whatever batch it stands
            return (np.random.default_rng([self.augment, epoch % self.views, image]) for image in index)
        # The batch's own: a run that goes on in the middle of an epoch draws the same.
        return repeat(np.random.default_rng([self.augment, epoch, number]), len(index))

    def _to_device(self, images: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(images)
        if self.device.type == "cuda":  # so that the copy does not wait for what is computed there
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        return self._laid_out(tensor)

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2).contiguous(memory_format=self.layout)


def lies_on_device(split: DataSplit, augment: int | None, device: torch.device) -> bool:
    """Return whether a split is kept on a device as a whole: it is small, and that pays.

    Args:
        split: The split.
        augment: Whether crops are drawn, as in `Images`.
        device: The device.
    """
    sizes = split.sizes
    on_gpu = device.type == "cuda"
    room = torch.cuda.mem_get_info(device)[0] // RESIDENT_SHARE if on_gpu else RESIDENT_BYTES
    if sizes is None or 3 * sizes.prod(axis=1).sum() > room:
        return False
    # On a CPU crops are cut from the pack itself, whose pages in memory all runs share.
    return bool((sizes == split.size).all()) if augment is None else on_gpu


class Pixels:
    """The images of a split, of any sizes, on a device, where crops of them are gathered.

    Args:
        split: The images; their pixels are in a pack.
        device: Where they lie.
    """

    def __init__(self, split: DataSplit, device: torch.device) -> None:
        if split.sizes is None:
            raise ValueError("images that are decoded as they are read cannot be kept on a device")
        self.size, self.sizes, self.device = split.size, split.sizes, device
        self.starts = np.cumsum(self.sizes.prod(axis=1)) - self.sizes.prod(axis=1)
        images = [split[number].reshape(-1, 3) for number in range(len(split))]
        self.pixels = torch.from_numpy(np.concatenate(images)).to(device)

    def crops(self, index: np.ndarray, generators: Iterator[np.random.Generator]) -> Tensor:
        """Return a random crop of each image, which half of the time is flipped, as `DataSplit.read` does.

        Args:
            index: Numbers of the images (b,).
            generators: For each image what draws the crop and the flip.

        Returns:
            uint8 of shape (b, size, size, 3), on the device.
        """
        # Of each crop: the place of its first pixel, and the steps to the next row and to the next column.
        places = np.empty((3, len(index)), np.int64)
        for i, (image, rng) in enumerate(zip(index, generators, strict=True)):
            width = self.sizes[image, 1]
            top, left, flipped = draw_crop(self.sizes[image], self.size, rng)
            first = self.starts[image] + top * width + left
            places[:, i] = (first + self.size - 1, width, -1) if flipped else (first, width, 1)
        first, down, right = torch.from_numpy(places).to(self.device)
        side = torch.arange(self.size, device=self.device)
        rows = first[:, None] + down[:, None] * side
        return self.pixels[rows[:, :, None] + right[:, None, None] * side]
