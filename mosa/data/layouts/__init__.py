"""Readers of data sets on disk, one file per group of layouts."""

from pathlib import Path

from mosa.data.catalogue import get_task
from mosa.data.formats import LAYOUTS
from mosa.data.layouts import own
from mosa.data.layouts.checks import check_source, in_form
from mosa.data.layouts.source import Entry, Report, Source
from mosa.data.naming import SPLITS
from mosa.data.problems import Problem
from mosa.data.task import OWN, Task

__all__ = ["Entry", "Problem", "Report", "Source", "read_source"]


def read_source(task: Task, root: Path, report: Report) -> Source | None:
    """Read the lists of a task, without opening an image.

    Args:
        task: The task.
        root: Folder of its benchmark; ignored for a user's own task, which has a root.
        report: Collects every problem.

    Returns:
        The valid entries; None if nothing can be read.
    """
    if task.benchmark == OWN:
        report.repair = own.REPAIR
    if task.layout == "union":
        source = _read_union(task, root, report)
    else:
        place = Path(task.root or root)
        source = LAYOUTS[task.layout].read()(task, place, report)
        source = None if source is None else in_form(task, source, place, report)
    if source is not None:
        check_source(task, source, report)
    return source


def _read_union(task: Task, root: Path, report: Report) -> Source | None:
    """Read several tasks as one: the classes of each follow those of the previous one."""
    members = [get_task(name) for name in task.members]
    sources = [read_source(member, root, report) for member in members]
    if any(source is None for source in sources):
        return None
    splits: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    sizes: dict[str, list[int]] = {split: [] for split in splits}
    first = 0
    for source in sources:
        for split, entries in source.splits.items():
            splits[split] += [entry._replace(label=first + entry.label) for entry in entries]
            sizes[split].append(len(entries))
        first += source.num_classes
    notes = [note for source in sources for note in source.notes]
    return Source(root, first, splits, notes, sets=tuple(m.name for m in members), set_sizes=sizes)
