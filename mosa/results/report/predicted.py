"""What the page shows of predictions: counts by class, confidence and pair of variants; no logits."""

from typing import Any

import numpy as np

from mosa.data.metrics import EXACT
from mosa.results.aggregate import Section
from mosa.results.answers import OfTask, answers, pairs
from mosa.results.per_image import confusion_matrix, most_confused, wilson_interval

_CELLS = 60  # classes up to which all cells of a confusion matrix are given
_PAIRS = 8  # confused classes that are listed
_SHARES = ("same", "shared_mistakes", "ensemble_gain", "oracle_gain")


def predicted_data(section: Section) -> dict[str, Any] | None:
    """Return what a section's runs answered, as what JSON can hold; None: no run kept its predictions.

    Returns:
        `tasks`, of each its classes, their images, and by variant (its place in the section) what
        `_of_variant` returns; `pairs`, how any two variants agree on each task, in percent; `note`.
    """
    found = answers(section)
    if not found.tasks:
        return None
    place = {variant: number for number, variant in enumerate(section.variants)}
    rows = pairs(section)
    return {
        "tasks": [
            {
                "name": one.task,
                "classes": list(one.classes),
                "images": np.bincount(one.labels, minlength=len(one.classes)).tolist(),
                "variants": {place[variant]: _of_variant(one, variant) for variant in one.predicted},
            }
            for one in found.tasks
        ],
        "pairs": [
            [
                row.task,
                place[row.variant],
                place[row.other],
                *(_short(getattr(row, name)) for name in _SHARES),
            ]
            for row in rows.itertuples(index=False)
        ],
        "note": found.note,
    }


def _of_variant(of_task: OfTask, variant: str) -> dict[str, Any]:
    """Return seeds, cells (class, predicted, images over all seeds), bins, confused classes, accuracies."""
    seeds, number = list(of_task.predicted[variant].values()), len(of_task.classes)
    counts = sum(confusion_matrix(of_task.labels, one, number) for one in seeds)
    cells = [[int(row), int(column), int(counts[row, column])] for row, column in np.argwhere(counts)]
    if number > _CELLS:
        cells = [cell for cell in cells if cell[0] == cell[1]]
    intervals = [wilson_interval(int((one == of_task.labels).sum()), len(one)) for one in seeds]
    confused = most_confused(of_task.labels, seeds, number, _PAIRS)
    return {
        "seeds": len(seeds),
        "cells": cells,
        "bins": np.sum(list(of_task.binned[variant].values()), axis=0).round(EXACT).tolist(),
        "confused": [
            [one.label, one.predicted, round(one.images, EXACT), [of_task.ids[image] for image in one.which]]
            for one in confused
        ],
        "accuracy": [100 * of_task.accuracy(variant), *(100 * np.mean(intervals, axis=0)).tolist()],
    }


def _short(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), EXACT)
