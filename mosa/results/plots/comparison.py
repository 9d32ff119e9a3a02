"""The comparison plot: a dot per variant in a panel per group, with the spread over seeds."""

import textwrap
from collections import Counter

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mosa.results.aggregate import MEAN_OVER_TASKS, Key, Results, Section
from mosa.results.learned import marked
from mosa.results.plots.chart import Axis, Chart, Point, Series, shown_range
from mosa.results.plots.figures import LOOK, QUIET, broken, seeds_of, stack
from mosa.results.provenance import short_notes
from mosa.results.registry import plot
from mosa.results.style import MethodStyle
from mosa.results.tables.columns import notes_of, tasks_of

_WIDTH = 0.6  # of the place of a score, over which the variants are spread
_STEPS = 30  # as printed, which an axis of scores shows at least
_NO_RUN = MethodStyle("#767676", "x", "-")  # of a variant without any run, which has no method


@plot(
    "comparison",
    label="comparison by group",
    caption="The main variants by group of tasks, with the spread over seeds.",
)
def comparison_figure(results: Results) -> Figure:
    """Draw dots per benchmark and backbone: a wide panel for the mean over tasks, one per other score."""
    charts = [comparison_chart(section, results.styles) for section in results.compared]
    grids = [_panel_grid(len(chart.x.names)) for chart in charts]
    figure, parts = stack(
        [chart.title for chart in charts],
        [
            len(grid) * (0.6 + _row_height(chart) * len(chart.series))
            for chart, grid in zip(charts, grids, strict=True)
        ],
        [f"The panels have different axes{_about_dots(chart)}. {chart.note}" for chart in charts],
    )
    for part, chart, grid in zip(parts, charts, grids, strict=True):
        panels = part.subplot_mosaic([[str(place) for place in row] for row in grid], empty_sentinel="-1")
        for place in range(len(chart.x.names)):
            labelled = any(row[0] == place for row in grid)
            _draw_panel(panels[str(place)], chart, place, labelled)
    return figure


def _row_height(chart: Chart) -> float:
    """Return the inches of a row, in which the longest name has place."""
    return max([0.2, *(0.07 + 0.13 * (1 + series.label.count("\n")) for series in chart.series)])


def comparison_chart(section: Section, styles: dict[str, MethodStyle]) -> Chart:
    """Return the scores of each variant: mean over tasks, then groups, or tasks where there is one group.

    Args:
        section: The runs.
        styles: Style of each method.
    """
    groups: list[Key] = [("group", group) for group in section.groups]
    tasks: list[Key] = [("task", task) for task in section.task_names]
    keys = [MEAN_OVER_TASKS, *(groups if len(groups) > 1 else tasks if len(tasks) > 1 else [])]
    number = len(section.variants)
    series, drawn = [], Counter()
    for index, variant in enumerate(section.variants):
        method = section.methods.get(variant)
        shift = _WIDTH * ((index + 0.5) / number - 0.5)
        points = [_point(section, variant, key, place, shift) for place, key in enumerate(keys)]
        style = styles.get(method, _NO_RUN)
        series.append(Series(broken(section.name(variant)), style, tuple(points), variation=drawn[method]))
        drawn[method] += 1
    return Chart(
        title=section.title,
        x=Axis("", "names", tuple(name for _, name in keys)),
        y=Axis(
            section.metric.label,
            unit=section.metric.unit,
            least=_STEPS * 10**-section.metric.decimals,
            floor=section.metric.floor,
        ),
        series=tuple(series),
        note=_note(section),
    )


def _point(section: Section, variant: str, key: Key, place: int, shift: float) -> Point:
    n, mean, sd = (table.loc[variant, key] for table in (section.n, section.mean, section.sd))
    seeds = section.per_seed[key].get(variant, pd.Series(dtype=float)).dropna()
    notes = notes_of(section, variant, key, marked(section.runs, tasks_of(section, key)))
    return Point(
        name=section.name(variant),
        x=place,
        y=mean,
        text=f"{section.shown(mean)} {notes}".rstrip() if n else "missing",
        spread=sd,
        shift=shift,
        seeds=tuple(seeds) if section.full_n > 1 else (),
    )


def _panel_grid(number: int) -> list[list[int]]:
    """Arrange panels by number: the first in the full width, the others below, -1 where it is empty."""
    others = list(range(1, number))
    most = 2 if LOOK.get().narrow else 4
    columns = max(1, len(others) if len(others) <= most else min(most, 3))
    others += [-1] * (-len(others) % columns)
    return [[0] * columns, *(others[start : start + columns] for start in range(0, len(others), columns))]


def _draw_panel(axes: Axes, chart: Chart, place: int, labelled: bool) -> None:
    """Draw the points of all series at one place of the x axis, a row for each series."""
    overall, name = place == 0, chart.x.names[place]
    title = name if overall else textwrap.fill(name, 20)
    ticks = 3 if LOOK.get().narrow else 4
    axes.set_title(title, loc="left", fontweight="bold" if overall else "normal")
    for row, series in enumerate(chart.series):
        _draw_row(axes, chart, series, series.points[place], row)
    _set_range(axes, chart.y)
    for row in range(len(chart.series)):
        axes.axhline(row, color="#EFEFEF", linewidth=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(2 * ticks + 2 if overall else ticks, steps=[1, 2, 5, 10]))
    axes.set_ylim(len(chart.series) - 0.4, -0.6)
    axes.set_yticks(range(len(chart.series)), [s.label for s in chart.series] if labelled else [])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _draw_row(axes: Axes, chart: Chart, series: Series, point: Point, row: int) -> None:
    axes.annotate(
        point.text, (1, row), (3, 0), ("axes fraction", "data"), "offset points",
        va="center", fontsize=7, color=QUIET,
    )  # fmt: skip
    if pd.isna(point.y):
        return
    color, marker, _ = series.style
    scores = [one.points[int(point.x)].y for one in chart.series]
    low, high = shown_range(scores, chart.y)
    if not low <= point.y <= high:  # at the edge; its value stands beside it
        edge = 0 if point.y < low else 1
        axes.plot(
            edge, row, "<" if edge == 0 else ">", color=color, ms=5, mew=0, clip_on=False, zorder=4,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        return
    axes.plot(point.seeds, [row + 0.27] * len(point.seeds), ".", ms=3, color=color, alpha=0.6, mew=0)
    below, above = chart.bar(point.y, point.spread)
    axes.errorbar(
        point.y,
        row,
        xerr=None if pd.isna(point.spread) else [[below], [above]],
        fmt=marker,
        color=color,
        ms=5,
        mec="white",
        mew=0.4,
        elinewidth=1,
        capsize=2,
    )


def _set_range(axes: Axes, score: Axis) -> None:
    """Give an axis of scores a margin, and at least its smallest range."""
    if not axes.has_data():
        axes.set_xlim(0, 100 if score.unit == "%" else 1)
        return
    low, high = axes.dataLim.intervalx
    margin = max(0.07 * (high - low), (score.least - (high - low)) / 2)
    axes.set_xlim(low - margin, high + margin)


def _about_dots(chart: Chart) -> str:
    seeds = any(point.seeds for series in chart.series for point in series.points)
    return "; small dots: the single seeds" if seeds else ""


def _note(section: Section) -> str:
    groups = "; ".join(f"{group} ({', '.join(tasks)})" for group, tasks in section.groups.items())
    seeds = seeds_of(section)
    spread = f"mean, bar: ± one sample standard deviation over {seeds}" if section.full_n > 1 else seeds
    return f"Marker: {spread}. Groups: {groups}. {' '.join(short_notes(section.runs))}".rstrip()
