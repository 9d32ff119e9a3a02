"""Which benchmarks, groups and tasks there are. Standard library only: the workflow imports it."""

from dataclasses import dataclass

from mosa.errors import unknown


@dataclass(frozen=True)
class Task:
    """One classification task of a benchmark.

    Attributes:
        name: Name within the benchmark.
        benchmark: Name of the benchmark.
        group: Group of tasks that are averaged together.
        num_classes: Number of classes; labels are 0 ... num_classes - 1.
        sizes: Number of images of the splits train, val and test.
        image_size: Side of the square images, in pixels.
        description: What is to be told apart, in one sentence.
        source: Where the images come from.
        metric: What is reported; top-1 accuracy, in percent.
        version: Counted up whenever the images change, so that packs are made again.
    """

    name: str
    benchmark: str
    group: str
    num_classes: int
    sizes: dict[str, int]
    image_size: int
    description: str
    source: str
    metric: str = "top1"
    version: int = 1

    @property
    def full_name(self) -> str:
        """The name that is unique over benchmarks, such as "demo/digits"."""
        return f"{self.benchmark}/{self.name}"


_RENDERED = "Rendered by this project from its generating factors."


def _demo(
    name: str, group: str, num_classes: int, description: str, source: str = _RENDERED, test: int = 1000
) -> Task:
    sizes = {"train": 800, "val": 200, "test": test}
    return Task(name, "demo", group, num_classes, sizes, 32, description, source)


_TASKS = [
    _demo(
        "digits",
        "natural",
        10,
        "Handwritten digits, 8x8 pixels scaled to 32x32, in two colours.",
        source="scikit-learn's load_digits (UCI, Optical Recognition of Handwritten Digits, test part).",
        test=797,
    ),
    _demo("textures", "natural", 16, "Materials and patterns, in any two colours."),
    _demo("tissue", "specialized", 6, "Tissue-like slides by number, size, shape and order of their nuclei."),
    _demo(
        "location",
        "structured",
        16,
        "Horizontal position of a shape, in 16 bins; like dSprites, re-rendered.",
    ),
    _demo(
        "orientation",
        "structured",
        16,
        "Rotation of a shape over the full circle, in 16 bins; like dSprites, re-rendered.",
    ),
    _demo("count", "structured", 8, "Number of objects, 1 to 8."),
    _demo("flowers", "fine_grained", 24, "Parametric flowers of 24 close species."),
]
_BY_NAME = {task.full_name: task for task in _TASKS}


def list_benchmarks() -> list[str]:
    """Return the names of the benchmarks."""
    return list(dict.fromkeys(task.benchmark for task in _TASKS))


def list_groups(benchmark: str) -> list[str]:
    """Return the groups of a benchmark, in the order in which to show them.

    Raises:
        UserError: There is no such benchmark.
    """
    return list(dict.fromkeys(get_task(f"{benchmark}/{name}").group for name in list_tasks(benchmark)))


def list_tasks(benchmark: str) -> list[str]:
    """Return the tasks of a benchmark, by their names within it, in the order in which to show them.

    Raises:
        UserError: There is no such benchmark.
    """
    if benchmark not in list_benchmarks():
        raise unknown("benchmark", benchmark, list_benchmarks())
    return [task.name for task in _TASKS if task.benchmark == benchmark]


def get_task(full_name: str) -> Task:
    """Return a task by its full name, such as "demo/digits".

    Raises:
        UserError: There is no such task.
    """
    if full_name not in _BY_NAME:
        raise unknown("task", full_name, _BY_NAME)
    return _BY_NAME[full_name]
