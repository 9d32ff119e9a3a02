"""What a task is, and where its pack lies. Standard library only: the workflow imports it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mosa.base.errors import UserError

PACK_FORMAT = "mosa-pack-2"
RESIZES = ("direct", "shorter")
AUGMENTATIONS = ("none", "crop_flip")
INTERPOLATIONS = ("bicubic", "bilinear", "legacy_bilinear")  # the last without antialiasing
OWN = "own"  # the benchmark of the tasks that a config defines


@dataclass(frozen=True)
class Task:
    """One classification task of a benchmark.

    Attributes:
        name: Name within the benchmark.
        benchmark: Name of the benchmark.
        group: Group of tasks that are averaged together.
        num_classes: Number of classes; labels are 0 ... num_classes - 1. None: as the data say.
        sizes: Number of images of the splits train, val and test, as the literature has them.
        description: What is to be told apart, in one sentence.
        source: Where the images come from.
        layout: How the task lies on disk, a name in `mosa.data.layouts`; "rendered" comes with the package.
        folders: Names of its folder below the benchmark's root, the usual one first.
        members: Full names of the tasks that a union consists of.
        root: Folder of a user's own task.
        image_size: Side of the square images, in pixels; None: as the backbone wants them.
        resize: "direct" (straight to the square) or "shorter" (the shorter side to 256/224 of the size; then
            a crop).
        augment: "none" or "crop_flip" (random crop and horizontal flip while training).
        final_train: The split that final runs train on, "trainval" or "train".
        metric: The metric that tables report, a name in `mosa.data.metrics`.
        reader: Digest of the plugin that its layout is from; "": it is one of the package.
        version: Counted up whenever the images change, so that packs are made again.
    """

    name: str
    benchmark: str
    group: str
    num_classes: int | None
    sizes: dict[str, int] = field(default_factory=dict)
    description: str = ""
    source: str = ""
    layout: str = "rendered"
    folders: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    root: str | None = None
    image_size: int | None = None
    resize: str = "direct"
    augment: str = "none"
    final_train: str = "trainval"
    metric: str = "top1"
    reader: str = ""
    version: int = 1

    @property
    def full_name(self) -> str:
        """The name that is unique over benchmarks, such as "demo/digits"."""
        return f"{self.benchmark}/{self.name}"

    @property
    def on_disk(self) -> bool:
        """Whether its images are files of the user's."""
        return self.layout != "rendered"


def pack_name(task: Task, image_size: int, interpolation: str = "bicubic", content: str | None = None) -> str:
    """Return the path of a task's pack below the folder of packs.

    It holds a digest of everything that decides the pixels, so that whatever changes them makes a new pack.

    Args:
        task: The task.
        image_size: Side of the images that the backbone takes; a task with a size of its own keeps that.
        interpolation: One of `INTERPOLATIONS`.
        content: Identifies the files of a task on disk, see `mosa.data.content.task_content`. None for a
            rendered task, which has none, and where they are not known.
    """
    size = task.image_size or image_size
    decides = {
        name: value
        for name, value in asdict(task).items()
        if name in ("layout", "members", "resize", "version")
        # An own task whose content is known is the same wherever it lies.
        or (name == "root" and (content is None or task.benchmark != OWN))
        or (name == "reader" and value)
        or (name == "augment" and value != "none" and task.benchmark == OWN)  # fixed for all others
    }
    parts = [PACK_FORMAT, task.full_name, decides, size, interpolation]
    text = json.dumps(parts if content is None else [*parts, content], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{task.benchmark}/{task.name}-{size}-{digest}.safetensors"


def kept_path(record: Path, kind: str) -> Path:
    """Return where a run keeps something: seed0.predictions.safetensors beside seed0.json.

    Args:
        record: The record.
        kind: "predictions" or "model".
    """
    return record.with_name(f"{record.stem}.{kind}.safetensors")


def task_from_config(name: str, entry: Mapping[str, Any]) -> Task:
    """Build a user's own task from its entry under `tasks` in the config.

    Args:
        name: Name of the task within the benchmark `own`.
        entry: layout, root, and optionally group, resize, augment, metric and reader.

    Raises:
        UserError: The images are to be cropped, but are resized to the size of the crop.
    """
    task = Task(
        name, OWN, entry.get("group", OWN), None, source=f"The user's own, from {entry['root']}",
        layout=entry["layout"], root=str(entry["root"]), resize=entry.get("resize", "shorter"),
        augment=entry.get("augment", "none"), metric=entry.get("metric", "top1"),
        reader=entry.get("reader", ""),
    )  # fmt: skip
    if task.augment == "crop_flip" and task.resize != "shorter":
        raise UserError(
            f"tasks.{name}: augment 'crop_flip' needs room to crop; take resize 'shorter', or augment 'none'"
        )
    return task
