"""The runs of an experiment that left no record, and why."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Missing(NamedTuple):
    """A run without a record, and why."""

    path: str
    reason: str


def missing_runs(paths: Iterable[Path], results: Path) -> list[Missing]:
    """Return the runs that left no record, with the last line of their logs.

    Args:
        paths: Where the records of all runs would be.
        results: The results folder, which has runs/ and logs/.
    """
    found = []
    for path in paths:
        if path.is_file():
            continue
        log = results / "logs" / "train" / path.relative_to(results / "runs").with_suffix(".log")
        found.append(Missing(path.as_posix(), _last_words(log)))
    return found


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "not run yet"
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["its log is empty"])[-1].removeprefix("error: ")
