"""Benchmarks and tasks, and their packed splits.

Importing this package costs nothing: the workflow reads the catalogue, and only rendering needs numpy.
"""

from pathlib import Path


def make_pack(task: str, output: Path) -> None:
    """Render every split of a task and pack them into one file.

    Args:
        task: Full name, such as "demo/digits".
        output: Where the pack goes; a file already there is replaced.

    Raises:
        UserError: There is no such task, or the file cannot be written.
    """
    from mosa.data.catalogue import get_task
    from mosa.data.demo import render_splits
    from mosa.data.packs import write_pack

    described = get_task(task)
    write_pack(Path(output), described, render_splits(described))
