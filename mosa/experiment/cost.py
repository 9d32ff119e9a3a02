"""What a training takes: forward passes of images, and the rates that are assumed until one is measured."""

import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from mosa.data.task import Task
from mosa.experiment.protocol import STAGES
from mosa.experiment.specification import BUILTIN_CARDS, Specification

_SECOND = ("consistency", "second_pass", "feature_consistency")  # terms of the loss that need a second pass
_LARGE = re.compile("large|huge|giant")  # backbones
_SMALL_IMAGES = 32  # pixels
_RATE = {"micro": 250.0, "small": 100.0, "base": 2.0, "large": 0.5}  # images per second and core
_RATE_ON_GPU = {"micro": 250.0, "small": 100.0, "base": 120.0, "large": 30.0}


def image_passes(
    specification: Specification,
    task: Task,
    stage: str | None = None,
    folds: int | None = None,
    space: Mapping[str, Any] | None = None,
) -> float:
    """Return the forward passes of images that a training takes; 0 where the task's size is unknown.

    Args:
        specification: What is trained.
        task: Its task.
        stage: "final" or "selection"; None: the specification's.
        folds: Parts of train + val, of which a trial of a search trains on all but one; None: not in folds.
        space: Options that are searched: what costs most of them counts; None: none.
    """
    training = specification.training
    split = "trainval" if folds else STAGES[stage or specification.stage][0] or task.final_train
    parts = ("train", "val") if split == "trainval" else (split,)
    images = sum(task.sizes.get(part, 0) for part in parts)
    if folds:
        images -= images / folds
    return images * training.fraction * training.epochs * _most_passes(specification.options, space or {})


def searched_options(tune: Mapping[str, Any] | None, variant: str) -> Mapping[str, Any]:
    """Return the options of a variant that a loaded config searches; none without `tune`."""
    space = tune["variants"].get(variant) if tune else None
    return space["options"] if space else {}


def _most_passes(options: Mapping[str, Any], space: Mapping[str, Any]) -> int:
    tried = {
        name: values if isinstance(values, list) else [values["high"]]
        for name, values in space.items()
        if name in (*_SECOND, "every_expert", "experts")
    }
    made = (dict(zip(tried, values, strict=True)) for values in product(*tried.values()))
    return max(_passes({**options, **chosen}) for chosen in made)


def _passes(options: Mapping[str, Any]) -> int:
    """Return the forward passes of a step; as `mosa.peft.Method.passes`, which needs torch."""
    if options.get("every_expert"):
        return options["experts"]
    return 2 if any(options[name] for name in _SECOND) else 1


def size_class(specification: Specification) -> str:
    """Return how large a backbone is: "micro" (of this package), "small", "base" or "large"."""
    backbone = specification.backbone
    if backbone.architecture in BUILTIN_CARDS:
        return "micro"
    if backbone.image_size is not None and backbone.image_size <= _SMALL_IMAGES:
        return "small"
    return "large" if _LARGE.search(backbone.architecture) else "base"


def assumed_rate(specification: Specification, gpu: bool) -> float:
    """Return image-passes per second of a core or GPU, as most machines exceed it."""
    return (_RATE_ON_GPU if gpu else _RATE)[size_class(specification)]
