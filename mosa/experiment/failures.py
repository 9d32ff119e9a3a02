"""How a job ended, by the last words of its log: which failures would repeat, and which are worth a retry."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import Shortage, UserError
from mosa.base.words import count

_TAIL = 2**14  # bytes of a log that are looked at
_SHOWN = 5  # failures that are listed
_WORTH_A_RETRY = f"{Shortage.label}: "
EMPTY = "its log is empty"
_TRACEBACK = "Traceback (most recent call last)"
_LABELS = (_WORTH_A_RETRY, f"{UserError.label}: ", "Error: ")  # the last is click's, of a wrong command line


class LastWords(NamedTuple):
    """The end of a log.

    Attributes:
        text: The error that it ends with, else its last line.
        ended: Whether it says that the run ended with an error: labelled, or the last line of a traceback.
        for_good: Whether that error would repeat: input that was refused, a loss that is not finite. What is
            killed, out of memory or time, preempted, or on a node that fails, writes none of these.
    """

    text: str
    for_good: bool
    ended: bool = True


def last_words(log: Path) -> LastWords | None:
    """Return how a log ends; None: there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").strip().splitlines()
    except OSError:
        return None
    if not lines:
        return LastWords(EMPTY, False, False)
    labelled = [line for line in lines if line.startswith(_LABELS)]
    for label in _LABELS if labelled else ():
        if labelled[-1].startswith(label):
            return LastWords(labelled[-1].removeprefix(label), label != _WORTH_A_RETRY)
    return LastWords(lines[-1], False, any(line.startswith(_TRACEBACK) for line in lines))


def log_of(results: Path, run: str) -> Path:
    """Return the log of a run, by the path of its record below the results folder."""
    return results / "logs" / "train" / Path(run).relative_to("runs").with_suffix(".log")


def failures(results: Path, runs: Iterable[str]) -> list[str]:
    """Return a line for each of the first runs whose failure would repeat, and one for all others.

    Args:
        results: The results folder.
        runs: Paths below it of records that do not exist.
    """
    found = [
        (run, words.text) for run in runs if (words := last_words(log_of(results, run))) and words.for_good
    ]
    lines = [f"failed: {run}: {reason}" for run, reason in found[:_SHOWN]]
    return lines + ([f"failed: {count(len(found) - _SHOWN, 'more run')}"] if len(found) > _SHOWN else [])


def failed_for_good(log: Path, since: int) -> bool:
    """Return whether a job wrote a log that ends with an error which would repeat.

    Args:
        log: The log; an attempt begins it anew.
        since: When the workflow started, in nanoseconds of its file system; an older log is not of this job.
    """
    found = last_words(log)
    return found is not None and found.for_good and log.stat().st_mtime_ns >= since
