"""What a job asks of a cluster: memory and time of runs and searches, at rates that most machines exceed."""

import re
from collections.abc import Mapping
from typing import Any

from mosa.data.task import Task
from mosa.experiment.plan import image_passes
from mosa.experiment.space import count_trainings
from mosa.experiment.specification import Specification

_LARGE = re.compile("large|huge|giant")  # backbones
_SMALL_IMAGES = 32  # pixels
_GIGABYTES = {"small": 1, "base": 8, "large": 16}
_RATE = {"small": 100.0, "base": 2.0, "large": 0.5}  # images per second and core
_RATE_ON_GPU = {"small": 100.0, "base": 120.0, "large": 30.0}
_UNKNOWN = 60  # minutes of a task whose size is not known before it is read
_START = 10  # minutes, for whatever comes before and after


def _size(specification: Specification) -> str:
    backbone = specification.backbone
    if backbone.image_size is not None and backbone.image_size <= _SMALL_IMAGES:
        return "small"
    return "large" if _LARGE.search(backbone.architecture) else "base"


def memory_gigabytes(specification: Specification, attempt: int = 1) -> int:
    """Return the memory of the host that a run asks for: more for large backbones, and with every attempt."""
    return _GIGABYTES[_size(specification)] * attempt


def run_minutes(specification: Specification, task: Task, gpu: bool, attempt: int = 1) -> float:
    """Return the time that a run asks for: twice what its images take at a slow machine's rate."""
    return _START + attempt * 2 * _minutes(specification, task, gpu)


def search_minutes(
    specification: Specification, task: Task, gpu: bool, tune: Mapping[str, Any], attempt: int = 1
) -> float:
    """Return the time that all trials of a search ask for."""
    epochs = specification.training.epochs
    trainings = count_trainings(tune, specification.variant, epochs)
    share = sum(models * length for models, length in trainings) / epochs
    return _START + attempt * 2 * share * _minutes(specification, task, gpu)


def _minutes(specification: Specification, task: Task, gpu: bool) -> float:
    if not task.sizes:
        return _UNKNOWN
    rate = (_RATE_ON_GPU if gpu else _RATE)[_size(specification)]
    return (image_passes(specification, task) + task.sizes["test"] / 3) / rate / 60
