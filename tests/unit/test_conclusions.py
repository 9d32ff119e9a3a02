"""What tables, plots and the page conclude: the same in all of them, and no more than the records say."""

import re

import numpy as np
import pandas as pd
import pytest
from test_analysis import make_frame
from test_report import visible, write_records

from mosa.base.words import count
from mosa.data.metrics import get_metric
from mosa.results.aggregate import MEAN_OVER_TASKS, Results, compare
from mosa.results.paired import differences
from mosa.results.plots.comparison import comparison_figure
from mosa.results.plots.ranks import rank_figure
from mosa.results.plots.scaling import scaling_figure
from mosa.results.report import write_report
from mosa.results.report.sections import page_section
from mosa.results.tables.columns import by_task, caption, overview
from mosa.results.tables.combination import combination_table, combination_text
from mosa.results.tables.render import terminal_section
from mosa.results.tables.write import write_tables


def with_seeds(scores):
    """Return a frame of runs from {variant: {seed: score}}, the same score on two tasks."""
    frames = [
        make_frame({variant: {"cats": [score], "dogs": [score - 10]}}).assign(seed=seed)
        for variant, by_seed in scores.items()
        for seed, score in by_seed.items()
    ]
    return pd.concat(frames, ignore_index=True)


def marked(section):
    """Return the variants that the table marks as the best, by column."""
    return {
        column.title: [v for v, cell in zip(section.variants, column.cells, strict=True) if cell.best]
        for column in [*by_task(section), *overview(section)[:-2]]
    }


# --- rounding


def test_a_verdict_never_contradicts_the_printed_table():
    """Two seeds of 1,000 images: half of all means end in 5, where ways of rounding differ."""
    rng = np.random.default_rng(0)
    tasks = [f"t{i}" for i in range(150)]
    scores = {v: {t: (rng.integers(700, 712, 2) / 10).tolist() for t in tasks} for v in ("adapter", "mosa")}
    (section,) = compare(make_frame(scores))
    (found,) = differences(section)
    halves = [f"{value:.3f}"[-2:] == "50" for value in section.mean.to_numpy().ravel()]
    assert sum(halves) > 100
    printed = {column.title: [float(cell.value) for cell in column.cells] for column in by_task(section)}
    exact = section.mean[[("task", task) for task in tasks]].droplevel(0, axis=1)
    better, equal = 0, 0
    for task in tasks:
        theirs, ours = exact.loc["adapter", task], exact.loc["mosa", task]
        better, equal = better + (ours > theirs), equal + (ours == theirs)
        shown_theirs, shown_ours = printed[task]
        assert (shown_ours - shown_theirs) * (ours - theirs) >= 0
        assert ours != theirs or shown_ours == shown_theirs
    assert (found.better, found.equal, found.worse) == (better, equal, len(tasks) - better - equal)
    assert equal > 5 and better > 40


def test_means_that_differ_by_noise_are_equal():
    """0.1 + 0.2 is not 0.3 to a computer: the order of the seeds must not decide."""
    scores = {
        "adapter": {"cats": [69.7, 72.4]},
        "mosa": {"cats": [72.4, 69.7]},
        "lora": {"cats": [70.1, 72.0]},
    }
    (section,) = compare(make_frame(scores))
    assert section.mean[MEAN_OVER_TASKS].nunique() == 1
    assert {(d.better, d.equal, d.worse) for d in differences(section)} == {(0, 1, 0)}
    assert marked(section)["mean\nover tasks"] == section.variants


def test_one_function_rounds():
    top1, nll = get_metric("top1"), get_metric("nll")
    assert top1.shown(81.0499999999999) == top1.shown(81.05) == top1.shown(81.0500000000001)
    assert (top1.shown(-0.04, signed=True), top1.shown(0.06, signed=True)) == ("+0.0", "+0.1")
    assert (top1.shown(81.126, more=1), nll.shown(0.12345)) == ("81.13", "0.123")
    shown = [float(top1.shown(value)) for value in np.arange(0, 100, 0.05)]
    assert shown == sorted(shown)  # a better score is never printed as a worse one


# --- seeds


def test_only_variants_with_the_same_seeds_are_ranked():
    frame = with_seeds(
        {"adapter": {0: 70, 1: 72}, "mosa": {0: 71, 1: 73}, "full": {0: 73, 1: 74}, "lora": {1: 99}}
    )
    (section,) = compare(frame)
    assert set(map(tuple, marked(section).values())) == {("full",)}
    about = "Not ranked, as seeds are missing: lora (has 1)."
    assert about in caption(section) and about in terminal_section(section, 120)
    summary = page_section(section, "s")["summary"]
    assert summary[0].startswith("Highest mean over 2 tasks: full, 68.5") and about in summary
    figure = rank_figure(Results(frame))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "full 1.00" in texts and not any("lora" in text for text in texts)
    assert "Left out, as tasks or seeds are missing: lora." in one_line(figure.subfigs[0].get_supxlabel())
    for draw in (comparison_figure, scaling_figure):
        assert about in one_line(draw(Results(frame)).subfigs[0].get_supxlabel())


def test_variants_without_a_common_seed_are_not_compared():
    frame = with_seeds({"adapter": {0: 70, 1: 72}, "mosa": {2: 90, 3: 91}})
    (section,) = compare(frame)
    assert not any(marked(section).values())
    assert {cell.note for column in by_task(section) for cell in column.cells} == {"(n=2)"}
    about = "Not ranked, as seeds are missing: adapter (has 0, 1), mosa (has 2, 3)."
    assert about in caption(section)
    assert "over 4 seeds (0, 1, 2, 3), n being given where it is smaller" in caption(section)
    assert page_section(section, "s")["summary"][:2] == [
        "No mean over 2 tasks is called the best, as 0 variants have all of 4 seeds.", about
    ]  # fmt: skip
    (found,) = differences(section)
    assert found.seeds == 0 and "no seed has all tasks of both" in found.sentence
    assert "| —, as no seed has all tasks of both | — |" in combination_text([section])


