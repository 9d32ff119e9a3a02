"""The exceptions whose messages are written for users."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, described in one sentence: what was got, what was expected, what to do.

    The command line prints the sentence after ``error:`` and exits with status 2; everything
    else that is raised is a defect of this package and keeps its traceback.

    Attributes:
        label: What the command line prints before the sentence.
        status: Exit status of the command line.
    """

    label, status = "error", 2


class Shortage(UserError):
    """What a machine lacks: memory, room on its disk, a GPU. The same command may succeed elsewhere or later.

    A workflow with retries does such a job again, and one that ends with another `UserError` not
    (`mosa.experiment.failures`).
    """

    label, status = "error, worth a retry", 75  # EX_TEMPFAIL of sysexits.h


def suggest(name: object, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of the allowed names, or an empty string."""
    near = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """Build the error for a name that is not among the allowed ones.

    Args:
        kind: What the name stands for, such as "method".
        name: The name that was given.
        allowed: Every legal name, in the order in which to list them.
    """
    allowed = list(allowed)
    return UserError(f"unknown {kind} {name!r}: expected one of {', '.join(allowed)}{suggest(name, allowed)}")
