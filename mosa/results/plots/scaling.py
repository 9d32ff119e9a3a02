"""The scaling plot: scores against the tuned parameters, a curve per method."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from mosa.base.words import count
from mosa.results.aggregate import MEAN_OVER_TASKS, Results, Section
from mosa.results.costs import COSTS
from mosa.results.plots.chart import Axis, Chart, Point, Series
from mosa.results.plots.draw import LEAST_DECADES, chart_figure
from mosa.results.plots.figures import broken, seeds_of
from mosa.results.provenance import short_notes
from mosa.results.registry import plot
from mosa.results.settings import section_settings, value_text
from mosa.results.style import MethodStyle
from mosa.results.tables.columns import mean_label

SIZE_OPTIONS = ("bottleneck", "rank")  # what a sweep changes to change the number of parameters
REFERENCES = ("linear", "full")  # what the sweeps are held against
_SHIFT = 0.012  # of the range in decades: how far points of one size stand apart
_SHIFTED = 0.07  # of the same: how far all points of one size reach at most


@plot(
    "scaling",
    label="scores against tuned parameters",
    caption="Mean over tasks against the tuned parameters without the classifier: a curve per method.",
)
def scaling_figure(results: Results) -> Figure:
    """Draw the mean over tasks against the tuned parameters, a panel per benchmark and backbone."""
    charts = [
        cost_chart(section, "adapter_parameters", results.styles, results.order or ())
        for section in results.swept
    ]
    return chart_figure(charts)


def cost_chart(
    section: Section, cost: str, styles: dict[str, MethodStyle], order: Sequence[str] = ()
) -> Chart:
    """Return the mean over tasks against a cost, the variants that differ in size only joined to a curve.

    Args:
        section: The runs, those of the sweep too.
        cost: Key of `mosa.results.costs.COSTS`.
        styles: Style of each method.
        order: Variants of the main comparison; one of them names a curve that it is on.
    """
    sizes, mean = COSTS[cost].of(section), section.mean[MEAN_OVER_TASKS]
    shown = sizes[(sizes > 0) & mean.notna()]
    decades = max(LEAST_DECADES, math.log10(shown.max() / shown.min())) if len(shown) else 0
    step = min(_SHIFT, _SHIFTED / shown.value_counts().max()) * decades if len(shown) else 0
    taken: Counter[float] = Counter()  # how many points have this size already
    drawn: Counter[str] = Counter()  # how many curves this method has already
    series = []
    for label, variants in method_curves(section, order):
        method = section.methods[variants[0]]
        places = [variant for variant in variants if variant in shown.index]
        points = [_point(section, name, sizes[name], step * taken[sizes[name]]) for name in places]
        taken.update(sizes[places])
        series.append(_as_series(section, label, variants, points, styles[method], drawn[method]))
        drawn[method] += 1
    return Chart(
        title=section.title,
        x=Axis(COSTS[cost].label, "log"),
        y=Axis(mean_label(section), unit=section.metric.unit, floor=section.metric.floor),
        series=tuple(series),
        note=_note(section, order),
    )


def _point(section: Section, variant: str, size: float, shift: float) -> Point:
    mean, sd = (table.loc[variant, MEAN_OVER_TASKS] for table in (section.mean, section.sd))
    return Point(section.name(variant), size, mean, section.shown(mean), sd, shift)


def _as_series(
    section: Section,
    label: str,
    variants: list[str],
    points: list[Point],
    style: MethodStyle,
    variation: int,
) -> Series:
    scored = [variant for variant in variants if not pd.isna(section.mean.loc[variant, MEAN_OVER_TASKS])]
    if not scored:
        return Series(f"{label}: missing", style)
    if section.methods[variants[0]] in REFERENCES:
        level = section.mean.loc[scored[0], MEAN_OVER_TASKS]
        return Series(f"{label}: {section.shown(level)}", style, tuple(points), False, variation, level)
    label += sizes_in_words(section, scored)
    return Series(label, style, tuple(points), len(scored) > 1, variation)


def method_curves(section: Section, order: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Split the variants into curves, one method with all settings equal except those of the size."""
    curves: dict[tuple[str, str], list[str]] = defaultdict(list)
    for variant, settings in section_settings(section).items():
        others = {name: value for name, value in settings.items() if name not in SIZE_OPTIONS}
        curves[section.methods[variant], json.dumps(others, sort_keys=True)].append(variant)
    curves_of = Counter(method for method, _ in curves)
    found = []
    for (method, _), variants in curves.items():
        scored = [variant for variant in variants if section.n[MEAN_OVER_TASKS][variant]] or variants
        base = next((variant for variant in order if variant in scored), min(scored, key=len))
        given = section.name(base) != base
        found.append((broken(section.name(base)) if given or curves_of[method] > 1 else method, variants))
    return found


def sizes_in_words(section: Section, variants: list[str]) -> str:
    """Return the sizes of the points of a curve, such as "bottleneck 4, 16, 64"."""
    if len(variants) < 2:
        return ""
    settings = section_settings(section)
    lines = []
    for name in SIZE_OPTIONS:
        values = [value_text(settings[variant][name]) for variant in variants if name in settings[variant]]
        if values:
            lines.append(f"\n{name} {', '.join(values)}")
    return "".join(lines)


def _note(section: Section, order: Sequence[str]) -> str:
    tasks = section.task_names
    counts = section.n[MEAN_OVER_TASKS]
    seeds = seeds_of(section)
    bars = f"bars: ± one sample standard deviation over {seeds}" if section.full_n > 1 else seeds
    variants = dict.fromkeys([*order, *section.variants])  # of the first, the sweep's tasks may have no run
    missing = [section.name(variant) for variant in variants if not counts.get(variant)]
    absent = f" Not shown, as runs are missing: {', '.join(missing)}." if missing else ""
    return (
        f"Over {count(len(tasks), 'task')}: {', '.join(tasks)}; {bars}. "
        "A curve joins the variants of one method that differ in size only, neither in other options nor in "
        "the recipe. Points of the same size are drawn side by side. Horizontal lines: references."
        f"{absent} {' '.join(short_notes(section.runs, marked=False))}"
    ).rstrip()
