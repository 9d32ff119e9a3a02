"""What a config will cost: runs, image-passes, disk, and hours by the rates of runs that there are."""

import json
import shutil
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from mosa.base.grid import aligned
from mosa.base.words import count, room
from mosa.data.formats import count_own
from mosa.data.task import OWN, Task
from mosa.experiment.cost import assumed_rate, image_passes, searched_options
from mosa.experiment.expand import Run, config_tasks, expand, left_out
from mosa.experiment.failures import failures
from mosa.experiment.kept import lacking, predictions_gib
from mosa.experiment.space import count_trainings, search_path
from mosa.experiment.specification import Specification
from mosa.experiment.validation import methods_on_features
from mosa.experiment.workflow import Workflow

_ASSUMED = "~"  # before hours at an assumed rate
_UNKNOWN = "?"


@dataclass
class _Row:
    """Runs, those done, and what the others take.

    Attributes:
        assumed: Whether some hours are at an assumed rate.
        unknown: Whether there are runs of a task whose size is not known, which are not counted.
    """

    runs: int = 0
    done: int = 0
    passes: float = 0.0
    hours: float = 0.0
    assumed: bool = False
    unknown: bool = False

    def add(self, other: "_Row") -> None:
        self.runs, self.done = self.runs + other.runs, self.done + other.done
        self.passes, self.hours = self.passes + other.passes, self.hours + other.hours
        self.assumed, self.unknown = self.assumed or other.assumed, self.unknown or other.unknown

    def cells(self) -> tuple[str, str, str, str]:
        least = ">= " if self.unknown else ""
        passes = least + f"{self.passes:,.0f}" if self.passes or not self.unknown else _UNKNOWN
        hours = f"{least}{_ASSUMED * self.assumed}{self.hours:.1f}" if passes != _UNKNOWN else _UNKNOWN
        return str(self.runs), str(self.done), passes, hours


class Rates:
    """Image-passes per second of a core or GPU: as records have them, else as assumed."""

    def __init__(self, results: Path, runs: list[Run], gpu: bool) -> None:
        self.gpu, self.measured = gpu, _measured_rates(results, runs, gpu)

    def row(self, specification: Specification, passes: float) -> _Row:
        """Return what a number of image-passes takes."""
        backbone = specification.backbone.name
        rate = self.measured.get((backbone, specification.variant)) or self.measured.get((backbone, ""))
        hours = passes / (rate or assumed_rate(specification, self.gpu)) / 3600
        return _Row(passes=passes, hours=hours, assumed=not rate and passes > 0)


def plan(config: Mapping[str, Any]) -> str:
    """Return a table of a loaded config's runs, done and to do, with what the others will take.

    An image-pass is a forward pass of one training image; methods with two passes a step count twice. Hours
    are of one core or GPU, at the median rate of the records in the results folder that were made on one:
    of the same backbone and variant where there are some, else of the backbone, scaled by passes. Without
    any they are marked, and at a rate that most machines exceed: that by which the workflow asks a cluster
    for time. The images of a user's own tasks are counted; none is opened, unless there are results, which
    may be of other images: a record of another specification is not done.
    """
    what = _count(config)
    rows, total = what.rows, what.total
    lines = [("backbone", "variant", "runs", "done", "image-passes to do", "hours")]
    lines += [(*names, *row.cells()) for names, row in rows.items()] + [("all", "", *total.cells())]
    text = [*aligned(lines, "llr"), "", *_explained(total, config, what.tasks)]
    text += what.failed + what.lacking
    text += [f"left out: {pair}: {reason}" for pair, reason in left_out(config).items()]
    return "\n".join([*text, *_disk(config, what.runs, what.tasks)]) + "\n"


