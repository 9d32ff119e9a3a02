"""Statistics against independent references: scipy, the papers' worked examples, and simulation."""

import math
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from test_analysis import make_frame

from mosa.results import stats
from mosa.results.aggregate import compare
from mosa.results.paired import MIN_TASKS, differences
from mosa.results.tables.differences import differences_table, differences_text


def test_students_interval_is_scipys():
    values = [1.0, 2.5, 2.0, 4.0]
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert stats.student_interval(values) == pytest.approx(tuple(expected))
    assert stats.student_interval([1.5, 1.5, 1.5]) == (1.5, 1.5)
    assert np.isnan(stats.student_interval([1.0])).all()


@pytest.mark.parametrize("correlation", [0, 0.2, 0.5])
@pytest.mark.parametrize("tasks", [4, 7, 19])
def test_the_interval_excludes_no_difference_as_often_as_it_says(tasks, correlation):
    """Of 4,000 benchmarks without a true difference it excludes zero in 4 to 6 %, whatever tasks share."""
    rng = np.random.default_rng(5)
    noise = np.linspace(1, 3, tasks)[:, None]  # tasks differ in their noise
    shared, own = rng.normal(0, 1, (4000, 1, 5)), rng.normal(0, 1, (4000, tasks, 5))  # five seeds
    values = noise * (np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
    low, high = stats.student_interval(values.mean(axis=1))
    assert 0.04 <= 1 - ((low <= 0) & (high >= 0)).mean() <= 0.06


def test_signed_ranks_are_exact():
    differences = [1.2, -0.4, 2.0, 0.9, 3.1, -0.2, 0.5]
    assert stats.wilcoxon_p(differences) == pytest.approx(scipy_stats.wilcoxon(differences).pvalue)
    assert stats.wilcoxon_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 2**5  # the least that five tasks can give
    assert stats.wilcoxon_p([0.0, 0.0]) == 1
    # With ties and zeros: SciPy tries all signs of up to 13 differences.
    for differences in ([1, 1, -1, 2, 3, 3, 0], [0.5, -0.5, 0.5, 0.5, -1, 2, 2, 2, 3]):
        assert stats.wilcoxon_p(differences) == pytest.approx(scipy_stats.wilcoxon(differences).pvalue)
    # And for more it approximates: 16 of 16 in one direction are two of 2^16 choices of signs.
    assert stats.wilcoxon_p([1.0] * 10 + [2.0] * 6) == 2 / 2**16


def test_the_smallest_p_values_are_attained():
    tasks = np.arange(1, 8) / 10  # all better, without ties
    assert stats.wilcoxon_p(tasks) == stats.smallest_wilcoxon_p(7) == 2 / 2**7
    adjusted = stats.holm([stats.wilcoxon_p(tasks)] * 4)
    assert adjusted.min() == stats.smallest_wilcoxon_p(7, 4) == 0.0625
    assert stats.smallest_wilcoxon_p(1, 4) == 1
    assert stats.smallest_wilcoxon_p(MIN_TASKS) <= 0.05 < stats.smallest_wilcoxon_p(MIN_TASKS - 1)
    same_order = np.tile([1.0, 2.0, 3.0], (4, 1))
    assert stats.friedman_p(same_order) == pytest.approx(stats.smallest_friedman_p(4, 3), abs=1e-3)


@pytest.mark.parametrize(
    "scores",
    [[[1, 2, 3]] * 4, [[1, 2, 3], [1, 2, 3], [1, 3, 2], [1, 2, 3]], [[5, 5, 1], [4, 2, 2], [9, 8, 7]]],
)
def test_friedmans_p_is_that_of_all_permutations(scores):
    """All orders within each task are equally likely; the chi-square approximation is off by a factor."""

    def statistic(rows):
        return (np.sum([scipy_stats.rankdata(row) for row in rows], axis=0) ** 2).sum()

    orders = [list(permutations(row)) for row in scores]
    values = [statistic(rows) for rows in product(*orders)]
    exact = np.mean([value >= statistic(scores) for value in values])
    assert stats.friedman_p(scores) == pytest.approx(exact, abs=0.005)
    assert stats.friedman_p(scores) == stats.friedman_p(scores)


def test_holm_by_hand():
    # 0.01 x 4, 0.03 x 3, then max(0.04 x 2, the one before), max(0.05 x 1, the one before)
    assert stats.holm([0.05, 0.01, 0.03, 0.04]) == pytest.approx([0.09, 0.04, 0.09, 0.09])
    assert stats.holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert len(stats.holm([])) == 0
    assert stats.holm([math.nan, 0.04, 0.01]) == pytest.approx([math.nan, 0.04, 0.02], nan_ok=True)


# Demsar (JMLR 2006), table 6: AUC of C4.5, with m, with cf, with both, on 14 data sets.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip


def test_ranks_and_their_critical_difference_are_those_of_the_papers_example():
    assert stats.average_ranks(DEMSAR) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert stats.critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    quantiles = [stats.critical_difference(k, 1) / np.sqrt(k * (k + 1) / 6) for k in (2, 3, 5, 10)]
    assert quantiles == pytest.approx([1.960, 2.343, 2.728, 3.164], abs=1e-3)  # the paper's table 5
    # Fourteen tasks: the approximation is near.
    assert stats.friedman_p(DEMSAR) == pytest.approx(
        scipy_stats.friedmanchisquare(*DEMSAR.T).pvalue, abs=0.005
    )
    assert np.isnan(stats.friedman_p(DEMSAR[:, :2]))


def test_cliques_join_what_cannot_be_told_apart():
    ranks = np.array([1.0, 1.5, 2.8, 4.0])
    assert stats.cliques(ranks, 1.4) == [(0, 1), (1, 2), (2, 3)]
    assert stats.cliques(ranks, 3.0) == [(0, 3)]
    assert stats.cliques(ranks, 0.1) == []


def test_improvement_is_mann_and_whitneys_statistic():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, 9), rng.integers(0, 6, 7)
    expected = scipy_stats.mannwhitneyu(x, y).statistic / (9 * 7)
    assert stats.probability_of_improvement([x], [y]) == pytest.approx(expected)
    assert stats.probability_of_improvement([[1], [1]], [[0], [1]]) == 0.75


