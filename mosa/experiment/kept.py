"""What runs keep beside their records: where it lies, how much room it takes, and which runs lack it."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mosa.base.words import count
from mosa.data.task import Task, kept_path
from mosa.experiment.expand import Run

_LISTED = 3  # runs that a sentence names


def lacking(config: Mapping[str, Any], results: Path, done: Iterable[str]) -> list[str]:
    """Return a sentence for each file that is to be kept and that finished runs lack.

    Args:
        config: A loaded config.
        results: Its results folder.
        done: Paths below it of the records that exist.
    """
    lines, done = [], sorted(done)
    for kind in ("predictions", "model"):
        short = [path for path in done if not kept_path(results / path, kind).is_file()]
        if short and config["keep"][kind]:
            named = ", ".join(path.removeprefix("runs/").removesuffix(".json") for path in short[:_LISTED])
            more = f" and {len(short) - _LISTED} more" if len(short) > _LISTED else ""
            lines.append(
                f"keep.{kind}: lacking in {len(short)} of {count(len(done), 'finished run')}, done "
                f"before it was switched on ({named}{more}); no run is repeated for it, unless its file is "
                f"asked for: snakemake {kept_path(results / short[0], kind)}"
            )
    return lines


def predictions_gib(
    config: Mapping[str, Any], runs: Iterable[Run], tasks: Mapping[str, Task]
) -> tuple[float, int]:
    """Return about how much room predictions take, in GiB, and the number of tasks where it is not known."""
    from mosa.data.predictions import form_of  # which imports numpy

    if not config["keep"]["predictions"]:
        return 0.0, 0
    split = "val" if config["stage"] == "selection" else "test"
    wanted, size = config["keep"]["predictions"], {"float32": 4, "float16": 2, None: 0}
    used = [tasks[run.specification.task] for run in runs]
    shapes = [(task.sizes.get(split, 0), task.num_classes or 0) for task in used]
    unknown = {task.full_name for task, shape in zip(used, shapes, strict=True) if not all(shape)}
    known = [shape for shape in shapes if all(shape)]
    return sum(size[form_of(*shape, wanted)] * math.prod(shape) for shape in known) / 2**30, len(unknown)
