"""The options plot: scores against each option, and key of the recipe, that takes three values or more."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure, SubFigure

from mosa.base.words import count
from mosa.experiment.curves import Curve, is_number, option_curves
from mosa.results.aggregate import MEAN_OVER_TASKS, Results, Section
from mosa.results.plots.chart import Axis, Chart, Point, Series
from mosa.results.plots.draw import draw_chart
from mosa.results.plots.figures import LOOK, WIDTHS, broken, seeds_of, stack
from mosa.results.registry import plot
from mosa.results.settings import differing, in_words, section_settings
from mosa.results.style import MethodStyle
from mosa.results.tables.columns import mean_label

_HEIGHT = 1.75  # inches of a row of panels
_SHIFT = 0.06  # of the place of a value: how far curves stand apart


@plot(
    "options",
    label="scores against options",
    caption="Mean over tasks against each option (experts, ...) or key of the recipe (fraction, epochs, ...) "
    "that takes at least three values, nothing else changed.",
    when="swept_option",
)
def options_figure(results: Results) -> Figure | None:
    """Draw the mean over tasks against each option's values, a panel per option.

    Numbers are joined by a line and other values are not. An axis of positive numbers is logarithmic; others
    have equal steps, so that 0 has a place beside powers of two. The dense adapter is a line with its own
    spread, unless it is on a curve.

    Args:
        results: The records, and how to compare them.

    Returns:
        The figure; None if no option takes three values while everything else stays the same.
    """
    found = [(section, _curves(section, results.order or ())) for section in results.swept]
    found = [(section, curves) for section, curves in found if curves]
    if not found:
        return None
    charts = [
        (section, [option_chart(section, option, drawn, results.styles) for option, drawn in curves.items()])
        for section, curves in found
    ]
    figure, parts = stack(
        [section.title for section, _ in found],
        [_HEIGHT * len(panel_grid(len(curves))) + 0.35 * (not _has_gap(len(curves))) for _, curves in found],
        [_note(*part) for part in found],
        width=WIDTHS[1] if all(len(curves) == 1 for _, curves in found) else None,
    )
    for part, (section, panels) in zip(parts, charts, strict=True):
        _draw_panels(part, panels)
        part.supylabel(mean_label(section), fontsize=8)
    return figure


def panel_grid(number: int) -> list[list[int]]:
    """Arrange panels by number; -1 is a gap, which the legend takes."""
    most = 2 if LOOK.get().narrow else 3
    columns = number if number <= most else 2 if number == 4 else most
    places = [*range(number), *[-1] * (-number % columns)]
    return [places[start : start + columns] for start in range(0, len(places), columns)]


def _has_gap(number: int) -> bool:
    return panel_grid(number)[-1][-1] < 0


def _draw_panels(part: SubFigure, charts: list[Chart]) -> None:
    grid = panel_grid(len(charts))
    panels = part.subplots(len(grid), len(grid[0]), sharey=True, squeeze=False)
    handles: dict[str, Artist] = {}
    for axes, chart in zip(panels.flat, charts, strict=False):
        draw_chart(axes, chart, y_ticks=6, beside=charts)
        axes.set_title(chart.title, loc="left")
        axes.set_xlabel("")
        axes.set_ylabel("")
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    gaps = panels.flat[len(charts) :]
    for axes in gaps:
        axes.set_axis_off()
    if len(gaps):
        gaps[0].legend(handles.values(), handles, frameon=False, loc="upper left", handlelength=2.2)
    else:
        columns = 2 if LOOK.get().narrow else 4
        part.legend(
            handles.values(), handles, frameon=False, loc="outside lower center", ncols=columns,
            handlelength=2.2,
        )  # fmt: skip


def _curves(section: Section, order: Sequence[str]) -> dict[str, list[Curve]]:
    """Return the curves of a section, with the variants of the comparison first where two are the same."""
    settings = section_settings(section)
    names = dict.fromkeys([*order, *section.variants])
    return option_curves(
        {name: (section.methods[name], settings[name], {}) for name in names if name in settings}
    )


def option_chart(section: Section, option: str, curves: list[Curve], styles: dict[str, MethodStyle]) -> Chart:
    """Return the mean over tasks against the values of one option.

    Args:
        section: The runs, those of the sweep too.
        option: Name of the option.
        curves: The variants that differ in this option only, see `mosa.experiment.curves`.
        styles: Style of each method.
    """
    values = list({json.dumps(v): v for curve in curves for v, _ in curve.variants}.values())
    values = sorted(
        values, key=lambda value: (not is_number(value), value if is_number(value) else str(value))
    )
    log = all(is_number(value) and value > 0 for value in values)
    places = values if log else range(len(values))
    place = {json.dumps(value): place for value, place in zip(values, places, strict=True)}
    step = math.log10(values[-1] / values[0]) / (len(values) - 1) if log else 1  # between two values
    curves_of = Counter(curve.method for curve in curves)
    drawn: Counter[str] = Counter()  # how many curves this method has already
    series = []
    for index, curve in enumerate(curves):
        names = {place[json.dumps(value)]: name for value, name in curve.variants}
        shift = _SHIFT * step * (index - (len(curves) - 1) / 2)
        base = broken(section.name(min(names.values(), key=len)), 24)
        label = curve.method if curves_of[curve.method] == 1 else base
        joined = all(is_number(value) for value, _ in curve.variants)
        points = _points(section, names, shift)
        series.append(Series(label, styles[curve.method], points, joined, drawn[curve.method]))
        drawn[curve.method] += 1
    if section.methods.get(section.reference) not in curves_of:
        series += _reference(section, styles)
    return Chart(
        title=option.replace("_", " "),
        x=Axis(
            option,
            "log" if log else "names",
            tuple(_tick(option, value) for value in values),
            places=tuple(places),
        ),
        y=Axis(mean_label(section), unit=section.metric.unit, floor=section.metric.floor),
        series=tuple(series),
    )


def _points(section: Section, names: dict[float, str], shift: float) -> tuple[Point, ...]:
    mean, sd = section.mean[MEAN_OVER_TASKS], section.sd[MEAN_OVER_TASKS]
    return tuple(
        Point(section.name(name), x, mean[name], section.shown(mean[name]), sd[name], shift)
        for x, name in names.items()
        if not pd.isna(mean[name])
    )


def _reference(section: Section, styles: dict[str, MethodStyle]) -> list[Series]:
    """Return the reference as a line with its spread, if it has a mean."""
    name = section.reference
    if name not in section.mean.index or pd.isna(section.mean.loc[name, MEAN_OVER_TASKS]):
        return []
    mean, sd = (table.loc[name, MEAN_OVER_TASKS] for table in (section.mean, section.sd))
    label = broken(f"{section.name(name)}: {section.shown(mean)}", 24)
    return [Series(label, styles[section.methods[name]], level=mean, band=sd)]


def _tick(option: str, value: object) -> str:
    """Return the tick label of a value; the number of experts is followed by the sparsity of the split."""
    text = value if isinstance(value, str) else json.dumps(value)
    if option == "experts" and is_number(value) and not LOOK.get().narrow:
        return f"{text}\n{100 * (1 - 1 / value):.3g} %"
    return text


def _note(section: Section, curves: dict[str, list[Curve]]) -> str:
    tasks = section.task_names
    spread = f"; bars and band: ± one sample standard deviation over {seeds_of(section)}"
    sparsity = " Below the number of experts: the split's sparsity, 1 - 1/experts."
    return (
        f"Over {count(len(tasks), 'task')}: {', '.join(tasks)}{spread if section.full_n > 1 else ''}. "
        f"Each panel changes one option and nothing else; axes of positive numbers are logarithmic."
        f"{sparsity if 'experts' in curves and not LOOK.get().narrow else ''}"
        f"{_about_reference(section, curves)}"
    )


def _about_reference(section: Section, curves: dict[str, list[Curve]]) -> str:
    """Return in what the reference's line differs from the curves beside it; empty if in nothing."""
    settings, reference = section_settings(section), section.reference
    method = section.methods.get(reference)
    found: dict[str, tuple[Any, Any]] = {}
    for option, drawn in curves.items():
        beside = [] if any(curve.method == method for curve in drawn) else drawn
        for curve in beside if reference in settings else []:
            for _, name in curve.variants:
                found = differing(settings[reference], settings[name], [option]) | found
    name = section.name(reference)
    return f" The line of {name} differs in more ({name} / curve): {in_words(found)}." if found else ""
