"""Statistics against independent references: scipy, the papers' worked examples, and simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from test_analysis import make_frame

from mosa.results import stats
from mosa.results.aggregate import compare
from mosa.results.paired import differences


def test_students_interval_is_scipys():
    values = [1.0, 2.5, 2.0, 4.0]
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert stats.student_interval(values) == pytest.approx(tuple(expected))
    assert stats.student_interval([1.5, 1.5, 1.5]) == (1.5, 1.5)
    assert np.isnan(stats.student_interval([1.0])).all()


@pytest.mark.parametrize("interval", ["student", "bootstrap"])
@pytest.mark.parametrize("shape", [(4, 5), (19, 5), (7, 3)])
def test_intervals_exclude_no_difference_as_often_as_they_say(interval, shape):
    """Of 1,000 benchmarks without a true difference, the 95 % interval excludes zero in 3 to 7 %."""
    rng = np.random.default_rng(5)
    spread = np.linspace(1, 3, shape[0])[:, None]  # tasks differ in their noise
    excluded = 0
    for _ in range(1000):
        values = rng.normal(0, 1, shape) * spread
        if interval == "student":
            low, high = stats.student_interval(values.mean(axis=0))
        else:
            low, high = stats.bootstrap_interval(values, resamples=400)
        excluded += not low <= 0 <= high
    assert 30 <= excluded <= 70, excluded


def test_a_true_difference_is_seen_and_the_bootstrap_repeats():
    values = 2 + np.random.default_rng(0).normal(0, 1, (4, 5))
    low, high = stats.bootstrap_interval(values)
    assert 0 < low < values.mean() < high
    assert (low, high) == stats.bootstrap_interval(values)
    assert (low, high) != stats.bootstrap_interval(values, seed=1)
    student = stats.student_interval(values.mean(axis=0))
    assert low == pytest.approx(student[0], abs=0.4) and high == pytest.approx(student[1], abs=0.4)
    assert np.isnan(stats.bootstrap_interval(values[:, :2])).all()
    assert stats.bootstrap_interval(np.full((2, 3), 1.5)) == (1.5, 1.5)


def test_signed_ranks_are_scipys():
    differences = [1.2, -0.4, 2.0, 0.9, 3.1, -0.2, 0.5]
    assert stats.wilcoxon_p(differences) == scipy_stats.wilcoxon(differences).pvalue
    assert stats.wilcoxon_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 2**5  # the least that five tasks can give
    assert stats.wilcoxon_p([0.0, 0.0]) == 1


def test_holm_by_hand():
    # 0.01 x 4, 0.03 x 3, then max(0.04 x 2, the one before), max(0.05 x 1, the one before)
    assert stats.holm([0.05, 0.01, 0.03, 0.04]) == pytest.approx([0.09, 0.04, 0.09, 0.09])
    assert stats.holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert len(stats.holm([])) == 0


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
    assert stats.friedman_p(DEMSAR) == scipy_stats.friedmanchisquare(*DEMSAR.T).pvalue
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


def test_a_comparison_holds_all_of_it():
    scores = {
        "adapter": {"cats": [80, 82, 84], "dogs": [60, 61, 62], "count": [40, 40, 46]},
        "mosa": {"cats": [81, 83, 88], "dogs": [60, 61, 62], "count": [50, 52, 51]},
        "lora": {"cats": [70, 72, 74], "dogs": [50, 51, 52], "count": [30, 30, 36]},
    }
    found = {d.variant: d for d in differences(compare(make_frame(scores))[0], "adapter")}
    mosa = found["mosa"]
    assert (mosa.better, mosa.equal, mosa.worse) == (2, 1, 0)
    assert mosa.bootstrap_low < mosa.mean < mosa.bootstrap_high
    assert mosa.improvement == pytest.approx((6 / 9 + 0.5 + 1) / 3)
    assert found["lora"].improvement == 0 and found["lora"].wilcoxon_p == 0.25
    p_values = sorted(d.wilcoxon_p for d in found.values())
    assert sorted(d.holm_p for d in found.values())[0] == pytest.approx(min(1, 2 * p_values[0]))