def test_ppt_by_hand():
    assert stats.ppt(80, 0) == pytest.approx(0.8)
    assert stats.ppt(80, 9e7) == pytest.approx(0.8 * np.exp(-1))


def test_the_pareto_front():
    cost, score = [1, 2, 2, 3, 4, np.nan], [50, 60, 55, 60, 70, 99]
    assert stats.pareto_front(cost, score).tolist() == [True, True, False, False, True, False]
    assert stats.pareto_front([1, 1], [5, 5]).tolist() == [True, True]


def scores_of(tasks, **variants):
    """Return a frame of runs: for each variant a list of seeds, and what it adds to the score of a task."""
    return make_frame(
        {
            variant: {f"t{i}": [50 + gain * (i + 1) + 0.1 * seed * i for seed in seeds] for i in range(tasks)}
            for variant, (seeds, gain) in variants.items()
        }
    )


def test_a_comparison_holds_all_of_it():
    scores = {
        "adapter": {"cats": [80, 82, 84], "dogs": [60, 61, 62], "count": [40, 40, 46]},
        "mosa": {"cats": [81, 83, 88], "dogs": [60, 61, 62], "count": [50, 52, 51]},
        "lora": {"cats": [70, 72, 74], "dogs": [50, 51, 52], "count": [30, 30, 36]},
    }
    found = {d.variant: d for d in differences(compare(make_frame(scores))[0], "adapter")}
    mosa = found["mosa"]
    assert (mosa.better, mosa.equal, mosa.worse) == (2, 1, 0)
    assert mosa.improvement == pytest.approx((6 / 9 + 0.5 + 1) / 3)
    assert found["lora"].improvement == 0
    assert mosa.low < mosa.mean < mosa.high
    # The same difference for every seed has no spread, and no interval of no width.
    assert np.isnan(found["lora"].low) and "the same for every seed" in found["lora"].sentence


def test_the_test_over_tasks_says_what_it_cannot_find():
    """Seven tasks and four comparisons: Holm's p cannot be below 0.0625, whatever the differences."""
    frame = scores_of(7, adapter=(range(3), 0), mosa=(range(3), 1), lora=(range(3), 2), full=(range(3), 3))
    frame = pd.concat([frame, scores_of(7, linear=(range(3), -1))])
    sections = compare(frame)
    found = differences(sections[0], "adapter")
    assert [one.wilcoxon_p for one in found] == [2 / 2**7] * 4
    assert {one.holm_p for one in found} == {one.smallest_holm_p for one in found} == {0.0625}
    text = differences_text(sections)
    assert (
        "With 7 tasks and 4 comparisons, Wilcoxon's cannot be below 0.01562 and Holm's not below 0.0625"
        in text
    )
    assert "no difference can be significant at 0.05" in text
    assert "| mosa | 7 / 0 / 0 | 1.00 | 0.016 | 0.062 |" in text
    enough = compare(scores_of(10, adapter=(range(3), 0), mosa=(range(3), 1)))
    assert "no difference can be significant" not in differences_text(enough)


def test_too_few_tasks_have_no_test():
    sections = compare(scores_of(5, adapter=(range(3), 0), mosa=(range(3), 1)))
    (found,) = differences(sections[0])
    assert np.isnan([found.wilcoxon_p, found.holm_p]).all()
    text = differences_text(sections)
    assert "Holm" not in text and "with 5 tasks its p-value cannot be below 0.0625" in text
    assert (
        "wilcoxon_p" in differences_table(sections) and differences_table(sections)["wilcoxon_p"].isna().all()
    )


def test_two_seeds_have_no_interval():
    (found,) = differences(compare(scores_of(1, adapter=([0, 1], 0), mosa=([0, 1], 1)))[0])
    assert found.sentence == (
        "mosa - adapter: +1.0 over 1 task x 2 seeds, better on 1 of 1 task; nothing can be concluded from "
        "1 task and 2 seeds"
    )
    (found,) = differences(compare(scores_of(7, adapter=([0, 1], 0), mosa=([0, 1], 1)))[0])
    assert found.sentence.endswith("better on 7 of 7 tasks; no interval, as it takes 3 seeds")
