"""The predictions of a run: its logits on the evaluated split, in a safetensors file beside the record.

Tensors: `logits` (images, classes), `labels` (images,) int32, and of a union `sets` (images,) int32. Names of
images and classes are the same for all runs on the same data, and lie in a file that these share.

Logits are float32 where that takes 50 MiB at most, as they were computed: every metric of the record is
reproduced to the last bit. Of a larger split they are float16, minus the largest of each image; top-1, top-5
and the accuracy of each class stay exactly what they were, and NLL and ECE change by rounding, relatively
2^-11 of a logit's distance to the largest. No torch.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mosa.base.errors import UserError, unreadable
from mosa.base.files import digest_of_file, written_atomically

FORMAT = "mosa-predictions-1"
SMALL = 50 << 20  # bytes of logits that a run keeps unasked
LARGEST_NAMES = 64 << 20  # bytes of the names of images that are read
_KEY, _RANKED = "mosa.predictions", 6  # logits whose order decides top-5


class NotKept(UserError):
    """A run has no predictions; the sentence says why, and what to do."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a run said of every image of the evaluated split.

    Attributes:
        logits: float32 (images, classes).
        labels: The right classes, int64 (images,).
        ids: A name for each image: its path below the task's folder or its place in a list, where the pack
            knows them; else its split and number, such as "test/17".
        classes: A name for each class; its number, where the data have no names.
        split: "test" or "val".
        exact: Whether logits are as they were computed; else they are rounded to float16.
        sets: Of a union the number of each image's data set, int64 (images,); else None.
        set_names: Names of these sets.
    """

    logits: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    split: str
    exact: bool = True
    sets: np.ndarray | None = None
    set_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """The class with the highest logit of each image, int64 (images,)."""
        return self.logits.argmax(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is classified right, bool (images,)."""
        return self.predicted == self.labels

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, float64 (images, classes)."""
        return softmax(self.logits)

    def contradicted(self, metrics: Mapping[str, Any]) -> str | None:
        """Return what of the metrics of a record does not follow from these predictions; None: all does.

        Accuracies, and the NLL where logits are as they were computed. Of equal logits, either may be ranked
        first.
        """
        if metrics["examples"] != len(self):
            return f"{len(self)} images, the record {metrics['examples']}"
        best = self.logits.max(axis=1, keepdims=True)
        tied = 100 * float(((self.logits == best).sum(axis=1) > 1).mean())
        found = {"top1": (100 * float(self.correct.mean()), tied)}
        if not tied:
            classes = np.unique(self.labels)
            shares = [self.correct[self.labels == label].mean() for label in classes]
            found["mean_per_class"] = 100 * float(np.mean(shares)), 0.0
        if self.exact and np.isfinite(self.logits).all():
            shifted = self.logits.astype(np.float64) - best
            losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(self)), self.labels]
            found["nll"] = float(losses.mean()), 1e-4 * float(losses.mean())
        for name, (value, slack) in found.items():
            if not abs(value - metrics[name]) <= slack + 1e-6:
                return f"{name} {value:.6g}, the record {metrics[name]:.6g}"
        return None


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def form_of(images: int, classes: int, wanted: bool | str) -> str | None:
    """Return how logits are kept.

    Args:
        images: Number of evaluated images.
        classes: Number of classes.
        wanted: True; False; or "auto": only where they take `SMALL` bytes at most.

    Returns:
        "float32", "float16", or None for not at all.
    """
    size = 4 * images * classes
    if wanted is False:
        return None
    if size <= SMALL:
        return "float32"
    return "float16" if wanted is True or size // 2 <= SMALL else None


def rounded(logits: np.ndarray) -> np.ndarray:
    """Return logits minus the largest of each image, float16, whose six best have the order that they had.

    Args:
        logits: float32 (images, classes).
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    kept = np.clip(shifted, -65504, 0).astype(np.float16)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :_RANKED]
    before, after = np.take_along_axis(logits, best, 1), np.take_along_axis(kept, best, 1)
    for rank in range(best.shape[1] - 2, -1, -1):  # from the worst up: what was above stays above
        above = np.nextafter(after[:, rank + 1], np.float16(np.inf))
        raised = np.where(
            before[:, rank] > before[:, rank + 1], np.maximum(after[:, rank], above), after[:, rank + 1]
        )
        after[:, rank] = raised
    np.put_along_axis(kept, best, after, 1)
    return kept


def write_images(folder: Path, ids: Sequence[str] | None, classes: Sequence[str] | None) -> str:
    """Write the names of images and classes into a file that is named by its content, unless it is there.

    Args:
        folder: Where the file lies, which all runs on the task share.
        ids: A name for each evaluated image; None: not known.
        classes: A name for each class; None: they have none.

    Returns:
        The name of the file; "": there is nothing to write.
    """
    if not ids and not classes:
        return ""
    text = json.dumps({"ids": list(ids or ()), "classes": list(classes or ())}, ensure_ascii=False) + "\n"
    path = folder / f"images-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json.gz"
    if not path.is_file():
        with written_atomically(path) as temporary:
            temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
    return path.name


