"""Plots of what runs say of single images: confusions, calibration, agreement of mistakes."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from mosa.results.aggregate import Results, Section
from mosa.results.answers import OfTask, answers, matrix
from mosa.results.per_image import calibration_error, confusion_matrix, percent
from mosa.results.plots.draw import FILLS
from mosa.results.plots.figures import LOOK, QUIET, broken, stack
from mosa.results.registry import plot

_PANEL = 1.75  # inches of a panel and its title
_LEAST = 10  # images of a bin that is drawn
_TITLE = 26  # characters of a panel's title
_NAMED = 12  # classes up to which they stand at the axes
_BELOW = 3  # names of a legend below its plot that stand beside each other
_LEGEND = 0.15  # inches of a legend's line
_WRITTEN = 12  # variants up to which numbers stand in the cells


def _figure(results: Results, height: Callable, draw: Callable, note: Callable) -> Figure:
    """Return a figure with a part for each section, which says so if it has nothing to show."""
    sections = results.compared
    known = [bool(answers(section).tasks) for section in sections]
    heights = [height(section) if shown else 0.4 for section, shown in zip(sections, known, strict=True)]
    notes = [
        " ".join(
            filter(
                None,
                [
                    note(section) if shown else "",
                    answers(section).note.replace("`", ""),
                    section.about_seeds if shown else "",
                ],
            )
        )
        for section, shown in zip(sections, known, strict=True)
    ]
    titles = [f"{section.benchmark}, {section.backbone}, {section.eval_split} split" for section in sections]
    figure, parts = stack(titles, heights, notes)
    for part, section, shown in zip(parts, sections, known, strict=True):
        if shown:
            draw(part, section)
        else:
            axes = part.subplots()
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no predictions were kept", ha="center", va="center", color=QUIET)
    return figure


def _beside() -> int:
    """Return how many panels stand beside each other."""
    return 2 if LOOK.get().narrow else 4


def _rows(panels: int) -> int:
    return math.ceil(panels / _beside())


def _panels(part: SubFigure, section: Section) -> list[tuple[Axes, OfTask]]:
    """Return axes for each task, in rows."""
    tasks = answers(section).tasks
    rows, columns = _rows(len(tasks)), min(len(tasks), _beside())
    axes = part.subplots(rows, columns, squeeze=False).ravel()
    for empty in axes[len(tasks) :]:
        empty.set_axis_off()
    return list(zip(axes, tasks, strict=False))


def _height(section: Section) -> float:
    tasks = len(answers(section).tasks)
    return (_PANEL if tasks >= _beside() else 2.2) * _rows(tasks)


@plot(
    "confusion",
    label="confusion matrices",
    caption="Confusion matrices of each task, of the variant with the highest accuracy on it, from the "
    "predictions that the runs kept.",
)
def confusion_figure(results: Results) -> Figure:
    """Draw a confusion matrix per task: rows are classes, columns what they are taken for."""
    note = (
        "Rows: classes; columns: predicted classes; darker: a larger share of the row's images, all seeds "
        "together. Of the variant with the highest accuracy on the task, among those with all seeds."
    )
    return _figure(results, _height, _draw_confusions, lambda section: note)


def _draw_confusions(part: SubFigure, section: Section) -> None:
    for axes, of_task in _panels(part, section):
        best = of_task.best
        if best is None:
            axes.set_axis_off()
            axes.set_title(broken(f"{of_task.task}: no variant has all seeds", _TITLE), fontsize=7)
            continue
        number = len(of_task.classes)
        seeds = of_task.predicted[best].values()
        counts = sum(confusion_matrix(of_task.labels, one, number) for one in seeds)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        name = broken(f"{of_task.task}: {section.name(best)}", _TITLE)
        axes.set_title(f"{name}, {percent(100 * of_task.accuracy(best))} %", fontsize=7)
        few = number <= _NAMED
        axes.set_xticks(range(number) if few else [], [one[:9] for one in of_task.classes] if few else [])
        axes.set_yticks(range(number) if few else [], [one[:9] for one in of_task.classes] if few else [])
        turned = any(len(one) > 2 for one in of_task.classes)
        axes.tick_params(labelsize=5.5, length=0)
        axes.tick_params(axis="x", rotation=90 if turned else 0)


@plot(
    "reliability",
    label="reliability diagrams",
    caption="Reliability diagrams of each task: accuracy against confidence, with the expected calibration "
    "error of each variant.",
)
def reliability_figure(results: Results) -> Figure:
    """Draw accuracy against confidence per task, a line for each variant (Guo et al., ICML 2017)."""
    styles = results.styles

    def draw(part: SubFigure, section: Section) -> None:
        for axes, of_task in _panels(part, section):
            drawn: Counter[str] = Counter()
            for variant, seeds in of_task.binned.items():
                images, confidence, correct = sum(seeds.values())
                filled = images >= _LEAST
                method = section.methods[variant]
                style, fill = styles[method], FILLS[drawn[method] % len(FILLS)]
                drawn[method] += 1
                axes.plot(
                    confidence[filled] / images[filled], correct[filled] / images[filled],
                    color=style.color, linestyle=style.dash, linewidth=1, marker=style.marker, fillstyle=fill,
                    markersize=2.5, mew=0.5, markerfacecoloralt="white", label=section.name(variant),
                )  # fmt: skip
            axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.6, linestyle=":")
            axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
            axes.set_title(broken(f"{of_task.task}: ECE {_errors(of_task)}", _TITLE), fontsize=7)
        part.supylabel("accuracy", fontsize=7.5)
        for axes in part.axes[: len(answers(section).tasks)][-_beside() :]:
            axes.set_xlabel("confidence", fontsize=7.5)
        handles = {
            label: handle
            for axes in part.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        narrow = LOOK.get().narrow
        part.legend(
            handles.values(), handles, loc="outside lower left" if narrow else "outside right upper",
            ncols=_BELOW if narrow else 1, frameon=False, handlelength=2, fontsize=6.5,
        )  # fmt: skip

    def height(section: Section) -> float:
        lines = math.ceil(len(section.variants) / _BELOW) if LOOK.get().narrow else 0
        return _height(section) + _LEGEND * lines

    note = (
        "Across: confidence, the highest probability of an image; in 15 equal bins of all seeds together, "
        f"those with {_LEAST} images or more. Below the dotted line a model is surer than right. ECE (%): "
        "the mean gap of each seed, then averaged; the lowest and the highest of the variants."
    )
    return _figure(results, height, draw, lambda section: note)


def _errors(of_task: OfTask) -> str:
    """Return the range of the variants' calibration errors, in percent."""
    errors = [
        100 * np.mean([calibration_error(one) for one in seeds.values()]) for seeds in of_task.binned.values()
    ]
    low, high = min(errors), max(errors)
    return percent(low) if len(errors) == 1 else f"{percent(low)} to {percent(high)}"


