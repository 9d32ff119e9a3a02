"""The one exception whose message is written for users."""

import difflib
import reprlib
from collections.abc import Iterable

_LONGEST = 800  # characters of a sentence that quotes strangers

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120
_short.maxlevel = _short.maxdict = _short.maxlist = _short.maxtuple = _short.maxset = 2


class UserError(Exception):
    """Bad input, described in one sentence: what was got, what was expected, what to do.

    The command line prints the sentence after ``error:`` and exits with status 2; everything
    else that is raised is a defect of this package and keeps its traceback.
    """


def shown(value: object) -> str:
    """Return a value as an error quotes it: in one line, and short whatever it is."""
    return _short.repr(value)


def plain(text: str) -> str:
    """Return what quotes strangers as one line that any terminal prints, without its middle if long."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


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
