"""The backbones plot: accuracy against the size of the backbone, a line per variant."""

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from mosa.results.aggregate import MEAN_OVER_TASKS, Results, Section, count
from mosa.results.plots.figures import stack
from mosa.results.registry import plot
from mosa.results.tables.columns import mean_label

_FILLS = ("full", "bottom", "left", "top", "right")


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
        The figure; None if no benchmark has two backbones, or the records do not say their sizes.
    """
    if "model_parameters" not in results.frame:
        return None
    by_benchmark: dict[tuple[str, ...], list[Section]] = {}
    for section in results.compared:
        by_benchmark.setdefault((section.benchmark, section.metric.name, *section.task_names), []).append(
            section
        )
    panels = [sorted(sections, key=_size) for sections in by_benchmark.values() if len(sections) > 1]
    if not panels:
        return None
    styles = results.styles
    figure, parts = stack(
        [sections[0] for sections in panels],
        [2.9] * len(panels),
        [_note(sections) for sections in panels],
        [
            f"{sections[0].benchmark}: {sections[0].metric.label}, {sections[0].eval_split} split"
            for sections in panels
        ],
    )
    for part, sections in zip(parts, panels, strict=True):
        axes = part.subplots()
        variants = list(dict.fromkeys(variant for section in sections for variant in section.variants))
        drawn: dict[str, int] = {}
        for index, variant in enumerate(variants):
            here = [(place, s) for place, s in enumerate(sections) if variant in s.methods]
            method = here[0][1].methods[variant]
            color, marker, dash = styles[method]
            fill = _FILLS[drawn.setdefault(method, 0) % len(_FILLS)]
            drawn[method] += 1
            axes.errorbar(
                [place + 0.3 * ((index + 0.5) / len(variants) - 0.5) for place, _ in here],
                [s.mean.loc[variant, MEAN_OVER_TASKS] for _, s in here],
                yerr=[s.sd.loc[variant, MEAN_OVER_TASKS] for _, s in here],
                color=color, marker=marker, linestyle=dash, linewidth=0.8, elinewidth=1, capsize=2,
                fillstyle=fill, markerfacecoloralt="white", mew=0.5, label=variant,
            )  # fmt: skip
        names = [f"{s.backbone}\n{EngFormatter(sep='')(_size(s))}" for s in sections]
        axes.set_xticks(range(len(sections)), names)
        axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        axes.grid(axis="y")
        axes.set_xlabel("backbone, and its parameters")
        axes.set_ylabel(mean_label(sections[0]))
        part.legend(loc="outside right upper", frameon=False, handlelength=3)
    return figure


def _size(section: Section) -> float:
    return float(section.runs["model_parameters"].median())


def _note(sections: list[Section]) -> str:
    tasks = sections[0].task_names
    seeds = max(section.full_n for section in sections)
    bars = f"; bars: ± one sample standard deviation over {count(seeds, 'seed')}" if seeds > 1 else ""
    return f"Over {count(len(tasks), 'task')}: {', '.join(tasks)}{bars}. Backbones by size, equally spaced."
