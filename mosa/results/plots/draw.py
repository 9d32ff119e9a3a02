"""A chart drawn by matplotlib."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from mosa.results.plots.chart import Chart, Point, Series, shown_range
from mosa.results.plots.figures import LOOK, stack

LEAST_DECADES = 0.8  # of a log axis, so that it has two labels or more
_LEGEND_LINE = 0.178  # inches
FILLS = ("full", "bottom", "left", "top", "right")  # of the markers of a method's first, second, ... series
_MORE_MARKERS = ("^", "v", "<", ">", "p", "h", "*")  # of a method's series after those


def chart_figure(charts: list[Chart], height: float = 2.9) -> Figure:
    """Return a figure with a panel and a legend for each chart.

    Args:
        charts: What to draw, from top to bottom.
        height: Inches of each panel, at least; a long legend takes more.
    """
    titles, notes = [chart.title for chart in charts], [chart.note for chart in charts]
    narrow = LOOK.get().narrow
    legends = [_LEGEND_LINE * _legend_lines(chart) + 0.3 for chart in charts]
    heights = [0.75 * height + legend if narrow else max(0.9 * height, legend) for legend in legends]
    figure, parts = stack(titles, heights, notes)
    for part, chart in zip(parts, charts, strict=True):
        draw_chart(part.subplots(), chart)
        part.legend(
            loc="outside lower left" if narrow else "outside right upper", frameon=False, handlelength=2.6
        )
    return figure


def _legend_lines(chart: Chart) -> int:
    return sum(1 + series.label.count("\n") for series in chart.series)


def draw_chart(axes: Axes, chart: Chart, y_ticks: int = 8, beside: Sequence[Chart] = ()) -> None:
    """Draw a chart into axes, without its title, note and legend.

    Args:
        axes: Where to draw.
        chart: What to draw.
        y_ticks: The most ticks on the y axis.
        beside: The charts that share its y axis, itself among them; none: it has its own.
    """
    for series in chart.series:
        _draw_series(axes, chart, series)
    if chart.x.scale == "log":
        _set_log_axis(axes, chart)
    else:
        axes.set_xticks(range(len(chart.x.names)), chart.x.names)
        axes.set_xlim(-0.4, len(chart.x.names) - 0.6)
        axes.grid(axis="y")
    _set_scores(axes, chart, beside or [chart])
    axes.yaxis.set_major_locator(MaxNLocator(y_ticks, steps=[1, 2, 5, 10]))
    axes.set_xlabel(chart.x.label)
    axes.set_ylabel(chart.y.label)


def _draw_series(axes: Axes, chart: Chart, series: Series) -> None:
    color, marker, dash = series.style
    rounds, place = divmod(series.variation, len(FILLS))
    fill = FILLS[place]
    markers = [marker, *(other for other in _MORE_MARKERS if other != marker)]
    marker = markers[rounds % len(markers)]
    if series.level is not None:
        axes.axhline(series.level, color=color, linestyle=dash, linewidth=1, zorder=1)
        if not math.isnan(series.band):
            below, above = chart.bar(series.level, series.band)
            axes.axhspan(
                series.level - below, series.level + above, color=color, alpha=0.12, linewidth=0, zorder=0
            )
    x, y = [chart.drawn_x(point) for point in series.points], [point.y for point in series.points]
    axes.plot(
        x, y, color=color, label=series.label,
        marker=marker if x or series.level is None else "",
        linestyle=dash if series.joined or series.level is not None else "",
        mec="white" if fill == "full" else color, mew=0.5, fillstyle=fill, markerfacecoloralt="white",
        zorder=3,
    )  # fmt: skip
    bars = [chart.bar(point.y, point.spread) for point in series.points]
    axes.errorbar(
        x, y, yerr=[*zip(*bars, strict=True)] or None, fmt="none", ecolor=color, elinewidth=1, capsize=2
    )


def _set_scores(axes: Axes, chart: Chart, beside: Sequence[Chart]) -> None:
    """Show the scores at their scale, with their bars; one far off is marked at the edge, with its value."""
    drawn = [series for one in beside for series in one.series]
    points = [point for series in drawn for point in series.points if not math.isnan(point.y)]
    levels = [(series.level, series.band) for series in drawn if series.level is not None]
    low, high = shown_range([*(point.y for point in points), *(level for level, _ in levels)], chart.y)

    def is_far(point: Point) -> bool:
        return not math.isnan(point.y) and not low <= point.y <= high

    if not any(map(is_far, points)):
        return
    near = [(point.y, point.spread) for point in points] + levels
    bars = [(score, *chart.bar(score, spread)) for score, spread in near if low <= score <= high]
    least = min([low, *(score - below for score, below, _ in bars if not math.isnan(below))])
    most = max([high, *(score + above for score, _, above in bars if not math.isnan(above))])
    margin = 0.08 * (most - least) + (most == least)
    bottom, top = least - 2 * margin, most + 2 * margin
    axes.set_ylim(bottom, top)
    for series in chart.series:
        for point in series.points:
            if is_far(point):
                under = point.y < low
                edge, marker = (bottom, "v") if under else (top, "^")
                x = chart.drawn_x(point)
                axes.plot(x, edge, marker, color=series.style.color, mew=0, zorder=4, clip_on=False)
                axes.annotate(
                    point.text, (x, edge), (0, 4 if under else -4), textcoords="offset points", fontsize=7,
                    ha="center", va="bottom" if under else "top", color=series.style.color,
                )  # fmt: skip


def _set_log_axis(axes: Axes, chart: Chart) -> None:
    places = [point.x for series in chart.series for point in series.points]
    decades = math.log10(max(places) / min(places)) if places else 0
    axes.set_xscale("log")
    if chart.x.places:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(chart.x.places, chart.x.names)
    else:
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,))
        )
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.06, 0.08)
    if places and decades < LEAST_DECADES and not chart.x.places:
        middle, half = math.sqrt(max(places) * min(places)), 10 ** (LEAST_DECADES / 2)
        axes.set_xlim(middle / half, middle * half)
    axes.grid()
