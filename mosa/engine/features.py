"""Features of a frozen backbone, computed once: a classifier, or a network beside it, is trained on them."""

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mosa.base.files import locked, written_atomically
from mosa.base.words import room
from mosa.engine.batches import RESIDENT_SHARE, Images
from mosa.engine.loop import autocast, in_large_batches
from mosa.engine.provenance import code_digest, describe_device, versions
from mosa.peft import attachment
from mosa.peft.blocks import find_head
from mosa.peft.routing import is_stochastic
from mosa.peft.side import Side

FORMAT = 4
_SUM = 4  # bytes at the end of a file: the CRC-32 of its numbers
KEPT_BYTES = 8 << 30  # of the features that a network beside a trunk reads; more is computed in every epoch
Read = Callable[[nn.Module, Tensor], Tensor]
_OF_TIMM = ("forward_features", "forward_head", "get_classifier")  # what features are computed by


class Head(nn.Module):
    """The classifier of a model alone, with the model's method: what `mosa.engine.loop.fit` trains.

    Shape:
        Features (batch, width) -> logits (batch, classes).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.peft = attachment(model)
        self.classifier = model.get_classifier()

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(features)


class Features:
    """The features of a split, with the interface of `mosa.engine.batches.Images`.

    Args:
        features: (views, images, ...), float32, in the order of the images; epochs show views in turn.
        images: The split that they are of.
    """

    def __init__(self, features: Tensor, images: Images) -> None:
        self.features = features.to(images.device)
        self.labels, self.split, self.device = images.labels, images.split, images.device

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, order: Tensor | None = None, epoch: int = 0, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features (b, ...) and labels (b,), as `Images.batches`."""
        order = torch.arange(len(self)) if order is None else order
        view = self.features[epoch % len(self.features)]
        for chunk in order.to(self.device).split(size)[start:]:
            yield view[chunk], self.labels[chunk]


def is_head_only(model: nn.Module) -> bool:
    """Return whether training changes the classifier alone, so that features stay what they are.

    Nothing before the classifier is tuned or stochastic, and a step has one pass.
    """
    if not all(hasattr(model, name) for name in _OF_TIMM):  # a described model is trained in the plain loop
        return False
    tuned = {parameter for parameter in model.parameters() if parameter.requires_grad}
    head = find_head(model)
    return (
        tuned == set(head.parameters())
        and not isinstance(head, nn.ModuleList)  # several, of other features each
        and attachment(model).method.passes == 1
        and not any(is_stochastic(module) for module in model.modules())
    )


def classifies_features(model: nn.Module, images: Images, label: str) -> bool:
    """Return whether a model's logits are what its classifier returns of `pre_logits`, on two images.

    Says so where they are not: there, training the classifier on features would train another model.
    """
    model.eval()
    classifier = model.get_classifier()
    read: list[Tensor] = []
    returned: list[Tensor] = []

    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        read.append(inputs[0])
        # Not what the weights make of the features, which may be zeros, and so hide what is done to them.
        returned.append(torch.linspace(-1, 1, output.numel()).to(output).view_as(output))
        return returned[-1]

    with torch.inference_mode():
        batch, _ = next(images.batches(2))
        features = pre_logits(model, batch)
        hook = classifier.register_forward_hook(replace)
        try:
            logits = model(batch)
        finally:
            hook.remove()
    same = len(read) == 1 and _close(read[0], features) and _close(logits, returned[0])
    if not same:
        print(
            f"{label}: the whole model runs in every step, as its logits are not its classifier's, of the "
            "features that forward_head returns with pre_logits=True",
            file=sys.stderr,
        )
    return same


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-3)


def is_beside_a_fixed_trunk(model: nn.Module) -> bool:
    """Return whether a network stands beside a trunk whose tokens stay the same, as nothing draws there."""
    method = attachment(model).method
    if not isinstance(method, Side) or method.passes > 1:
        return False
    return not any(is_stochastic(module) for part in model.side.before(model) for module in part.modules())


def pre_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return what the classifier gets of a batch, (batch, width)."""
    return model.forward_head(model.forward_features(images), pre_logits=True)


def compute_features(model: nn.Module, images: Images, path: Path, read: Read, precision: str) -> None:
    """Write what is read of each view and image to a file, (views, images, ...), float32, and its checksum.

    Images that are not augmented, or not in training, have one view. One batch at a time is in memory.
    """
    model.eval()
    views = images.views or 1

    def compute(size: int) -> None:
        sum_ = 0
        with torch.inference_mode(), autocast(images.device, precision), path.open("wb") as file:
            for view in range(views):
                for batch, _ in images.batches(size, epoch=view):
                    part = read(model, batch).float().cpu().contiguous().numpy()
                    if not file.tell():
                        shape = (views, len(images), *part.shape[1:])
                        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(part.data)
                    sum_ = zlib.crc32(part.data, sum_)
            file.write(sum_.to_bytes(_SUM, "little"))

    in_large_batches(compute)


def fits(model: nn.Module, images: Images, read: Read, label: str) -> bool:
    """Return whether all that is read of a split is small enough to be kept: `KEPT_BYTES` at most.

    Says so where it is not.

    On a GPU, it also has to be an eighth of the free memory at most, where it lies: from the host's memory
    it would take longer to come than a trunk to compute.
    """
    model.eval()
    with torch.inference_mode():
        batch, _ = next(images.batches(1))
        size = 4 * read(model, batch).numel() * len(images) * (images.views or 1)
    most = KEPT_BYTES
    if images.device.type == "cuda":
        most = min(most, torch.cuda.mem_get_info(images.device)[0] // RESIDENT_SHARE)
    if size > most:
        print(
            f"{label}: the trunk runs in every epoch, as {room(size / 2**30)} of its outputs would have to "
            f"be kept, and {room(most / 2**30)} may be",
            file=sys.stderr,
        )
    return size <= most


def cached_features(
    model: nn.Module,
    images: Images,
    folder: Path,
    decides: Any,
    precision: str = "float32",
    read: Read = pre_logits,
) -> Features:
    """Return what is read of a split, from the folder if it is there, else computed and kept there.

    Processes that want the same features wait for the one that computes them. They are mapped into memory,
    not read: processes share them, and the system may drop them.

    Args:
        model: The backbone, frozen.
        images: The split, not augmented, or in a number of views.
        folder: Where features are kept, one file each, named by a digest.
        decides: All that decides the features, as plain data: data, split, backbone, precision, what is read.
        precision: "float32" or "bfloat16", as in `mosa.experiment.recipe.Recipe`.
        read: Computes the features of a batch.

    Raises:
        UserError: The folder cannot be written.
    """
    how = [FORMAT, versions(), code_digest(), describe_device(images.device), decides]
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()
    path = folder / f"{digest[:32]}.npy"
    with locked(path):
        found = _load(path, (images.views or 1, len(images)))
        if found is None:
            with written_atomically(path) as temporary:
                compute_features(model, images, temporary, read, precision)
            found = _load(path, (images.views or 1, len(images)))
    return Features(found, images)


def _load(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """Return the features of a file; None: it is not there, or not as it was written, and is made again."""
    try:
        features = np.load(path, mmap_mode="c", allow_pickle=False)
        with path.open("rb") as file:
            file.seek(-_SUM, os.SEEK_END)
            wanted = int.from_bytes(file.read(), "little")
    except Exception:  # whatever a broken file makes numpy raise
        return None
    whole = features.dtype == np.float32 and features.shape[:2] == shape
    return torch.from_numpy(features) if whole and zlib.crc32(features.data) == wanted else None
