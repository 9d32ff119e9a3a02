"""Benchmarks and tasks, and their packed splits.

Importing this package is fast: the workflow reads the catalogue, and only rendering needs numpy.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mosa.data.layouts import Source
    from mosa.data.task import Task


def make_pack(
    task: "str | Task",
    output: Path,
    root: Path | None = None,
    image_size: int = 224,
    interpolation: str = "bicubic",
    limit_gib: float | None = None,
    threads: int = 1,
    content: str | None = None,
    cache: Path | None = None,
) -> None:
    """Render a task, or read it from disk, and pack all its splits into one file.

    Args:
        task: The task, or its full name, such as "demo/digits".
        output: Path of the pack; an existing file is replaced.
        root: Folder of the task's benchmark, for a task that is read from disk.
        image_size: Side of the images that the backbone takes, in pixels; rendered tasks have a fixed size.
        interpolation: One of `mosa.data.task.INTERPOLATIONS`.
        limit_gib: Largest pack, in GiB; a larger set is only listed, and decoded during training.
        threads: Threads that decode.
        content: Identifies the files of a task on disk, as `mosa.data.content.task_content` does; it is
            stored in the pack, and the files are identified again when all are read. None: they are not.
        cache: Folder of packs, which keeps the digests of files; None: identifying them reads all again.

    Raises:
        UserError: The task is unknown, its files are wrong or missing, they changed while they were packed,
            or the pack cannot be written.
    """
    from mosa.base.errors import UserError
    from mosa.data.catalogue import get_task
    from mosa.data.packing import pack_source, write_pack

    task = get_task(task) if isinstance(task, str) else task
    output = Path(output)
    if not task.on_disk:
        from mosa.data.demo import render_splits

        write_pack(output, task, render_splits(task))
        return
    from mosa.data.content import task_content
    from mosa.data.formats import check_reader

    if root is None and task.root is None:
        raise UserError(
            f"{task.full_name} is read from disk: give the folder of {task.benchmark} with --root"
        )
    check_reader(task)
    root = Path(root or ".")
    source = _read_lists(task, root)

    def verify() -> None:
        if content is not None and task_content(task, root, cache) != content:
            raise UserError(f"{task.full_name}: the images changed while they were packed; run again")

    pack_source(
        output, task, source, image_size, interpolation, limit_gib, threads, content=content, verify=verify
    )


def _read_lists(task: "Task", root: Path) -> "Source":
    """Read the lists of a task; the first error is raised, and warnings are printed."""
    from mosa.base.errors import UserError
    from mosa.data.layouts import Report, read_source

    report = Report()
    source = read_source(task, root, report)
    for warning in [problem for problem in report.problems if problem.severity == "warning"][:5]:
        print(f"warning: {warning.place}: {warning.message}", file=sys.stderr)
    if report.errors or source is None:
        first, others = report.errors[0], len(report.errors) - 1
        more = f" (and {others} more: `mosa check` lists them)" if others else ""
        raise UserError(f"{first.place}: {first.message}{more}")
    return source
