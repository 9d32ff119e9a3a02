"""The scaling plots: accuracy against tuned parameters, and against compute, a curve per method."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from mosa.results.aggregate import MEAN_OVER_TASKS, Results, Section, count
from mosa.results.plots.figures import seeds_of, stack
from mosa.results.registry import plot
from mosa.results.style import MethodStyle
from mosa.results.tables.columns import mean_label

_SIZE_OPTIONS = ("bottleneck", "rank")  # what a sweep changes to change the number of parameters
_REFERENCES = ("linear", "full")  # what the sweeps are held against
_FILLS = ("full", "bottom", "left", "top", "right")  # of the markers of a method's first, second, ... curve


class Series(NamedTuple):
    """Variants of one method which differ in size only, smallest first."""

    label: str
    method: str
    variants: list[str]


@plot(
    "scaling",
    label="scores against tuned parameters",
    caption="Mean over tasks against the tuned parameters without the classifier: a curve per method.",
)
def scaling_figure(results: Results) -> Figure:
    """Draw the mean over tasks against the tuned parameters, a panel per benchmark and backbone."""
    sections = results.swept
    sizes = [section.parameters["adapter_mean"] for section in sections]
    return cost_figure(results, sections, sizes, "tuned parameters without head")


def cost_figure(
    results: Results,
    sections: list[Section],
    sizes: list[pd.Series],
    label: str,
) -> Figure:
    """Draw the mean over tasks against a cost, by variant, a panel per section."""
    figure, parts = stack(sections, [2.9] * len(sections), [_note(section) for section in sections])
    for part, section, size in zip(parts, sections, sizes, strict=True):
        axes = part.subplots()
        _draw_scaling(axes, section, _series(section, results.order or ()), results.styles, size)
        axes.set_xlabel(label)
        part.legend(loc="outside right upper", frameon=False, handlelength=3)
    return figure


def _series(section: Section, order: Sequence[str]) -> list[Series]:
    """Split the variants into curves: one method, all options equal but those that set the size."""
    curves: dict[tuple[str, str], list[str]] = defaultdict(list)
    for variant in section.variants:
        options = section.runs.loc[section.runs["variant"] == variant, "options"].iloc[0]
        others = {name: value for name, value in options.items() if name not in _SIZE_OPTIONS}
        curves[section.methods[variant], json.dumps(others, sort_keys=True)].append(variant)
    curves_of = Counter(method for method, _ in curves)
    series = []
    for (method, _), variants in curves.items():
        base = next((variant for variant in order if variant in variants), min(variants, key=len))
        series.append(Series(method if curves_of[method] == 1 else base, method, variants))
    return series


def _draw_scaling(
    axes: Axes, section: Section, series: list[Series], styles: dict[str, MethodStyle], size: pd.Series
) -> None:
    mean, sd = section.mean[MEAN_OVER_TASKS], section.sd[MEAN_OVER_TASKS]
    shown = size[(size > 0) & mean.notna()]
    decades = math.log10(shown.max() / shown.min()) if len(shown) else 0
    taken: Counter[float] = Counter()  # how many points have this size already
    drawn: Counter[str] = Counter()  # how many curves this method has already
    for curve in series:
        color, marker, dash = styles[curve.method]
        variants = [variant for variant in curve.variants if not pd.isna(mean[variant])]
        label = curve.label + _sizes(section, variants)
        fill = _FILLS[drawn[curve.method] % len(_FILLS)]
        drawn[curve.method] += 1
        if not variants:
            axes.plot([], [], color=color, marker=marker, linestyle="", label=f"{curve.label}: missing")
            continue
        if curve.method in _REFERENCES:
            level = mean[variants[0]]
            label = f"{curve.label}: {section.shown(level)}"
            axes.axhline(level, color=color, linestyle=dash, linewidth=1, zorder=1)
        elif len(variants) == 1:
            dash = ""
        points = [variant for variant in variants if size[variant] > 0]
        # Points of one size would hide each other: they stand side by side.
        x = [size[variant] * 10 ** (0.012 * decades * taken[size[variant]]) for variant in points]
        taken.update(size[points])
        axes.plot(
            x, mean[points], color=color, marker=marker if points else "", linestyle=dash, label=label,
            mec="white" if fill == "full" else color, mew=0.5, fillstyle=fill,
            markerfacecoloralt="white", zorder=3,
        )  # fmt: skip
        axes.errorbar(x, mean[points], yerr=sd[points], fmt="none", ecolor=color, elinewidth=1, capsize=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,))
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.margins(0.06, 0.08)
    axes.grid()
    axes.set_ylabel(mean_label(section))


def _sizes(section: Section, variants: list[str]) -> str:
    """Tell which sizes the points of a curve have, such as "bottleneck 4, 16, 64"."""
    if len(variants) < 2:
        return ""
    options = section.runs.drop_duplicates("variant").set_index("variant")["options"]
    lines = []
    for name in _SIZE_OPTIONS:
        values = [options[variant][name] for variant in variants if name in options[variant]]
        if values:
            lines.append(f"\n{name} {', '.join(map(str, values))}")
    return "".join(lines)


def _note(section: Section) -> str:
    tasks = section.task_names
    counts = section.n[MEAN_OVER_TASKS]
    low, high = counts[counts > 0].min(), counts.max()
    seeds = f"{low} to {high} seeds" if low < high else seeds_of(section)
    bars = f"bars: ± one sample standard deviation over {seeds}" if high > 1 else seeds
    missing = [variant for variant in section.variants if not counts[variant]]
    absent = f" Not shown, as tasks are missing: {', '.join(missing)}." if missing else ""
    return (
        f"Over {count(len(tasks), 'task')}: {', '.join(tasks)}; {bars}. "
        "Curves join the variants of one method which differ in size only; points of the same size stand "
        f"side by side. Horizontal lines: references.{absent}"
    )
