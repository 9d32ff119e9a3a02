"""The options plot: scores against each option, and key of the recipe, that takes three values or more."""

import json
from collections import Counter
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mosa.experiment.curves import Curve, is_number, option_curves
from mosa.results.aggregate import MEAN_OVER_TASKS, Results, Section, count
from mosa.results.plots.figures import seeds_of, stack
from mosa.results.registry import plot
from mosa.results.style import MethodStyle
from mosa.results.tables.columns import mean_label

_COLUMNS = 3
_HEIGHT = 1.75  # inches of a row of panels
_DENSE = "adapter"  # the variant that stands as a line wherever it is not on a curve


@plot(
    "options",
    label="scores against options",
    caption="Mean over tasks against each option (experts, ...) or key of the recipe (fraction, epochs, ...) "
    "that takes at least three values, nothing else changed.",
    when="swept_option",
)
def options_figure(results: Results) -> Figure | None:
    """Draw the mean over tasks against each option's values, a panel per option.

    Numbers are joined by a line and other values are not. The values are equally spaced, so that 0 has a
    place beside powers of two. The dense adapter is a line with its own spread, where it is no curve.

    Args:
        results: The records, and how to compare them.

    Returns:
        The figure; None if no option takes three values while everything else stays the same.
    """
    found = [(section, _curves(section, results.order or ())) for section in results.swept]
    found = [(section, curves) for section, curves in found if curves]
    if not found:
        return None
    sections = [section for section, _ in found]
    styles = results.styles
    heights = [_HEIGHT * -(-len(curves) // _COLUMNS) for _, curves in found]
    figure, parts = stack(sections, heights, [_note(*part) for part in found])
    for part, (section, curves) in zip(parts, found, strict=True):
        rows = -(-len(curves) // _COLUMNS)
        panels = part.subplots(rows, min(_COLUMNS, max(2, len(curves))), sharey=True, squeeze=False)
        for axes in panels.flat[len(curves) :]:
            axes.remove()
        for axes, (option, drawn) in zip(panels.flat, curves.items(), strict=False):
            _draw_option(axes, section, option, drawn, styles)
        part.supylabel(mean_label(section), fontsize=8)
    return figure


def _curves(section: Section, order: Sequence[str]) -> dict[str, list[Curve]]:
    """Return the curves of a section, with the variants of the comparison first where two are the same."""
    first = section.runs.drop_duplicates("variant").set_index("variant")
    names = [*(name for name in order if name in first.index), *section.variants]
    recipes = first["recipe"] if "recipe" in first else pd.Series([{}] * len(first), first.index)
    return option_curves(
        {
            name: (first.loc[name, "method"], first.loc[name, "options"], recipes[name])
            for name in dict.fromkeys(names)
            if name in first.index
        }
    )


def _draw_option(
    axes: Axes, section: Section, option: str, curves: list[Curve], styles: dict[str, MethodStyle]
) -> None:
    mean, sd = section.mean[MEAN_OVER_TASKS], section.sd[MEAN_OVER_TASKS].fillna(0)
    values = list({json.dumps(v): v for curve in curves for v, _ in curve.variants}.values())
    values = sorted(
        values, key=lambda value: (not is_number(value), value if is_number(value) else str(value))
    )
    place = {json.dumps(value): index for index, value in enumerate(values)}
    curves_of = Counter(curve.method for curve in curves)
    for index, curve in enumerate(curves):
        color, marker, dash = styles[curve.method]
        points = [(place[json.dumps(v)], name) for v, name in curve.variants if not pd.isna(mean[name])]
        names = [name for _, name in points]
        x = [at + 0.06 * (index - (len(curves) - 1) / 2) for at, _ in points]
        label = curve.method if curves_of[curve.method] == 1 else min((n for _, n in curve.variants), key=len)
        joined = all(is_number(value) for value, _ in curve.variants)
        axes.errorbar(
            x, mean[names], yerr=sd[names], color=color, marker=marker, linestyle=dash if joined else "",
            mec="white", mew=0.5, elinewidth=1, capsize=2, label=label, zorder=3,
        )  # fmt: skip
    if _DENSE in mean.index and not pd.isna(mean[_DENSE]) and "adapter" not in curves_of:
        color, _, dash = styles[section.methods[_DENSE]]
        axes.axhline(mean[_DENSE], color=color, linestyle=dash, linewidth=1, zorder=1)
        low, high = mean[_DENSE] - sd[_DENSE], mean[_DENSE] + sd[_DENSE]
        axes.axhspan(low, high, color=color, alpha=0.12, linewidth=0, zorder=0)
        axes.plot(
            [], [], color=color, linestyle=dash, linewidth=1, label=f"{_DENSE}: {section.shown(mean[_DENSE])}"
        )
    axes.set_title(option.replace("_", " "), loc="left")
    axes.set_xticks(range(len(values)), [_tick(option, value) for value in values])
    axes.set_xlim(-0.4, len(values) - 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    axes.legend(fontsize=6.5, frameon=False, loc="best", handlelength=2.2, borderpad=0.2)


def _tick(option: str, value: object) -> str:
    """Return a value as it stands on the axis; the number of experts with the split's sparsity."""
    text = value if isinstance(value, str) else json.dumps(value)
    if option == "experts" and is_number(value):
        return f"{text}\n{100 * (1 - 1 / value):.3g} %"
    return text


def _note(section: Section, curves: dict[str, list[Curve]]) -> str:
    tasks = section.task_names
    spread = f"; bars and band: ± one sample standard deviation over {seeds_of(section)}"
    sparsity = " Below the number of experts: the split's sparsity, 1 - 1/experts."
    return (
        f"Over {count(len(tasks), 'task')}: {', '.join(tasks)}{spread if section.full_n > 1 else ''}. "
        f"Each panel changes one option and nothing else; values are equally spaced."
        f"{sparsity if 'experts' in curves else ''}"
    )
