"""The code and versions that results come from, whether one table mixes several, and what is a guess."""

import pandas as pd

from mosa.results.learned import learned_note

_PACKAGES = {"torch": "torch", "mosa-benchmark": "this package"}  # that can change a score


def code_of(commit: str | None, dirty: bool | None) -> str:
    """Return the state of the code that made a record, in words."""
    if not isinstance(commit, str):
        return "not a checkout"
    return f"{commit} (with uncommitted changes)" if dirty else commit


def notes(runs: pd.DataFrame) -> list[str]:
    """Return what a reader of a table has to know of its runs, in sentences; empty if there is nothing.

    Args:
        runs: Rows of the records' frame.
    """
    return [note for note in (learned_note(runs), guesses(runs), mixture(runs)) if note]


def guesses(runs: pd.DataFrame) -> str:
    """Return a sentence on the backbones whose normalisation is a guess; empty if there is none.

    Args:
        runs: Rows of the records' frame.
    """
    if "normalization" not in runs:
        return ""
    found = sorted(set(runs.loc[runs["normalization"] == "guessed", "backbone"]))
    return f"The normalisation of {', '.join(found)} is a guess (docs/weights.md)." if found else ""


def mixture(runs: pd.DataFrame) -> str:
    """Return a sentence on the records that differ in code or versions; empty if they all agree.

    Args:
        runs: Rows of the records' frame; columns that it lacks count as equal.
    """
    parts = []
    if {"commit", "dirty"} <= set(runs.columns):
        states = set(map(code_of, runs["commit"], runs["dirty"]))
        if len(states) > 1:
            parts.append(f"{len(states)} states of the code")
    for package, name in _PACKAGES.items() if "versions" in runs else ():
        found = sorted({versions.get(package, "unknown") for versions in runs["versions"]})
        if len(found) > 1:
            parts.append(f"{len(found)} versions of {name} ({', '.join(found)})")
    return f"The records come from {' and '.join(parts)}." if parts else ""
