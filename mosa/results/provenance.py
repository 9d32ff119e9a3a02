"""What a reader of a table has to know of its runs: unequal lengths, mixed versions, what is a guess."""

from collections import defaultdict

import pandas as pd

from mosa.base.words import count
from mosa.results.learned import learned_note

_PACKAGES = {"torch": "torch", "mosa-benchmark": "this package"}  # that can change a score
_NAMED = 3  # variants of one length that a note names


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
    return [note for note in (*short_notes(runs), guesses(runs), mixture(runs)) if note]


def short_notes(runs: pd.DataFrame, marked: bool = True) -> list[str]:
    """Return those of `notes` that stand by a plot and below a table on a terminal as well.

    Args:
        runs: Rows of the records' frame.
        marked: Whether scores of runs that learned nothing have a mark there.
    """
    return [note for note in (lengths(runs), learned_note(runs, marked)) if note]


def lengths(runs: pd.DataFrame) -> str:
    """Return a sentence on the epochs of variants that differ in them; empty if none do.

    Args:
        runs: Rows of the records' frame; without the epochs, nothing is said.
    """
    if "epochs" not in runs:
        return ""
    variants: dict[tuple[int, int], list[str]] = defaultdict(list)
    name = "display_name" if "display_name" in runs else "variant"
    for variant, epochs in runs.groupby(name)["epochs"]:
        variants[int(epochs.min()), int(epochs.max())].append(variant)
    if len(variants) < 2:
        return ""
    most = max(map(len, variants.values()))
    usual, *others = sorted(variants, key=lambda span: (len(variants[span]) < most, span))
    parts = [f"{_listed(variants[span])} for {_span(span)}" for span in others]
    epochs = "epoch" if usual == (1, 1) else "epochs"
    return f"Trained for {_span(usual)} {epochs}; {'; '.join(parts)}."


def _span(span: tuple[int, int]) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]} to {span[1]}"


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {count(more, 'other')}" if more > 0 else "")


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
