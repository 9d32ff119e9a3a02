"""What a job asks of a cluster: memory and time of runs and searches, at rates that most machines exceed."""

from collections.abc import Mapping
from typing import Any

from mosa.data.task import Task
from mosa.experiment.cost import assumed_rate, image_passes, searched_options, size_class
from mosa.experiment.space import count_trainings
from mosa.experiment.specification import Specification

_GIGABYTES = {"micro": 1, "small": 1, "base": 8, "large": 16}
_UNKNOWN = 60  # minutes of a task whose size is not known before it is read
_START = 10  # minutes, for whatever comes before and after


def memory_gigabytes(specification: Specification, attempt: int = 1) -> int:
    """Return the memory of the host that a run asks for: more for large backbones, and with every attempt."""
    return _GIGABYTES[size_class(specification)] * attempt


def run_minutes(
    specification: Specification,
    task: Task,
    gpu: bool,
    attempt: int = 1,
    tune: Mapping[str, Any] | None = None,
) -> float:
    """Return the time that a run asks for: twice what its images take at a slow machine's rate."""
    space = searched_options(tune, specification.variant)
    return _START + attempt * 2 * _minutes(specification, task, gpu, space)


def search_minutes(
    specification: Specification, task: Task, gpu: bool, tune: Mapping[str, Any], attempt: int = 1
) -> float:
    """Return the time that all trials of a search ask for."""
    epochs = specification.training.epochs
    trainings = count_trainings(tune, specification)
    share = sum(models * length for models, length in trainings) / epochs
    space = searched_options(tune, specification.variant)
    return _START + attempt * 2 * share * _minutes(specification, task, gpu, space)


def _minutes(specification: Specification, task: Task, gpu: bool, space: Mapping[str, Any]) -> float:
    if not task.sizes:
        return _UNKNOWN
    images = image_passes(specification, task, space=space) + task.sizes["test"] / 3
    return images / assumed_rate(specification, gpu) / 60
