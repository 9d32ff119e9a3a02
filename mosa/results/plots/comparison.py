"""The comparison plot: a dot per variant in a panel per group, with the spread over seeds."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mosa.results.aggregate import MEAN_OVER_TASKS, Key, Results, Section
from mosa.results.plots.figures import QUIET, seeds_of, stack
from mosa.results.registry import plot
from mosa.results.style import MethodStyle


@plot(
    "comparison",
    label="comparison by group",
    caption="The main variants by group of tasks, with the spread over seeds.",
)
def comparison_figure(results: Results) -> Figure:
    """Draw a dot plot per benchmark and backbone: a wide panel for the mean over tasks, and one per group."""
    sections = results.compared
    styles = results.styles
    grids = [_panel_grid(section) for section in sections]
    heights = [
        len(grid) * (0.6 + 0.2 * len(section.variants)) for section, grid in zip(sections, grids, strict=True)
    ]
    figure, parts = stack(sections, heights, [_note(section) for section in sections])
    for part, section, grid in zip(parts, sections, grids, strict=True):
        panels = part.subplot_mosaic([[str(place) for place in row] for row in grid], empty_sentinel="-1")
        for place, key in enumerate(_panels(section)):
            _draw_panel(
                panels[str(place)], section, key, styles, labelled=any(row[0] == place for row in grid)
            )
    return figure


def _panels(section: Section) -> list[Key]:
    groups = [("group", group) for group in section.groups]
    return [MEAN_OVER_TASKS, *(groups if len(groups) > 1 else [])]


def _panel_grid(section: Section) -> list[list[int]]:
    """Arrange the panels by number: the first in the full width, the others below, -1 where it is empty."""
    others = list(range(1, len(_panels(section))))
    columns = max(1, len(others) if len(others) <= 4 else 3)
    others += [-1] * (-len(others) % columns)
    return [[0] * columns, *(others[start : start + columns] for start in range(0, len(others), columns))]


def _draw_panel(
    axes: Axes, section: Section, key: Key, styles: dict[str, MethodStyle], labelled: bool
) -> None:
    overall = key == MEAN_OVER_TASKS
    title = key[1] if overall else textwrap.fill(key[1], 20)
    axes.set_title(title, loc="left", fontweight="bold" if overall else "normal")
    for place, variant in enumerate(section.variants):
        n, mean, sd = (table.loc[variant, key] for table in (section.n, section.mean, section.sd))
        seeds = "" if n == section.full_n else f" (n={n})"
        value = section.shown(mean) + seeds if n else "missing"
        axes.annotate(
            value, (1, place), (3, 0), ("axes fraction", "data"), "offset points",
            va="center", fontsize=7, color=QUIET,
        )  # fmt: skip
        if n == 0:
            continue
        style = styles[section.methods[variant]]
        if section.full_n > 1:
            seeds = section.per_seed.loc[variant, key]
            axes.plot(
                seeds, np.full(len(seeds), place + 0.27), ".", ms=3, color=style.color, alpha=0.6, mew=0
            )
        spread = None if pd.isna(sd) else sd
        axes.errorbar(
            mean, place, xerr=spread, fmt=style.marker, color=style.color, ms=5, mec="white", mew=0.4,
            elinewidth=1, capsize=2,
        )  # fmt: skip
    _set_range(axes, section)
    axes.xaxis.set_major_locator(MaxNLocator(10 if overall else 4, steps=[1, 2, 5, 10]))
    axes.set_ylim(len(section.variants) - 0.4, -0.6)
    axes.set_yticks(range(len(section.variants)), section.variants if labelled else [])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    for place in range(len(section.variants)):
        axes.axhline(place, color="#EFEFEF", linewidth=0.6, zorder=0)


def _set_range(axes: Axes, section: Section) -> None:
    """Give an axis of scores a margin, and at least 30 printed steps, so that noise does not look large."""
    if not axes.has_data():
        axes.set_xlim(0, 100 if section.metric.unit == "%" else 1)
        return
    low, high = axes.dataLim.intervalx
    least = 30 * 10**-section.metric.decimals
    margin = max(0.07 * (high - low), (least - (high - low)) / 2)
    axes.set_xlim(low - margin, high + margin)


def _note(section: Section) -> str:
    groups = "; ".join(f"{group} ({', '.join(tasks)})" for group, tasks in section.groups.items())
    spread = f", bar: ± one sample standard deviation over {seeds_of(section)}" if section.full_n > 1 else ""
    dots = ", small dots: the single seeds" if section.full_n > 1 else f" of {seeds_of(section)}"
    return f"The panels have different axes. Large marker: mean{spread}{dots}. Groups: {groups}."
