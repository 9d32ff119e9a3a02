"""The runs of an experiment that left no record, and why."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import UserError
from mosa.experiment.failures import last_words, log_of


class Missing(NamedTuple):
    """A run without a record, and why."""

    path: str
    reason: str


def missing_runs(paths: Iterable[Path], results: Path) -> list[Missing]:
    """Return the runs that left no record, with the last line of their logs.

    Args:
        paths: Where the records of all runs would be.
        results: The results folder, which has runs/ and logs/.

    Raises:
        UserError: They are of another results folder.
    """
    runs = (results / "runs").resolve()
    found = []
    for path in paths:
        if path.is_file():
            continue
        if not path.resolve().is_relative_to(runs):
            raise UserError(
                f"{path}: not below {results}; give the results folder of the manifest (--results)"
            )
        log = log_of(results, f"runs/{path.resolve().relative_to(runs).as_posix()}")
        words = last_words(log)
        found.append(Missing(path.as_posix(), words.text if words else "not run yet"))
    return found
