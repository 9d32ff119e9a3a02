"""The backbones plot: scores against the size of the backbone, a line per variant."""

from collections import Counter
from collections.abc import Sequence
from itertools import product

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mosa.base.words import count
from mosa.results.aggregate import MEAN_OVER_TASKS, Results, Section
from mosa.results.plots.chart import Axis, Chart, Point, Series
from mosa.results.plots.draw import chart_figure
from mosa.results.plots.figures import broken
from mosa.results.registry import plot
from mosa.results.settings import differing, section_settings
from mosa.results.style import MethodStyle
from mosa.results.tables.columns import mean_label

_WIDTH = 0.3  # of the place of a backbone, over which the variants are spread


@plot(
    "backbones",
    label="scores against the backbone's size",
    caption="Mean over tasks on each backbone, smallest first.",
    when="several_backbones",
)
def backbones_figure(results: Results) -> Figure | None:
    """Draw the mean over tasks on each backbone, smallest first, a panel per benchmark.

    Only benchmarks are drawn that were run on two backbones or more, all on the same tasks.

    Args:
        results: The records, and how to compare them.

    Returns:
        The figure; None if no benchmark has two backbones, or the records do not give their sizes.
    """
    if "model_parameters" not in results.frame:
        return None
    by_benchmark: dict[tuple[str, ...], list[Section]] = {}
    for section in results.compared:
        key = (section.benchmark, section.metric.name, *section.task_names)
        by_benchmark.setdefault(key, []).append(section)
    charts = [
        backbones_chart(
            sections, results.styles, [one for one in results.compared if one.benchmark == key[0]]
        )
        for key, sections in by_benchmark.items()
        if len(sections) > 1
    ]
    return chart_figure(charts) if charts else None


def backbones_chart(
    sections: list[Section], styles: dict[str, MethodStyle], known: Sequence[Section] = ()
) -> Chart:
    """Return the mean over tasks of each variant on each backbone.

    Args:
        sections: One benchmark on several backbones.
        styles: Style of each method.
        known: All backbones of the benchmark; the note names those that are not drawn.
    """
    sections = sorted(sections, key=_size)
    variants = list(
        dict.fromkeys(v for section in sections for v in section.variants if v in section.methods)
    )
    drawn: Counter[str] = Counter()  # how many variants this method has already
    series = []
    for index, variant in enumerate(variants):
        shift = _WIDTH * ((index + 0.5) / len(variants) - 0.5)
        here = [(place, section) for place, section in enumerate(sections) if variant in section.methods]
        points = tuple(_point(section, variant, place, shift) for place, section in here)
        method = here[0][1].methods[variant]
        series.append(Series(broken(here[0][1].name(variant)), styles[method], points, True, drawn[method]))
        drawn[method] += 1
    first = sections[0]
    width = 100 // len(sections)
    names = tuple(f"{broken(s.backbone, width)}\n{EngFormatter(sep='')(_size(s))}" for s in sections)
    return Chart(
        title=f"{first.benchmark}: {first.metric.label}, {first.eval_split} split",
        x=Axis("backbone, and its parameters", "names", names),
        y=Axis(mean_label(first), unit=first.metric.unit, floor=first.metric.floor),
        series=tuple(series),
        note=_note(sections, [one.backbone for one in known if one not in sections]),
    )


def _point(section: Section, variant: str, place: int, shift: float) -> Point:
    mean, sd = (table.loc[variant, MEAN_OVER_TASKS] for table in (section.mean, section.sd))
    return Point(section.name(variant), place, mean, section.shown(mean), sd, shift)


def _size(section: Section) -> float:
    return float(section.runs["model_parameters"].median())


def _note(sections: list[Section], others: list[str]) -> str:
    tasks = sections[0].task_names
    seeds = {section.backbone: section.full_n for section in sections}
    most = max(seeds.values())
    several = "; ".join(f"{name}: {count(number, 'seed')}" for name, number in seeds.items())
    over = count(most, "seed") if len(set(seeds.values())) == 1 else f"seeds ({several})"
    bars = f"; bars: ± one sample standard deviation over {over}" if most > 1 else ""
    over = f"Over {count(len(tasks), 'task')}: {', '.join(tasks)}{bars}. Backbones by size, equally spaced."
    short = [f"On {section.backbone}: {section.about_seeds}" for section in sections if section.about_seeds]
    absent = [f"Not drawn here, as their tasks differ: {', '.join(others)}."] if others else []
    return " ".join([f"{over}{_about_settings(sections)}", *absent, *short])


def _about_settings(sections: list[Section]) -> str:
    """Return which variants are set differently on another backbone, and in what; empty if none is."""
    settings = [section_settings(section) for section in sections]
    names = {variant: section.name(variant) for section in sections for variant in section.variants}
    found = {}
    for (first, ours), (other, theirs) in product(enumerate(settings), repeat=2):
        for variant in ours if first < other else ():
            if differences := differing(ours[variant], theirs.get(variant, {})):
                found.setdefault(variant, set()).update(differences)
    words = [f"{names[variant]} in {', '.join(sorted(keys))}" for variant, keys in sorted(found.items())]
    return f" Not the backbone alone changes: {'; '.join(words)}." if words else ""