def write_predictions(
    path: Path,
    split: str,
    logits: np.ndarray | None,
    labels: np.ndarray,
    *,
    images: Path | None = None,
    sets: np.ndarray | None = None,
    set_names: Sequence[str] = (),
    left_out: str = "",
) -> str:
    """Write predictions, atomically; the same give the same bytes.

    Args:
        path: The file, see `mosa.data.task.kept_path`.
        split: Name of the evaluated split.
        logits: float32, or float16 as `rounded` returns them (images, classes); None: they are not kept.
        labels: Labels (images,).
        images: The file of `write_images`; None: nothing has a name.
        sets, set_names: As in `Predictions`.
        left_out: Why there are no logits.

    Returns:
        SHA-256 of the file.
    """
    tensors = {"labels": labels.astype(np.int32)}
    if logits is not None:
        tensors["logits"] = np.ascontiguousarray(logits)
    if sets is not None:
        tensors["sets"] = sets.astype(np.int32)
    described = {
        "format": FORMAT,
        "split": split,
        "images": os.path.relpath(images, path.parent) if images else "",
        "sets": list(set_names),
        "left_out": left_out,
    }
    with written_atomically(path) as temporary:
        # Not by safetensors' own writer, whose error for a full disk is none of the system's.
        temporary.write_bytes(save(tensors, metadata={_KEY: json.dumps(described, sort_keys=True)}))
        return digest_of_file(temporary)


def read_predictions(path: Path) -> Predictions:
    """Read a file of `write_predictions`.

    Raises:
        NotKept: It says why it has no logits.
        UserError: It cannot be read, or is none.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not readable predictions ({unreadable(error)}); repeat the run") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise UserError(f"{path}: no predictions of format {FORMAT}; repeat the run")
    problem = _problem(described, tensors)
    if problem:
        raise UserError(f"{path}: no predictions of a run, {problem}; repeat the run")
    if "logits" not in tensors:
        raise NotKept(f"{path}: {described['left_out']}")
    logits, labels, split = tensors["logits"], tensors["labels"].astype(np.int64), described["split"]
    ids: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    mark = ""
    if described["images"]:
        images = path.parent / described["images"]
        if images.is_file():
            ids, classes = read_images(images, logits.shape)
        else:
            mark = "#"  # so that no number is taken for a name that is not here
    return Predictions(
        logits.astype(np.float32),
        labels,
        ids or tuple(f"{split}/{number}" for number in range(len(labels))),
        classes or tuple(f"{mark}{number}" for number in range(logits.shape[1])),
        split,
        logits.dtype == np.float32,
        tensors["sets"].astype(np.int64) if "sets" in tensors else None,
        tuple(described["sets"]),
    )


def contradiction(path: Path, metrics: Mapping[str, Any]) -> str | None:
    """Return in what a file of predictions contradicts the metrics of its record; None: in nothing.

    Raises:
        UserError: It cannot be read, or is none.
    """
    try:
        found = read_predictions(path).contradicted(metrics)
    except NotKept:
        return None
    return found and (
        f"{path.name} gives {found}: they are not of one run; delete the record and run the workflow again"
    )


def _problem(described: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Return why a file is not as `write_predictions` writes it; "" if it is."""
    wrong = [key for key in ("split", "images", "left_out") if not isinstance(described.get(key), str)]
    names = described.get("sets")
    if wrong or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return f"its metadata have no valid {[*wrong, 'sets'][0]!r}"
    if not {"labels"} <= tensors.keys() <= {"labels", "logits", "sets"}:
        return f"it has the tensors {', '.join(sorted(tensors)) or 'none'}"
    labels, logits = tensors["labels"], tensors.get("logits")
    if labels.dtype != np.int32 or labels.ndim != 1 or not len(labels):
        return f"its labels are {labels.dtype} {labels.shape}"
    if logits is not None:
        if logits.dtype not in (np.float32, np.float16) or logits.ndim != 2 or len(logits) != len(labels):
            return f"its logits are {logits.dtype} {logits.shape} for {len(labels)} labels"
        if labels.min() < 0 or labels.max() >= logits.shape[1]:
            return f"it has labels from {labels.min()} to {labels.max()} for {logits.shape[1]} classes"
        if np.isnan(logits).any():
            return "it has logits that are not numbers"
    sets = tensors.get("sets", np.zeros(len(labels), np.int32))
    if sets.shape != labels.shape or (names and not 0 <= sets.min() <= sets.max() < len(names)):
        return f"its sets do not fit {len(labels)} labels and {len(names)} names"
    return ""


def read_images(path: Path, shape: Sequence[int | None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the names of images and classes from a file of `write_images`, and verify them.

    Args:
        path: The file.
        shape: How many images and classes there are; None: any number.

    Returns:
        Names of images, and of classes; empty for those that have none.

    Raises:
        UserError: The file cannot be read, was changed, or has other numbers of names.
    """
    try:
        with gzip.open(path) as file:
            text = file.read(LARGEST_NAMES + 1)
        if len(text) > LARGEST_NAMES:
            raise ValueError(f"more than {LARGEST_NAMES >> 20} MiB unpacked")
        content: Mapping[str, Any] = json.loads(text)
        names = tuple(content["ids"]), tuple(content["classes"])
        if not all(isinstance(each, str) for both in names for each in both):
            raise ValueError("a name is no text")
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: names of images cannot be read ({unreadable(error)}); delete it") from None
    if f"images-{hashlib.sha256(text).hexdigest()[:16]}.json.gz" != path.name:
        raise UserError(f"{path}: was changed after it was written; delete it")
    for found, number in zip(names, shape, strict=True):
        if found and number is not None and len(found) != number:
            raise UserError(f"{path}: has {len(found)} names for {number}; delete it")
    return names
