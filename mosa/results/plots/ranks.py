"""The critical-difference diagram: average ranks over tasks, and which differences are not significant."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mosa.base.words import count
from mosa.results.aggregate import Results, Section
from mosa.results.plots.figures import QUIET, broken, stack
from mosa.results.registry import plot
from mosa.results.stats import (
    CONFIDENCE,
    average_ranks,
    cliques,
    critical_difference,
    friedman_p,
    smallest_friedman_p,
)

_LINE = 0.17  # inches of a line of text
_ABOVE = 2.4  # lines above the axis
_BAR = 0.28  # lines that a bar takes


@plot(
    "ranks",
    label="average ranks",
    caption="Average ranks over tasks, with bars over variants whose difference is not "
    "significant (critical-difference diagram, Nemenyi, 5 %).",
)
def rank_figure(results: Results) -> Figure:
    """Draw average ranks over tasks per benchmark and backbone (Demsar, JMLR 2006).

    Variants joined by a bar differ by less than Nemenyi's critical difference at 5 %. Variants that lack a
    task, or a seed that another variant has, are left out and named. With fewer than three variants or two
    tasks, the plot has a message instead.
    """
    sections = results.compared
    ranked = [_ranks(section) for section in sections]
    heights = [_height(section, ranks) for section, ranks in zip(sections, ranked, strict=True)]
    notes = [_note(section, ranks) for section, ranks in zip(sections, ranked, strict=True)]
    figure, parts = stack([section.title for section in sections], heights, notes)
    styles = results.styles
    for part, section, ranks in zip(parts, sections, ranked, strict=True):
        axes = part.subplots()
        axes.set_axis_off()
        if _can_rank(section, ranks):
            _draw(axes, section, ranks, {v: styles[section.methods[v]].color for v in ranks.index})
        else:
            needs = "ranks need three variants with all seeds, and two tasks"
            axes.text(0.5, 0.5, needs, ha="center", color=QUIET)
    return figure


def _ranks(section: Section) -> pd.Series:
    """Return the average rank of each variant that has every seed of every task, best first."""
    scores = _scores(section)
    if scores.empty:
        return pd.Series(dtype=float)
    return pd.Series(average_ranks(section.sign * scores.to_numpy().T), index=scores.index).sort_values(
        kind="stable"
    )


def _scores(section: Section) -> pd.DataFrame:
    """Return the means of the variants that can be ranked; columns: tasks."""
    tasks = [("task", task) for task in section.task_names]
    return section.mean.loc[section.complete(*tasks), tasks]


def _height(section: Section, ranks: pd.Series) -> float:
    below = _layout(section, ranks).below if _can_rank(section, ranks) else 2.0
    return 0.35 + _LINE * (_ABOVE + below)


def _can_rank(section: Section, ranks: pd.Series) -> bool:
    return len(ranks) >= 3 and len(section.task_names) >= 2


class _Layout(NamedTuple):
    """Where things stand, in lines of text above or below the axis of ranks.

    Attributes:
        bars: First and last place of the variants under each bar.
        names: Names of the variants, in as many lines as they need.
        first: Where the names begin, below all bars.
        pitch: Lines of one name.
        rows: Names on either side.
    """

    bars: list[tuple[int, int]]
    names: list[str]
    first: float
    pitch: int
    rows: int

    @property
    def below(self) -> float:
        """Lines below the axis."""
        return self.first + self.pitch * self.rows + 0.4


def _layout(section: Section, ranks: pd.Series) -> _Layout:
    names = [broken(section.name(variant), 24) for variant in ranks.index]
    difference = critical_difference(len(ranks), len(section.task_names))
    bars = cliques(ranks.to_numpy(), difference)
    pitch = 1 + max(name.count("\n") for name in names)
    return _Layout(bars, names, 0.35 + _BAR * len(bars), pitch, -(-len(names) // 2))


def _draw(axes: Axes, section: Section, ranks: pd.Series, colors: dict[str, str]) -> None:
    number, layout = len(ranks), _layout(section, ranks)
    axes.set_xlim(-0.35 * (number - 1), 1.35 * (number - 1))  # rank 1 at 0; names stand on both sides
    axes.set_ylim(-layout.below, _ABOVE)
    _draw_axis(axes, number, critical_difference(number, len(section.task_names)))
    for place, (variant, rank) in enumerate(ranks.items()):
        left = place < layout.rows
        row = place if left else number - 1 - place
        line = -layout.first - layout.pitch * (row + 0.5)
        end = -0.05 * (number - 1) if left else 1.05 * (number - 1)
        axes.plot([rank - 1, rank - 1, end], [0, line, line], color=colors[variant], linewidth=1)
        name = layout.names[place]
        text = f"{name} {rank:.2f}" if left else f"{rank:.2f} {name}"
        gap = -0.01 * (number - 1) if left else 0.01 * (number - 1)
        axes.text(end + gap, line, text, ha="right" if left else "left", va="center", fontsize=7.5)
    for level, (first, last) in enumerate(layout.bars):
        height = -0.25 - _BAR * level
        axes.plot(
            [ranks.iloc[first] - 1.04, ranks.iloc[last] - 0.96], [height] * 2, color="#444444", linewidth=2.5,
            solid_capstyle="butt", zorder=3,
        )  # fmt: skip


def _draw_axis(axes: Axes, number: int, difference: float) -> None:
    """Draw the axis of ranks, and the critical difference above it."""
    axes.plot([0, number - 1], [0, 0], color="black", linewidth=1)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, number) if number <= 16 * step)
    for rank in range(1, number + 1):
        axes.plot([rank - 1] * 2, [0, 0.25], color="black", linewidth=1)
        if rank == 1 or rank % step == 0:
            axes.text(rank - 1, 0.4, str(rank), ha="center", va="bottom", fontsize=7.5)
    shown = min(difference, number - 1)
    axes.plot([0, shown], [1.9, 1.9], color="black", linewidth=1, marker="|", markersize=5)
    wide = "" if difference <= number - 1 else " (wider than the axis)"
    text = f"critical difference {difference:.2f}{wide}"
    axes.text(shown / 2, 2.0, text, ha="center", va="bottom", fontsize=7)


def _note(section: Section, ranks: pd.Series) -> str:
    absent = [section.name(variant) for variant in section.variants if variant not in ranks.index]
    left_out = f" Left out, as tasks or seeds are missing: {', '.join(absent)}." if absent else ""
    if not _can_rank(section, ranks):
        return f"Average ranks over tasks.{left_out}"
    return (
        f"Average rank over {count(len(section.task_names), 'task')} by the mean over "
        f"{count(section.full_n, 'seed')}, 1 being the best. {_about_test(section)} Variants under one bar "
        f"differ by less than Nemenyi's critical difference (5 %); few tasks make it wide.{left_out}"
    )


def _about_test(section: Section) -> str:
    scores = _scores(section).to_numpy().T
    p = friedman_p(scores)
    if np.isnan(p):
        return "All have equal ranks."
    text = f"Friedman test, by permutation: p = {p:.2g}"
    smallest = smallest_friedman_p(*scores.shape)
    if smallest > 1 - CONFIDENCE:
        few = f"{count(scores.shape[0], 'task')} and {count(scores.shape[1], 'variant')}"
        return f"{text}, which with {few} cannot be below {smallest:.2g}: nothing can be concluded."
    return f"{text}."
