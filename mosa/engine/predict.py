"""Predicting a user's own images with a model that a run kept."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from mosa.backbones.build import build_backbone
from mosa.base.errors import UserError, unreadable
from mosa.base.files import digest_of_file
from mosa.data.discover import images_below
from mosa.data.images import read_image
from mosa.data.naming import IMAGE_SUFFIXES
from mosa.data.predictions import read_images
from mosa.data.splits import draw_crop
from mosa.data.task import kept_path
from mosa.engine.loop import autocast
from mosa.engine.machine import CPU, Machine
from mosa.experiment.plugins import use_for
from mosa.experiment.specification import Specification
from mosa.peft import attach, build_method, load_tuned, merge
from mosa.records import load_record

_COLUMNS = ("class", "probability")
_MODEL = ".model.safetensors"


class Classifier(NamedTuple):
    """A model that a run kept, and how its images are prepared.

    Attributes:
        model: The merged model, in evaluation mode, on its device.
        classes: A name for each class.
        size: Side of the square input, in pixels.
        resize: "direct" or "shorter", see `mosa.data.task.Task`.
        interpolation: One of `mosa.data.task.INTERPOLATIONS`.
        mean, std: Of the normalisation, per channel, for pixels in 0 ... 1.
        precision: "float32" or "bfloat16".
        device: Where the model is.
    """

    model: nn.Module
    classes: tuple[str, ...]
    size: int
    resize: str
    interpolation: str
    mean: list[float]
    std: list[float]
    precision: str
    device: torch.device


class Predicted(NamedTuple):
    """What is predicted of an image.

    Attributes:
        image: The file.
        best: Names of the best classes with their probabilities, the best first; empty if it cannot be read.
        problem: Why it cannot be read; "": it can.
    """

    image: Path
    best: list[tuple[str, float]]
    problem: str = ""


def load_classifier(path: Path, machine: Machine = CPU) -> Classifier:
    """Load the model of a run, as it was evaluated.

    Args:
        path: The record, or the model beside it (seed<n>.model.safetensors).
        machine: Where it is to run.

    Raises:
        UserError: The run kept no model, or the model or the backbone's weights are missing or others.
    """
    given = path.name.endswith(_MODEL)
    source = path.with_name(path.name.removesuffix(_MODEL) + ".json") if given else path
    if given and not source.is_file():
        raise UserError(f"{path}: its record {source.name} is not beside it, which says what the model is")
    if source.suffix != ".json":
        raise UserError(
            f"{path}: is neither a record (seed<n>.json) nor a model that a run kept (seed<n>{_MODEL})"
        )
    record = load_record(source)
    file = _check_model(record, source)
    specification = Specification.model_validate(record["specification"])
    use_for(specification, measures=False)
    device = machine.begin()
    model = _build(record, specification, file)
    data, backbone, images = record["data"], record["backbone"], record["kept"]["images"]
    classes: tuple[str, ...] = ()
    mark = ""
    if images and (source.parent / images).is_file():
        classes = read_images(source.parent / images, (None, data["classes"]))[1]
    elif images:
        mark = "#"  # so that no number is taken for a name that is not here
    return Classifier(
        model.to(device).eval(),
        classes or tuple(f"{mark}{number}" for number in range(data["classes"])),
        backbone["image_size"],
        data["resize"],
        data["interpolation"] or "bicubic",
        backbone["mean"],
        backbone["std"],
        specification.training.precision,
        device,
    )


def _check_model(record: dict[str, Any], source: Path) -> Path:
    """Return the model's file, if the run kept one and it is that."""
    digest, file = record["kept"]["model"], kept_path(source, "model")
    if digest is None:
        raise UserError(
            f"{source}: the run kept no model; set keep: {{model: true}}, delete the record, and run the "
            "workflow again (or `mosa train --keep-model`)"
        )
    if not file.is_file():
        raise UserError(
            f"{file}: the model of the record is not here; copy it beside the record, which was made with it"
        )
    found = digest_of_file(file)
    if found != digest:
        raise UserError(
            f"{file}: not the model of the record (SHA-256 {found[:16]}, expected {digest[:16]}); copy it "
            "again"
        )
    return file