def plan_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same as `plan`, for programs.

    Returns:
        `rows`, one for each backbone and variant, and `all`, each with the numbers of runs and of those
        done, the image-passes and hours of the others, whether some hours are at an assumed rate
        (`assumed`), and whether runs of a task of unknown size are not counted (`unknown`); `failed`, and
        what is `left_out`, and why.
    """
    what = _count(config)
    rows = [
        {"backbone": backbone, "variant": variant} | vars(row)
        for (backbone, variant), row in what.rows.items()
    ]
    return {
        "rows": rows,
        "all": vars(what.total),
        "failed": what.failed,
        "left_out": dict(left_out(config)),
    }


class _Counted(NamedTuple):
    """The rows of the table by backbone and variant, their sum, and what the lines below it are made from."""

    rows: dict[tuple[str, str], _Row]
    total: _Row
    runs: list[Run]
    tasks: dict[str, Task]
    failed: list[str]
    lacking: list[str]


def _count(config: Mapping[str, Any]) -> _Counted:
    tasks = counted(config)
    results = Path(config["paths"]["results"])
    runs, there, searched, stale = _found(config, results)
    done = there - stale
    rates = Rates(results, [run for run in runs if run.path in there], config["device"] == "cuda")
    rows: dict[tuple[str, str], _Row] = defaultdict(_Row)
    for run in runs:
        what = run.specification
        row = rows[what.backbone.name, what.variant]
        row.add(_Row(runs=1, done=run.path in done))
        if run.path not in done:
            row.add(_to_do(rates, what, tasks[what.task], searched_options(config["tune"], what.variant)))
    for (backbone, variant), row in tuning_rows(config, runs, tasks, rates, searched - stale).items():
        rows[backbone, f"{variant}: tuning"] = row
    total = _Row()
    for row in rows.values():
        total.add(row)
    failed = failures(results, [run for run in runs if run.path not in there])
    return _Counted(dict(rows), total, runs, tasks, failed, lacking(config, results, done))


def _found(config: Mapping[str, Any], results: Path) -> tuple[list[Run], set[str], set[str], set[str]]:
    """Return all runs; of what is in the results folder, records, searches, and those to be made again."""
    runs = expand(config)
    there = {run.path for run in runs if (results / run.path).is_file()}
    paths = {search_path(run.specification) for run in runs} if config["tune"] else set()
    searched = {path for path in paths if (results / path).is_file()}
    packed = any(
        any(Path(config["paths"]["packs"]).glob(f"{task.full_name}-*.safetensors"))
        for task in config_tasks(config)
        if task.on_disk
    )
    if not there | searched and not packed:
        return runs, there, searched, set()
    workflow = Workflow.of(config)  # which reads the images and weights on disk that it has not seen
    stale = workflow.stale_records() | workflow.stale_searches()
    below = {Path(path).relative_to(results).as_posix() for path in stale}
    return list(workflow.runs.values()), there, searched, below


def counted(config: Mapping[str, Any]) -> dict[str, Task]:
    """Return the tasks of a config by name, with their sizes, which a user's own have on disk only."""
    return {
        task.full_name: replace(task, sizes=count_own(task)) if task.benchmark == OWN else task
        for task in config_tasks(config)
    }


def _to_do(rates: Rates, specification: Specification, task: Task, searched: Mapping[str, Any]) -> _Row:
    if not task.sizes:
        return _Row(unknown=True)
    return rates.row(specification, image_passes(specification, task, space=searched))


def _explained(total: _Row, config: Mapping[str, Any], tasks: Mapping[str, Task]) -> list[str]:
    """Return what the marks in the table mean."""
    lines = []
    if total.assumed:
        what = "GPU" if config["device"] == "cuda" else "core"
        rates = {
            run.specification.backbone.name: assumed_rate(run.specification, config["device"] == "cuda")
            for run in expand(config)
        }
        shown = ", ".join(f"{rate:g} for {backbone}" for backbone, rate in rates.items())
        lines.append(
            f"{_ASSUMED}: at an assumed rate, as no record of the backbone is in "
            f"{config['paths']['results']} yet that was made with `device: {config['device']}`: "
            f"image-passes per second and {what}, {shown}; most machines exceed it"
        )
    for task in tasks.values():
        if not task.sizes:
            lines.append(
                f"{task.full_name}: not counted, as no images for train are found in {task.root}; `mosa "
                "check` says why"
            )
    return lines


