"""Runs that learned nothing: they count like any other, and are marked by a rule over their records alone."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import pandas as pd

from mosa.base.errors import UserError
from mosa.base.words import count
from mosa.data.catalogue import get_task

MARK = "†"
RULE = (
    "its top-1 lies within the 95 % interval of a guess (binomial, one over the number of classes), its mean "
    "per class is not above a guess's, or its loss in the last of several epochs is above a guess's "
    "(the logarithm of the number of classes)"
)
COLUMN = "learned_nothing"
_SHOWN = 3  # runs that a note names


def learned_nothing(record: Mapping[str, Any]) -> str:
    """Return why a run counts as no better than a guess; "": it does not.

    A guess is a model that gives every class the same probability, or the same class to every image.

    Args:
        record: The record. One of a task of your own that does not state the number of classes is not judged.
    """
    metrics = record["metrics"]
    classes = record["data"]["classes"] or classes_of(record["specification"]["task"])
    if not classes or classes < 2:
        return ""
    guess, images = 100 / classes, metrics["examples"]
    limit = 100 * _most_by_guessing(images, classes) / images
    found = []
    if metrics["top1"] is not None and metrics["top1"] <= limit:
        found.append(f"top-1 {metrics['top1']:.1f} %, a guess up to {limit:.1f} %")
    elif metrics["mean_per_class"] is not None and metrics["mean_per_class"] <= guess + 1e-9:
        found.append(f"mean per class {metrics['mean_per_class']:.1f} %, a guess {guess:.1f} %")
    options, losses = record["specification"]["options"], metrics["train_loss"]
    loss = math.log(classes) * (1 + options.get("second_pass", 0))
    # With features compared, too, the loss has no such limit; a first epoch begins as a guess.
    if not options.get("feature_consistency", 0) and len(losses) > 1 and losses[-1] > loss:
        found.append(f"training loss {losses[-1]:.2f}, a guess {loss:.2f}")
    return "; ".join(found)


@cache  # thousands of records are of a few test sets
def _most_by_guessing(images: int, classes: int) -> int:
    """Return how many images a guess gets right at most, with 97.5 % probability."""
    from scipy.special import bdtr  # scipy.stats has its inverse, but takes seconds to import

    return bisect_left(range(images), 0.975, key=lambda right: bdtr(right, images, 1 / classes))


def classes_of(task: str) -> int | None:
    """Return the number of classes of a task of the catalogue, for records that do not state it."""
    try:
        return get_task(task).num_classes
    except UserError:
        return None


def marked(runs: pd.DataFrame, tasks: Iterable[str]) -> set[str]:
    """Return the variants with a run on one of the tasks that learned nothing."""
    found = without_learning(runs)
    return set(found.loc[found["task"].isin(list(tasks)), "variant"])


def learned_note(runs: pd.DataFrame, marked: bool = True) -> str:
    """Return a sentence on the runs that learned nothing; empty if there is none.

    Args:
        runs: Rows of the records' frame; without the column, none is marked.
        marked: Whether the sentence explains the mark.
    """
    found = without_learning(runs)
    if found.empty:
        return ""
    name = "display_name" if "display_name" in found else "variant"
    named = [
        f"{getattr(row, name)} on {row.task}, seed {row.seed} ({getattr(row, COLUMN)})"
        for row in found.head(_SHOWN).itertuples(index=False)
    ]
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    which = f"({count(len(found), 'run')}: {', '.join(named)}{more})"
    if not marked:
        return f"Runs that are no better than a guess count like any other {which}."
    return f"{MARK} has a run that is no better than a guess, which counts like any other {which}."


def without_learning(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that learned nothing; none where the column is missing."""
    return runs[runs[COLUMN] != ""] if COLUMN in runs else runs.head(0)
