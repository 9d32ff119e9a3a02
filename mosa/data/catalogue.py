"""Which benchmarks, groups and tasks there are. Standard library only: the workflow imports it."""

from mosa.base.errors import unknown
from mosa.data.task import Task

_RENDERED = "Rendered by this project from its generating factors."


def _demo(
    name: str, group: str, num_classes: int, description: str, source: str = _RENDERED, test: int = 1000
) -> Task:
    sizes = {"train": 800, "val": 200, "test": test}
    return Task(name, "demo", group, num_classes, sizes, description, source, image_size=32)


_DEMO = [
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


def _vtab(name: str, group: str, num_classes: int, test: int, *aliases: str) -> Task:
    sizes = {"train": 800, "val": 200, "test": test}
    source = "VTAB-1k (Zhai et al., arXiv 1910.04867) as lists and images"
    return Task(
        name, "vtab1k", group, num_classes, sizes, source=source, layout="vtab", folders=(name, *aliases)
    )


_VTAB = [
    _vtab("cifar", "natural", 100, 10000, "cifar100", "cifar_100"),
    _vtab("caltech101", "natural", 102, 6084),
    _vtab("dtd", "natural", 47, 1880),
    _vtab("oxford_flowers102", "natural", 102, 6149, "flowers102", "flowers"),
    _vtab("oxford_iiit_pet", "natural", 37, 3669, "pets", "pet", "oxford_pet"),
    _vtab("svhn", "natural", 10, 26032),
    _vtab("sun397", "natural", 397, 21750),
    _vtab("patch_camelyon", "specialized", 2, 32768, "camelyon"),
    _vtab("eurosat", "specialized", 10, 5400),
    _vtab("resisc45", "specialized", 45, 6300, "resisc"),
    _vtab("diabetic_retinopathy", "specialized", 5, 42670, "retinopathy"),
    _vtab("clevr_count", "structured", 8, 15000),
    _vtab("clevr_dist", "structured", 6, 15000, "clevr_distance"),
    _vtab("dmlab", "structured", 6, 22735),
    _vtab("kitti", "structured", 4, 711),
    _vtab("dsprites_loc", "structured", 16, 73728, "dsprites_position"),
    _vtab("dsprites_ori", "structured", 16, 73728, "dsprites_orientation"),
    _vtab("smallnorb_azi", "structured", 18, 12150, "smallnorb_azimuth"),
    _vtab("smallnorb_ele", "structured", 9, 12150, "smallnorb_elevation"),
]

_CROPPED = {"resize": "shorter", "augment": "crop_flip"}


def _fgvc(name: str, num_classes: int, sizes: tuple[int, int, int], *folders: str) -> Task:
    return Task(
        name, "fgvc", "fine_grained", num_classes, dict(zip(("train", "val", "test"), sizes, strict=True)),
        source="The original archive, with the splits of VPT (Jia et al., arXiv 2203.12119)", layout="fgvc",
        folders=folders, final_train="train", **_CROPPED,
    )  # fmt: skip


_FGVC = [
    _fgvc("cub", 200, (5394, 600, 5794), "CUB_200_2011"),
    _fgvc("nabirds", 555, (21536, 2393, 24633), "nabirds"),
    _fgvc("flowers", 102, (1020, 1020, 6149), "OxfordFlower", "OxfordFlowers"),
    _fgvc("dogs", 120, (10800, 1200, 8580), "Stanford-dogs", "StanfordDogs"),
    _fgvc("cars", 196, (7329, 815, 8041), "Stanford-cars", "StanfordCars"),
]
_MULTITASK = Task(
    "fgvc", "multitask", "fine_grained", sum(task.num_classes for task in _FGVC),
    {split: sum(task.sizes[split] for task in _FGVC) for split in ("train", "val", "test")},
    "The five FGVC data sets under one classifier.", _FGVC[0].source, layout="union",
    members=tuple(task.full_name for task in _FGVC), final_train="train", **_CROPPED,
)  # fmt: skip


def _general(name: str, num_classes: int, train: int, val: int, test: int, layout: str, folder: str) -> Task:
    return Task(
        name, "general", "general", num_classes, {"train": train, "val": val, "test": test},
        source="The original archive, as torchvision unpacks it", layout=layout, folders=(folder,),
        **_CROPPED,
    )  # fmt: skip


# Without an official val, a tenth of train, class by class.
_GENERAL = [
    _general("cifar100", 100, 45000, 5000, 10000, "cifar100", "cifar-100-python"),
    _general("aircraft", 100, 3334, 3333, 3333, "aircraft", "fgvc-aircraft-2013b"),
    _general("food101", 101, 68175, 7575, 25250, "food101", "food-101"),
]

_TASKS = [*_DEMO, *_VTAB, *_FGVC, *_GENERAL, _MULTITASK]
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