def _build(record: dict[str, Any], specification: Specification, file: Path) -> nn.Module:
    """Build the backbone, bring it into the form that the file was saved in, and load and merge it."""
    wanted = specification.backbone

    def build() -> nn.Module:
        model, backbone = build_backbone(
            wanted.architecture,
            wanted.weights,
            record["data"]["classes"],
            record["seed"],
            kind=wanted.kind,
            image_size=wanted.image_size,
            normalization=wanted.normalization,
        )
        if backbone.sha256 != record["backbone"]["sha256"]:
            raise UserError(
                f"{wanted.weights}: not the weights of the record (SHA-256 {backbone.sha256}, expected "
                f"{record['backbone']['sha256']}); put that file back"
            )
        return attach(model, method, seed=record["seed"], verify=False, data=state)

    method = build_method(specification.method, **specification.options)
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({unreadable(error)}); copy it again") from None
    model = merge(build())
    if hasattr(model, "peft"):
        return load_tuned(model, file)
    return merge(load_tuned(build(), file))  # merging leaves nothing attached: the file is from before it


def find_images(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Return image files, and those below folders by name, each once; and what to say of other files.

    Returns:
        The files; and a sentence for each folder with files of other formats.

    Raises:
        UserError: A path is not there, or a folder has no image.
    """
    found: dict[Path, None] = {}
    unread = []
    for path in paths:
        if path.is_dir():
            inside, others = images_below(path)
            if not inside:
                raise UserError(others or f"{path}: has no images ({', '.join(IMAGE_SUFFIXES)})")
            found.update(dict.fromkeys(inside))
            unread += [others] if others else []
        elif path.exists():
            found[path] = None
        else:
            raise UserError(f"{path}: no such file or folder")
    return list(found), unread


def classify(
    classifier: Classifier, images: list[Path], top: int = 5, batch_size: int = 32, threads: int = 1
) -> Iterator[Predicted]:
    """Yield what is predicted of each image, in order, with a progress bar on a terminal.

    Args:
        classifier: The model.
        images: Files; one that cannot be read is named, and the others are done.
        top: Classes of each image.
        batch_size: Images that are computed at once.
        threads: Threads that read.
    """
    top = min(top, len(classifier.classes))
    bar = tqdm(total=len(images), unit="image", desc="predict", disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            pixels = list(pool.map(lambda path: _read(classifier, path), chunk))
            good = [one for one in pixels if not isinstance(one, str)]
            best = iter(_best(classifier, np.stack(good), top) if good else [])
            for path, one in zip(chunk, pixels, strict=True):
                yield Predicted(path, [], one) if isinstance(one, str) else Predicted(path, next(best))
            bar.update(len(chunk))


def _read(classifier: Classifier, path: Path) -> np.ndarray | str:
    """Return an image as the evaluation shows it, uint8 (size, size, 3), or why it cannot be read."""
    size = classifier.size
    try:
        pixels = read_image(path, size, classifier.resize, classifier.interpolation)
    except UserError as error:
        return str(error)
    top, left, _ = draw_crop(pixels.shape[:2], size, None)
    return pixels[top : top + size, left : left + size]


def _best(classifier: Classifier, pixels: np.ndarray, top: int) -> list[list[tuple[str, float]]]:
    device = classifier.device
    mean, std = (
        255 * torch.tensor(values, device=device).view(3, 1, 1)
        for values in (classifier.mean, classifier.std)
    )
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode(), autocast(device, classifier.precision):
        logits: Tensor = classifier.model(images.float().sub_(mean).div_(std)).float().cpu()
    values, numbers = logits.double().softmax(-1).topk(top, dim=-1)
    names = classifier.classes
    return [
        [(names[number], value) for number, value in zip(row.tolist(), shares.tolist(), strict=True)]
        for row, shares in zip(numbers, values, strict=True)
    ]


def as_text(found: Iterable[Predicted], form: str) -> str:
    """Return predictions as CSV or JSON.

    Args:
        found: The predictions.
        form: "csv": a row for each image that was read, with image, class, probability, class_2,
            probability_2, ...; "json": a list of {"image", "predictions": [{"class", "probability"}]}, or
            {"image", "error"}.
    """
    found = list(found)
    if form == "json":
        listed = [
            {"image": str(one.image)}
            | (
                {"error": one.problem}
                if one.problem
                else {"predictions": [{"class": name, "probability": share} for name, share in one.best]}
            )
            for one in found
        ]
        return json.dumps(listed, indent=1, ensure_ascii=False) + "\n"
    number = max((len(one.best) for one in found), default=0)
    titles = [f"{title}_{rank}" if rank > 1 else title for rank in range(1, number + 1) for title in _COLUMNS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *titles])
    for one in found:
        if not one.problem:
            writer.writerow(
                [one.image, *(cell for name, share in one.best for cell in (name, f"{share:.6f}"))]
            )
    return text.getvalue()