def tuning_rows(
    config: Mapping[str, Any],
    runs: list[Run],
    tasks: Mapping[str, Task],
    rates: Rates,
    searched: Collection[str],
) -> dict[tuple[str, str], _Row]:
    """Return searches, those done, and what the others take, by backbone and variant.

    Args:
        config: A loaded config.
        runs: All of its runs.
        tasks: What `counted` returns.
        rates: Rates of computing.
        searched: Results of searches that are done, as `search_path` has them.
    """
    tune = config["tune"]
    found: dict[tuple[str, str], _Row] = defaultdict(_Row)
    for run in runs if tune else []:
        what = run.specification
        if run.seed != runs[0].seed or what.variant not in tune["variants"]:
            continue
        row, task = found[what.backbone.name, what.variant], tasks[what.task]
        done = search_path(what) in searched
        row.add(_Row(runs=1, done=done))
        if not done and task.sizes:
            epochs, space = what.training.epochs, searched_options(tune, what.variant)
            epoch = image_passes(what, task, "selection", tune["folds"], space) / epochs
            trainings = count_trainings(tune, what)
            row.add(rates.row(what, sum(epoch * models * epochs for models, epochs in trainings)))
        elif not done:
            row.add(_Row(unknown=True))
    return found


def _measured_rates(results: Path, runs: list[Run], gpu: bool) -> dict[tuple[str, str], float]:
    """Return the median image-passes per second, by backbone and variant, and by backbone alone.

    Of records that were made on a CPU if `gpu` is false, else on a GPU: the other's rate says nothing.
    """
    on_features, device = methods_on_features(), "cuda" if gpu else "cpu"
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs:
        try:
            record = json.loads((results / run.path).read_text(encoding="utf-8"))
            rate, made_on = record["images_per_second"] * record["steps"]["passes"], record["device"]["type"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # the workflow reports a broken record
        if made_on != device:
            continue
        backbone = run.specification.backbone.name
        found[backbone, run.specification.variant].append(rate)
        if run.specification.method not in on_features:  # whose rate says nothing of others
            found[backbone, ""].append(rate)
    return {key: median(values) for key, values in found.items()}


def _disk(config: Mapping[str, Any], runs: list[Run], tasks: Mapping[str, Task]) -> list[str]:
    folder = Path(config["paths"]["packs"])
    used = [run.specification for run in runs]
    packs = {one.data.pack: (tasks[one.task], one.backbone.image_size or 224) for one in used}
    missing = {pack: entry for pack, entry in packs.items() if not (folder / pack).is_file()}
    limit = config["packing"]["limit_gib"]
    needs = [_pack_gib(task, size) for task, size in missing.values()]
    packed = sum(need for need in needs if need <= limit)
    lines = [
        f"packs: {len(packs)}, of which {len(packs) - len(missing)} are made; the others need about "
        f"{room(packed)} in {folder} ({room(_free_gib(folder))} are free)"
    ]
    predictions, uncounted = predictions_gib(config, runs, tasks)
    if predictions or uncounted:
        without = f", without those of {count(uncounted, 'task')} of unknown size" if uncounted else ""
        size = f"about {room(predictions)}" if predictions else "of unknown size"
        lines.append(f"predictions: {size} in {config['paths']['results']}{without if predictions else ''}")
    if large := sum(need > limit for need in needs):
        over = count(large, "task is", "tasks are")
        lines.append(f"{over} over packing.limit_gib = {limit:g}: decoded while training")
    if unknown := sum(not task.sizes for task, _ in missing.values()):
        lines.append(f"{count(unknown, 'task is', 'tasks are')} not counted, as no images are found")
    return lines


def _pack_gib(task: Task, image_size: int) -> float:
    """Return about how much room the pack of a task takes, by the literature's counts, in GiB."""
    size = task.image_size or image_size
    pixels = size**2 if task.resize == "direct" else (size * 256 / 224) ** 2 * 4 / 3
    return 3 * pixels * sum(task.sizes.values()) / 2**30


def _free_gib(folder: Path) -> float:
    """Return the free room of the disk that a folder is, or will be, on, in GiB."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30
