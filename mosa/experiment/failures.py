"""How a job ended, by the last words of its log: which failures would repeat, and which are worth a retry."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import Shortage, UserError
from mosa.base.words import count
from mosa.experiment.expand import Run

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
        for_good: Whether that error would repeat: input that was refused, a loss that is not finite. What is
            killed, out of memory or time, preempted, or on a node that fails, writes none of these.
    """

    text: str
    for_good: bool


def _end_of(log: Path) -> list[str] | None:
    """Return the last lines of a log; None: there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode("utf-8", errors="replace").strip().splitlines()
    except OSError:
        return None


def first_words(digest: str) -> str:
    """Return the line that begins the log of a training, which names its specification."""
    return f"specification {digest}"


def is_of(log: Path, digest: str) -> bool:
    """Return whether a log may be of a specification: one that names none may."""
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            line = file.readline().strip()
    except OSError:
        return False
    return not line.startswith(first_words("")) or line == first_words(digest)


def last_words(log: Path) -> LastWords | None:
    """Return how a log ends; None: there is no log."""
    lines = _end_of(log)
    if lines is None:
        return None
    if not lines:
        return LastWords(EMPTY, False)
    labelled = [line for line in lines if line.startswith(_LABELS)]
    for label in _LABELS if labelled else ():
        if labelled[-1].startswith(label):
            return LastWords(labelled[-1].removeprefix(label), label != _WORTH_A_RETRY)
    return LastWords(lines[-1], False)


def ended_with_error(log: Path) -> bool:
    """Return whether a log has an error at its end: labelled, or a traceback."""
    return any(line.startswith((*_LABELS, _TRACEBACK)) for line in _end_of(log) or ())


def log_of(results: Path, run: str) -> Path:
    """Return the log of a run, by the path of its record below the results folder."""
    return results / "logs" / "train" / Path(run).relative_to("runs").with_suffix(".log")


def failures(results: Path, runs: Iterable[Run]) -> list[str]:
    """Return a line for each of the first runs whose failure would repeat, and one for all others.

    Args:
        results: The results folder.
        runs: Those whose records do not exist. What a run with a choice was given is not known here.
    """
    found = []
    for run in runs:
        log = log_of(results, run.path)
        words = last_words(log) if run.choice or is_of(log, run.specification.digest) else None
        if words and words.for_good:
            found.append((run.path, words.text))
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