def test_a_variant_that_is_alone_is_not_the_best():
    """One variant is ahead of the others in its seeds, as while an experiment runs."""
    (section,) = compare(with_seeds({"adapter": {0: 70, 1: 72}, "mosa": {0: 80}, "lora": {0: 79}}))
    assert not any(marked(section).values())
    assert "as 1 variant has all of 2 seeds" in page_section(section, "s")["summary"][0]


def test_pairs_are_of_common_seeds_only():
    frame = with_seeds({"adapter": {0: 70, 1: 72, 2: 74}, "mosa": {0: 71, 1: 73.5, 2: 75, 3: 20}})
    frame["options"] = [{}] * len(frame)
    (section,) = compare(frame)
    (found,) = differences(section)
    assert found.seeds == 3 and found.mean == pytest.approx((1 + 1.5 + 1) / 3)
    assert found.improvement == pytest.approx(6 / 9)  # seed 3, in which mosa failed, is of no pair
    assert "over 2 tasks x 3 of 4 seeds" in found.sentence
    table = combination_table([section]).iloc[0]
    assert table["with"] - table["without"] == pytest.approx(found.mean)
    shown = re.search(r"\| adapter \| ([\d.]+) \| mosa \| ([\d.]+) \|", combination_text([section]))
    assert shown.groups() == ("67.0", "68.2")


# --- little data, in words


def one_line(text):
    return " ".join(text.split())


SINGLE = r"\b1 (task|seed|variant|run|backbone|record|group|comparison|image)s\b"


def test_one_is_no_plural():
    assert [count(n, "task") for n in (0, 1, 1234)] == ["0 tasks", "1 task", "1,234 tasks"]
    assert count(1, "task is", "tasks are") == "1 task is"


def test_a_backbone_of_the_sweep_alone_does_not_stop_the_report(tmp_path):
    scores = {"adapter": ("adapter", 40, [80.0, 81.0]), "adapter_b4": ("adapter", 16, [70.0, 72.0])}
    frame = write_records(tmp_path / "runs", scores, tasks=["digits"], seeds=2)
    other = frame[frame["variant"] == "adapter_b4"].assign(backbone="other")
    write_report(pd.concat([frame, other], ignore_index=True), tmp_path / "report.html", ["adapter"])
    assert "adapter" in visible(tmp_path / "report.html")


def test_a_reference_that_one_backbone_lacks_does_not_stop_the_report(tmp_path):
    scores = {"adapter": ("adapter", 40, [80.0, 81.0]), "mosa": ("mosa", 40, [50.0, 52.0])}
    frame = write_records(tmp_path / "runs", scores, tasks=["digits"], seeds=2)
    other = frame[frame["variant"] == "adapter"].assign(backbone="other")
    both = pd.concat([frame, other], ignore_index=True)
    write_report(both, tmp_path / "report.html", reference="mosa")
    assert "other" in visible(tmp_path / "report.html")


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_task_concludes_nothing_and_says_so(seeds, tmp_path):
    scores = {"adapter": ("adapter", 40, [80.0, 81.5]), "mosa": ("mosa", 40, [50.0, 72.0])}
    frame = write_records(tmp_path / "runs", scores, tasks=["digits"], seeds=seeds)
    write_tables(frame, tmp_path / "tables")
    write_report(frame, tmp_path / "report.html")
    texts = {path.name: path.read_text() for path in (tmp_path / "tables").iterdir()}
    texts["report"] = visible(tmp_path / "report.html")
    texts |= {
        draw.__name__: draw(Results(frame)).subfigs[0].get_supxlabel()
        for draw in (comparison_figure, scaling_figure, rank_figure)
    }
    for name, text in texts.items():
        assert not re.search(SINGLE, one_line(text)), (name, re.search(SINGLE, one_line(text)))
    words = f"nothing can be concluded from 1 task and {count(seeds, 'seed')}"
    for name in ("differences.md", "combination.md", "report"):
        assert words in texts[name], name
    assert not re.search(r"Holm|Wilcoxon|\[[-+]\d", texts["differences.md"])
    written = pd.read_csv(tmp_path / "tables" / "differences.csv")
    assert written[["low", "high", "wilcoxon_p", "holm_p"]].isna().all(axis=None)


# --- error bars


def bars_of(axes):
    """Return the ends of all error bars along the axis of scores."""
    return [
        value
        for container in axes.containers
        for part in container[2]
        for segment in part.get_segments()
        for value in segment.ravel()
    ]


def test_error_bars_end_where_scores_do(tmp_path):
    scores = {"adapter": ("adapter", 40, [100.0, 90.0]), "mosa": ("mosa", 40, [1.0, 9.0])}
    frame = write_records(tmp_path / "runs", scores, tasks=["digits"])
    (section,) = compare(frame)
    ends = (
        (section.mean + section.sd)[MEAN_OVER_TASKS].max(),
        (section.mean - section.sd)[MEAN_OVER_TASKS].min(),
    )
    assert ends[0] > 100 and ends[1] < 0  # what one standard deviation would reach
    heights = [y for _, y in np.reshape(bars_of(scaling_figure(Results(frame)).axes[0]), (-1, 2))]
    widths = [x for x, _ in np.reshape(bars_of(comparison_figure(Results(frame)).axes[0]), (-1, 2))]
    for ends in (heights, widths):
        assert (min(ends), max(ends)) == (0, 100)
