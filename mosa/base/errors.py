"""The exceptions whose messages are written for users."""

import difflib
import reprlib
from collections.abc import Iterable

LISTED = 5  # names that one error lists at most
_LONGEST = 800  # characters of a sentence that quotes strangers


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Return a long integer by its length, which Python refuses to write."""
        return (
            super().repr_int(x, level) if x.bit_length() < 1000 else f"an integer of {x.bit_length():,} bits"
        )


_short = _Short()
_short.maxstring = _short.maxother = 120
_short.maxlevel = _short.maxdict = _short.maxlist = _short.maxtuple = _short.maxset = 2


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

    A workflow with retries runs such a job again; a job that ends with any other `UserError` is not retried
    (`mosa.experiment.failures`).
    """

    label, status = "error, worth a retry", 75  # EX_TEMPFAIL of sysexits.h


def shown(value: object) -> str:
    """Return a value as an error quotes it: in one line, and short whatever it is."""
    text = _short.repr(value)
    return " ".join(text.split()) if "\n" in text else text


def plain(text: str) -> str:
    """Return what quotes strangers as one line that any terminal prints, without its middle if long."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


def reason_of(error: BaseException) -> str:
    """Return what an exception says, in one line, without Python's advice on its own settings."""
    return " ".join(str(error).partition("; use sys.")[0].split())


def unreadable(error: BaseException) -> str:
    """Return why a file cannot be read, without its name, which the message has already."""
    return getattr(error, "strerror", None) or reason_of(error)


def suggest(name: object, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of the allowed names, or an empty string."""
    near = _nearest(_folded(str(name)), {_folded(each): each for each in allowed})
    return f"; did you mean {near!r}?" if near else ""


def _folded(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def _nearest(name: str, allowed: dict[str, str]) -> str | None:
    """Return a name that starts with the given one, has it inside, or is spelled nearly like it."""
    if name in allowed:
        return allowed[name]
    starts = [each for each in allowed if len(name) > 2 and each.startswith(name)]
    inside = [each for each in allowed if min(len(each), len(name)) > 3 and (name in each or each in name)]
    if starts or inside:
        return allowed[min(starts or inside, key=lambda each: (abs(len(each) - len(name)), each))]
    like = [each for each in allowed if each[:1] == name[:1]]  # typing errors are in later letters
    near = difflib.get_close_matches(name, like, n=1, cutoff=0.65 if len(name) < 6 else 0.75)
    return allowed[near[0]] if near else None


def expected(name: object, allowed: Iterable[object]) -> str:
    """Return ``"expected one of a, b"`` and the nearest name; of many names, some and their number."""
    names = [str(each) for each in allowed]
    few = len(names) <= LISTED
    listed = ", ".join(names) if few else f"{', '.join(names[: LISTED - 1])}, ... ({len(names)} in all)"
    return f"expected one of {listed}{suggest(name, names)}"


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """Build the error for a name that is not among the allowed ones.

    Args:
        kind: What the name stands for, such as "method", or "option of method 'lora'".
        name: The name that was given.
        allowed: Every legal name, in the order in which to list them.
    """
    what, of, whole = kind.partition(" of ")
    return UserError(f"unknown {what} {shown(name)}{of}{whole}: {expected(name, allowed)}")
