"""Plots and tables hold names of 100 characters, 40 variants, points of one size, and CJK names."""

from itertools import combinations

import matplotlib.style
import pytest
from test_analysis import make_frame

from mosa.base.grid import display_width
from mosa.results.aggregate import Results, compare
from mosa.results.plots.comparison import comparison_figure
from mosa.results.plots.figures import STYLE
from mosa.results.plots.ranks import rank_figure
from mosa.results.plots.scaling import scaling_figure
from mosa.results.tables.render import latex_section, terminal_section
from mosa.results.wrap import wrapped

LONG = "a_variant_whose_name_says_every_one_of_its_options_such_as_bottleneck_{}_and_experts_and_merge_mean"
CASES = {
    "names of 100 characters": [f"mosa-{LONG.format(i)}" for i in range(6)],
    "one word of 100 characters": [f"mosa-{i}" + "x" * 93 for i in range(4)],
    "40 variants": [f"{method}-{i}" for i in range(10) for method in ("mosa", "adapter", "lora", "new")],
    "40 long names": [f"mosa-{LONG.format(i)}" for i in range(40)],
}


def frame_of(names, **other):
    scores = {
        name: {"cats": [50 + 7 * i % 40, 51], "dogs": [60, 90 - i], "count": [40 + i % 5, 45]}
        for i, name in enumerate(names)
    }
    frame = make_frame(scores, **other)
    return frame.assign(options=[{"experts": names.index(name)} for name in frame["variant"]])


def drawn(draw, frame):
    with matplotlib.style.context(["default", STYLE], after_reset=True):
        figure = draw(Results(frame))
        figure.draw_without_rendering()
    return figure


def overlapping(texts):
    """Return the first two texts that cover each other by more than a hair."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    for (one, a), (other, b) in combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        if wide > 1 and high > 1.5:
            return one, other
    return None


def legend_of(figure):
    return figure.subfigs[0].legends[0]


@pytest.mark.parametrize("case", CASES)
def test_the_rank_plot_holds_its_names(case):
    figure = drawn(rank_figure, frame_of(CASES[case]))
    (axes,) = figure.axes
    assert overlapping(axes.texts) is None
    shown = "".join(text.get_text().replace("\n", "") for text in axes.texts)
    assert all(name in shown for name in CASES[case])
    low, high = figure.bbox.y0, figure.bbox.y1
    assert all(low <= box.y0 and box.y1 <= high for box in (t.get_window_extent() for t in axes.texts))
    span = axes.transData.transform([(0, 0), (len(CASES[case]) - 1, 0)])[:, 0]
    assert span[1] - span[0] > 0.3 * figure.bbox.width  # the axis of ranks is wide enough to read
    bars = [line for line in axes.get_lines() if line.get_linewidth() == 2.5]
    names = [text for text in axes.texts if "mosa" in text.get_text()]
    assert min(bar.get_ydata()[0] for bar in bars) > max(name.get_position()[1] for name in names)


@pytest.mark.parametrize("case", CASES)
def test_the_comparison_holds_its_names(case):
    figure = drawn(comparison_figure, frame_of(CASES[case]))
    first = figure.axes[0]
    assert overlapping(first.get_yticklabels()) is None
    assert first.get_window_extent().width > 0.5 * figure.bbox.width
    shown = [label.get_text().replace("\n", "") for label in first.get_yticklabels()]
    assert set(shown) == set(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_the_scaling_plot_holds_its_legend(case):
    figure = drawn(scaling_figure, frame_of(CASES[case]))
    box = legend_of(figure).get_window_extent()
    assert box.y0 >= 0 and box.y1 <= figure.bbox.y1 and box.x1 <= figure.bbox.x1 + 1
    assert figure.axes[0].get_window_extent().width > 0.35 * figure.bbox.width
    note = figure.subfigs[0]._supxlabel.get_window_extent()
    assert note.y1 <= box.y0 + 1
    lines = [line for line in figure.axes[0].get_lines() if not line.get_label().startswith("_")]
    looks = {(line.get_color(), line.get_marker(), line.get_fillstyle()) for line in lines}
    assert len(looks) == len(lines)  # whatever the legend names can be found


@pytest.mark.parametrize("number", [1, 2, 40])
def test_points_of_one_size_stand_apart_near_their_size_on_an_axis_with_numbers(number):
    figure = drawn(scaling_figure, frame_of([f"mosa-{i}" for i in range(number)], adapter_parameters=13504))
    (axes,) = figure.axes
    places = sorted(line.get_xdata()[0] for line in axes.get_lines() if not line.get_label().startswith("_"))
    assert len(set(places)) == number
    assert places[0] == 13504 and places[-1] < 1.15 * 13504
    low, high = axes.get_xlim()
    shown = [
        label.get_text() for label, at in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
        if low <= at <= high and label.get_text()
    ]  # fmt: skip
    assert len(shown) >= 2


def test_a_name_is_broken_where_it_can_be_and_loses_nothing():
    assert wrapped("short") == ["short"]
    assert wrapped("mosa_bottleneck64_experts4", 18) == ["mosa_bottleneck64_", "experts4"]
    assert wrapped("LoRA (r=8) on q, v", 11) == ["LoRA (r=8)", "on q, v"]
    for name in (LONG, "x" * 100, "稀疏适配器" * 12, "a-b" * 40):
        lines = wrapped(name, 20)
        assert "".join(lines) == name and all(display_width(line) <= 20 for line in lines)


def cjk():
    frame = frame_of(["adapter", "mosa", "lora"])
    names = {"adapter": "适配器 (r=8)", "mosa": "稀疏アダプタの混合"}
    return compare(frame.assign(display_name=frame["variant"].replace(names)))[0]


def test_wide_characters_keep_the_columns_of_the_terminal():
    rows = [
        line for line in terminal_section(cjk(), 120).splitlines() if "±" in line and "sample" not in line
    ]
    assert len(rows) == 6 and len({display_width(row) for row in rows[:3]}) == 1


def test_latex_says_what_names_need_that_it_cannot_print_alone():
    section = cjk()
    assert "compile with XeLaTeX or LuaLaTeX" in latex_section(section, "comparison").split("\\begin")[0]
    plain = compare(frame_of(["adapter", "mosa"]))[0]
    assert "XeLaTeX" not in latex_section(plain, "comparison")


def test_a_long_name_does_not_make_the_latex_table_small():
    text = latex_section(compare(frame_of([f"mosa-{LONG.format(i)}" for i in range(2)]))[0], "comparison")
    names = [line.partition(" &")[0] for line in text.splitlines() if line.startswith(r"\shortstack[l]{mosa")]
    assert len(names) == 4 and all(r"\\" in name for name in names)
    assert max(len(part) for name in names for part in name.split(r"\\")) < 70