@plot(
    "agreement",
    label="agreement of mistakes",
    caption="Of the images that either of two variants gets wrong, the share that both do, mean over tasks.",
)
def agreement_figure(results: Results) -> Figure:
    """Draw the shared mistakes of any two variants; the diagonal compares seeds of the same."""

    def height(section: Section) -> float:
        return 0.8 + 0.26 * len(matrix(section, "shared_mistakes"))

    note = (
        "Of the images that either of two runs gets wrong, the share (%) that both do: per task and seed, "
        "then averaged over what both have. Diagonal: two seeds of the same variant."
    )
    return _figure(results, height, _draw_agreement, lambda section: note)


def _draw_agreement(part: SubFigure, section: Section) -> None:
    shared = matrix(section, "shared_mistakes")
    names = [broken(section.name(name), 24) for name in shared.index]
    axes = part.subplots()
    values = shared.to_numpy()
    axes.imshow(values, cmap="Blues", vmin=0, vmax=100, interpolation="nearest", aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 0, fontsize=6.5)
    axes.set_yticks(range(len(names)), names, fontsize=6.5)
    axes.tick_params(length=0)
    for row, column in np.ndindex(values.shape) if len(names) <= _WRITTEN else ():
        value = values[row, column]
        if not np.isnan(value):
            color = "white" if value > 60 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=color)
