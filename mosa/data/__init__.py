"""Benchmarks and their tasks, as packed splits."""

from pathlib import Path


def make_pack(task: str, output: Path) -> None:
    """Make the pack of a task, such as "demo/digits".

    Raises:
        UserError: There is no such task, or the file cannot be written.
    """
    from mosa.data.catalogue import get_task
    from mosa.data.demo import render
    from mosa.data.packs import write_pack

    chosen = get_task(task)
    write_pack(output, chosen, render(chosen.name))
