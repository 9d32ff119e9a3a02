"""What a run keeps beside its record, where it is asked to: its predictions, and the tuned model."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mosa.base.errors import UserError
from mosa.base.files import digest_of_file, written_atomically
from mosa.data.metrics import METRICS
from mosa.data.predictions import SMALL, form_of, rounded, write_images, write_predictions
from mosa.data.task import kept_path
from mosa.peft import save_tuned

_EXACT = ("top1", "top5", "mean_per_class")  # metrics that rounded logits may not change


@dataclass(frozen=True)
class Keep:
    """What is kept; nothing of it changes a result.

    Attributes:
        predictions: True, False, or "auto": where they are small (see `mosa.data.predictions`).
        model: Whether the tuned model is.
        events: Whether TensorBoard events are written, see `mosa.engine.events`.
        val: Whether val is evaluated after every epoch, where it is not trained on.
    """

    predictions: bool | str = False
    model: bool = False
    events: bool = False
    val: bool = False


NOTHING = Keep()


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What was evaluated.

    Attributes:
        split: "test" or "val".
        logits: float32 (images, classes), on the CPU.
        labels: int64 (images,), on the CPU.
        names: A name for each image; None: they have none.
        classes: A name for each class; None: they have none.
        sets: Of a union the number of each image's data set (images,); else None.
        set_names: Names of these sets.
    """

    split: str
    logits: Tensor
    labels: Tensor
    names: list[str] | None = None
    classes: list[str] | None = None
    sets: np.ndarray | None = None
    set_names: tuple[str, ...] = ()


def unmerged(model: nn.Module, keep: Keep) -> bytes:
    """Return the file of `save_tuned` of a model that is about to be merged; nothing if no model is kept."""
    if not keep.model:
        return b""
    return _saved(model)


def _saved(model: nn.Module) -> bytes:
    """Return the file of `save_tuned`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tuned.safetensors"
        save_tuned(model, path)
        return path.read_bytes()


def keep_files(
    record: Path, keep: Keep, found: Evaluated, model: nn.Module, before: bytes, folder: Path
) -> dict[str, Any]:
    """Write what is kept of a run.

    Args:
        record: Where its record will be.
        keep: What is kept.
        found: What was evaluated.
        model: The merged model.
        before: What `unmerged` returned.
        folder: Folder of what all runs on the task share.

    Returns:
        What the record says of it: `predictions` and `model`, the SHA-256 of these files, and `images`, the
        path of the names of images and classes relative to the record; None for what is not kept.
    """
    kept: dict[str, Any] = {"predictions": None, "model": None, "images": None}
    for what, wanted in (("predictions", keep.predictions), ("model", keep.model)):
        if not wanted:  # what an earlier run left would seem to be this one's
            _drop(kept_path(record, what))
    if not (keep.predictions or keep.model):
        return kept
    name = write_images(folder, found.names, found.classes)
    images = folder / name if name else None
    if images is not None:
        kept["images"] = Path(os.path.relpath(images, record.parent)).as_posix()
    if keep.predictions:
        kept["predictions"] = _keep_predictions(kept_path(record, "predictions"), keep, found, images)
    if keep.model:
        path = kept_path(record, "model")
        with written_atomically(path) as temporary:
            # Without a method, merging left nothing but weights of the backbone, which take more room.
            temporary.write_bytes(_saved(model) if hasattr(model, "peft") else before)
            kept["model"] = digest_of_file(temporary)
    return kept


def _drop(path: Path) -> None:
    try:
        if path.exists():
            path.unlink()
    except OSError as error:
        raise UserError(f"{path}: cannot be deleted ({error.strerror})") from None


def _keep_predictions(path: Path, keep: Keep, found: Evaluated, images: Path | None) -> str:
    logits, form, left_out = found.logits.numpy(), form_of(*found.logits.shape, keep.predictions), ""
    if form == "float16":
        small = rounded(logits)
        if _is_as_accurate(small, found):
            logits = small
        elif keep.predictions is not True:
            form = None
    if form is None:
        left_out = (
            f"its predictions are not kept, as they take {logits.nbytes / 2**20:.0f} MiB and "
            f"keep.predictions: auto keeps {SMALL >> 20}; set it to true and repeat the run"
        )
        logits = None
    return write_predictions(
        path, found.split, logits, found.labels.numpy(), images=images, sets=found.sets,
        set_names=found.set_names, left_out=left_out,
    )  # fmt: skip


def _is_as_accurate(small: np.ndarray, found: Evaluated) -> bool:
    logits = torch.from_numpy(small).float()
    metrics = [METRICS[name].compute for name in _EXACT]
    return all(of(logits, found.labels) == of(found.logits, found.labels) for of in metrics)
