"""Features of a frozen backbone, computed once: linear probing trains its classifier on them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mosa.base.files import locked, written_atomically
from mosa.engine.batches import Images
from mosa.engine.loop import autocast, in_large_batches
from mosa.peft import attachment
from mosa.peft.blocks import find_head
from mosa.peft.routing import is_stochastic

FORMAT = 2


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
        features: (views, images, width), float32, in the order of the images; epochs show views in turn.
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
        """Yield features (b, width) and labels (b,), as `Images.batches`."""
        order = torch.arange(len(self)) if order is None else order
        view = self.features[epoch % len(self.features)]
        for chunk in order.to(self.device).split(size)[start:]:
            yield view[chunk], self.labels[chunk]


def is_head_only(model: nn.Module) -> bool:
    """Return whether training changes the classifier alone, so that features stay what they are.

    Nothing before the classifier is tuned or stochastic, and a step has one pass.
    """
    tuned = {parameter for parameter in model.parameters() if parameter.requires_grad}
    return (
        tuned == set(find_head(model).parameters())
        and isinstance(model.get_classifier(), nn.Module)  # and not several, of other features each
        and attachment(model).method.passes == 1
        and not any(is_stochastic(module) for module in model.modules())
    )


def compute_features(model: nn.Module, images: Images, precision: str = "float32") -> Tensor:
    """Return what the classifier gets of each view and image, (views, images, width), float32, on the CPU.

    Images that are not augmented, or not in training, have one view.
    """
    model.eval()
    views = images.views or 1

    def compute(size: int) -> Tensor:
        with torch.inference_mode(), autocast(images.device, precision):
            parts = [
                model.forward_head(model.forward_features(batch), pre_logits=True).float().cpu()
                for view in range(views)
                for batch, _ in images.batches(size, epoch=view)
            ]
        return torch.cat(parts).unflatten(0, (views, len(images)))

    return in_large_batches(compute)


def cached_features(
    model: nn.Module, images: Images, folder: Path, decides: Any, precision: str = "float32"
) -> Features:
    """Return the features of a split, from the folder if they are there, else computed and kept there.

    Processes that want the same features wait for the one that computes them.

    Args:
        model: The backbone, frozen.
        images: The split, not augmented, or in a number of views.
        folder: Where features are kept, one file each, named by a digest.
        decides: All that decides the features, as plain data: data, split, backbone, precision.
        precision: "float32" or "bfloat16", as in `mosa.experiment.recipe.Recipe`.

    Raises:
        UserError: The folder cannot be written.
    """
    how = [FORMAT, str(torch.__version__), images.device.type, torch.get_num_threads(), decides]
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()
    path = folder / f"{digest[:32]}.safetensors"
    with locked(path):
        found = _load(path, (images.views or 1, len(images)))
        if found is None:
            found = compute_features(model, images, precision)
            with written_atomically(path) as temporary:
                save_file({"features": found.contiguous()}, temporary)
    return Features(found, images)


def _load(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """Return the features of a file; None: it is not there, or not whole, and is made again."""
    try:
        features = load_file(path)["features"]
    except Exception:  # whatever a broken file makes safetensors raise
        return None
    whole = features.dtype == torch.float32 and features.shape[:-1] == shape
    return features if whole else None
