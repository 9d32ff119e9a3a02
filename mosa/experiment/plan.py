"""What a config will cost: runs, image-passes, disk, and hours by the rates of runs that there are."""

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from mosa.data.task import Task
from mosa.experiment.expand import Run, config_tasks, expand, left_out
from mosa.experiment.failures import failures
from mosa.experiment.protocol import STAGES
from mosa.experiment.space import count_trainings
from mosa.experiment.specification import Specification


def plan(config: Mapping[str, Any]) -> str:
    """Return a table of a loaded config's runs, done and to do, with what the others will take.

    An image-pass is a forward pass of one training image; methods with two passes a step count twice. Hours
    are of one core or GPU, at the median rate of the records in the results folder: of the same backbone and
    variant where there are some, else of the backbone, scaled by passes; without any, no estimate is made.
    """
    tasks = {task.full_name: task for task in config_tasks(config)}
    results = Path(config["paths"]["results"])
    runs = expand(config)
    done = {run.path for run in runs if (results / run.path).is_file()}
    rates = _rates(results, [run for run in runs if run.path in done])
    rows: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0, 0.0, 0])
    for run in runs:
        what = run.specification
        row = rows[what.backbone.name, what.variant]
        row[0] += 1
        if run.path in done:
            row[1] += 1
            continue
        passes = image_passes(what, tasks[what.task])
        row[2] += passes
        rate = rates.get((what.backbone.name, what.variant)) or rates.get((what.backbone.name, ""))
        row[3] += passes / rate / 3600 if rate else 0
        row[4] += not rate
    lines = [("backbone", "variant", "runs", "done", "image-passes to do", "hours")]
    for (backbone, variant), row in _tuning(config, runs, tasks).items():
        rate = rates.get((backbone, variant)) or rates.get((backbone, ""))
        hours = row[2] / rate / 3600 if rate else 0
        rows[backbone, f"{variant}: tuning"] = [*row, hours, row[2] > 0 and not rate]
    for (backbone, variant), (count, finished, passes, hours, unknown) in rows.items():
        shown = "?" if unknown else f"{hours:.1f}"
        lines.append((backbone, variant, str(count), str(finished), _thousands(passes), shown))
    count, finished, passes, hours, unknown = (sum(row[i] for row in rows.values()) for i in range(5))
    total = f"{hours:.1f}" if not unknown else f">= {hours:.1f}" if hours else "?"
    lines.append(("all", "", str(count), str(finished), _thousands(passes), total))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    text = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text.append("")
    if unknown:
        text.append(f"?: no record of the backbone in {results} to take a rate from; run one first")
    text += failures(results, [run.path for run in runs if run.path not in done])
    text += [f"left out: {pair}: {reason}" for pair, reason in left_out(config).items()]
    return "\n".join([*text, *_disk(config, runs, tasks)]) + "\n"


def _tuning(
    config: Mapping[str, Any], runs: list[Run], tasks: Mapping[str, Task]
) -> dict[tuple[str, str], list[float]]:
    """Return searches, those done, and image-passes of the others, by backbone and variant."""
    tune = config["tune"]
    found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0])
    for run in runs if tune else []:
        what = run.specification
        if run.seed != runs[0].seed or what.variant not in tune["variants"]:
            continue
        row = found[what.backbone.name, what.variant]
        row[0] += 1
        results = Path(config["paths"]["results"])
        if (results / search_path(what)).is_file():
            row[1] += 1
            continue
        epochs = what.training.epochs
        epoch = image_passes(what, tasks[what.task], stage="selection") / epochs
        trainings = count_trainings(tune, what.variant, epochs)
        row[2] += sum(epoch * models * epochs for models, epochs in trainings)
    return found


def search_path(specification: Specification) -> str:
    """Return the path of the results of a search below the results folder."""
    place = f"{specification.task}/{specification.backbone.name}/{specification.variant}"
    return f"tune/trials/{place}.json"


def image_passes(specification: Specification, task: Task, stage: str | None = None) -> float:
    """Return the forward passes of images that a training takes; 0 where the task's size is unknown.

    Args:
        specification: What is trained.
        task: Its task.
        stage: "final" or "selection"; None: the specification's.
    """
    training = specification.training
    split = STAGES[stage or specification.stage][0] or task.final_train
    parts = ("train", "val") if split == "trainval" else (split,)
    images = sum(task.sizes.get(part, 0) for part in parts)
    return images * training.fraction * training.epochs * _passes(specification.options)


def _passes(options: Mapping[str, Any]) -> int:
    """Return the forward passes of a step; as `mosa.peft.Method.passes`, which needs torch."""
    return 2 if any(options[name] for name in ("consistency", "second_pass", "feature_consistency")) else 1


def _rates(results: Path, runs: list[Run]) -> dict[tuple[str, str], float]:
    """Return the median image-passes per second, by backbone and variant, and by backbone alone."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs:
        try:
            record = json.loads((results / run.path).read_text(encoding="utf-8"))
            rate = record["images_per_second"] * record["steps"]["passes"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the workflow reports a broken record
        backbone = run.specification.backbone.name
        found[backbone, run.specification.variant].append(rate)
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
        f"{packed:.1f} GiB in {folder} ({_free_gib(folder):.1f} GiB are free)"
    ]
    if large := sum(need > limit for need in needs):
        lines.append(f"{large} tasks are over packing.limit_gib = {limit:g} and are decoded while training")
    if unknown := sum(not task.sizes for task, _ in missing.values()):
        lines.append(
            f"{unknown} tasks of your own are not counted, as their size is not known before they are read"
        )
    return lines


def _thousands(number: float) -> str:
    return f"{number:,.0f}"


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
