"""Statistics of comparisons, on plain arrays. Each function names its reference."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
PERMUTATIONS = 99_999  # of a permutation test; its p-value is a multiple of 0.00001
PPT_CONSTANT = 1e7  # V-PETL Bench's C, in parameters


def student_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Student's t interval of a mean; NaN for fewer than two values.

    Args:
        values: Independent values (n,), such as the difference of two methods' means over tasks for each
            seed; or several sets of them (..., n), of which the ends are arrays.
        confidence: Coverage.
    """
    values = np.asarray(values, float)
    number = values.shape[-1]
    if number < 2:
        return np.nan, np.nan
    margin = stats.sem(values, axis=-1) * stats.t.ppf((1 + confidence) / 2, number - 1)
    mean = values.mean(axis=-1)
    return mean - margin, mean + margin


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Return the p-value of the signed-rank test over tasks, two-sided; 1 if no task differs.

    Exact for any number of tasks, also where differences are tied, from the number of ways in which signs
    give a sum of ranks. Tasks without a difference are left out. Wilcoxon (1945); recommended over tasks by
    Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006.

    Args:
        differences: Difference of two methods' means on each task (n,).
    """
    differences = np.asarray(differences, float)
    differences = differences[~np.isnan(differences) & (differences != 0)]
    doubled = (2 * stats.rankdata(np.abs(differences))).astype(int)  # the mean of tied ranks ends in .5
    ways = np.ones(1)  # at index s: choices of positive ranks that add up to s / 2
    for rank in doubled:
        ways = np.convolve(ways, np.eye(1, rank + 1)[0] + np.eye(1, rank + 1, rank)[0])
    found = doubled[differences > 0].sum()
    tail = min(ways[: found + 1].sum(), ways[found:].sum()) / 2.0 ** len(doubled)
    return float(min(1, 2 * tail))


def smallest_wilcoxon_p(tasks: int, comparisons: int = 1) -> float:
    """Return the smallest p-value that `wilcoxon_p` can give, and `holm` after it.

    Args:
        tasks: Number of tasks, all of which have to differ in the same direction.
        comparisons: Number of p-values that are adjusted together; 1: none is adjusted.
    """
    return min(1.0, comparisons * 2.0 ** (1 - tasks))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values adjusted for their number, by Holm's step-down method (Scandinavian J. Stat. 1979).

    NaN, where nothing was tested, stays NaN and does not count.
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values, kind="stable")[: np.count_nonzero(~np.isnan(p_values))]  # NaN comes last
    adjusted = np.full_like(p_values, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.arange(len(order), 0, -1) * p_values[order]))
    return adjusted


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """Return the mean rank over tasks of each method, 1 being the best; ties share their ranks.

    Args:
        scores: Higher is better (tasks, methods).
    """
    return stats.rankdata(-np.asarray(scores, float), axis=1).mean(axis=0)


def friedman_p(scores: np.ndarray) -> float:
    """Return the p-value of Friedman's test that all methods have equal ranks; NaN for fewer than three.

    By permutation of the methods within each task, as the chi-square approximation is far off for few tasks
    (Demsar, JMLR 2006, section 3.2.2). The permutations are random and always the same.

    Args:
        scores: Higher is better (tasks, methods).
    """
    scores = np.asarray(scores, float)
    if scores.shape[1] < 3 or scores.shape[0] < 2 or (scores == scores[:, :1]).all():
        return np.nan
    ranks, rng = stats.rankdata(scores, axis=1), np.random.default_rng(0)
    sums = sum(rng.permuted(np.tile(task, (PERMUTATIONS, 1)), axis=1) for task in ranks)
    # Friedman's statistic grows with the squares of the sums of ranks, and with nothing else that permutes.
    as_far = (sums**2).sum(axis=1) >= (ranks.sum(axis=0) ** 2).sum()
    return float((as_far.sum() + 1) / (PERMUTATIONS + 1))


def smallest_friedman_p(tasks: int, methods: int) -> float:
    """Return the smallest p-value that Friedman's test can give: that of the same order on every task."""
    return 1 / math.factorial(methods) ** (tasks - 1)


def critical_difference(methods: int, tasks: int, confidence: float = CONFIDENCE) -> float:
    """Return Nemenyi's critical difference of average ranks (Demsar, JMLR 2006, section 3.2.2)."""
    quantile = stats.studentized_range.ppf(confidence, methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(methods * (methods + 1) / (6 * tasks)))


def cliques(ranks: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """Return the largest runs of methods, sorted by rank, that differ by less than the critical difference.

    Args:
        ranks: Average ranks, ascending (methods,).
        difference: The critical difference.

    Returns:
        First and last index of each run of at least two.
    """
    runs: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + difference, side="right")) - 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def probability_of_improvement(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Return the probability that a run of `ours` beats a run of `theirs`, mean over tasks; ties count half.

    Agarwal et al., Deep RL at the Edge of the Statistical Precipice, NeurIPS 2021: the statistic
    of Mann and Whitney, divided by the number of pairs.

    Args:
        ours: For each task, the scores of all seeds.
        theirs: The same of the other method; the seeds need not be the same.
    """
    chances = []
    for x, y in zip(ours, theirs, strict=True):
        difference = np.subtract.outer(np.asarray(x, float), np.asarray(y, float))
        chances.append((difference > 0).mean() + 0.5 * (difference == 0).mean())
    return float(np.mean(chances))


def ppt(accuracy: float, parameters: float) -> float:
    """Return the performance-parameter trade-off: accuracy discounted by tuned parameters.

    M exp(-log10(P / C + 1)), C = 10^7: Xin et al., V-PETL Bench, NeurIPS 2024.

    Args:
        accuracy: In percent; the result is a fraction, as in the paper.
        parameters: Tuned parameters without the classifier.
    """
    return float(accuracy / 100 * np.exp(-np.log10(parameters / PPT_CONSTANT + 1)))


def pareto_front(cost: Sequence[float], score: Sequence[float]) -> np.ndarray:
    """Return which points are on the Pareto front: no other costs less and scores as much, or scores more.

    Args:
        cost: Lower is better (n,); NaN is never on the front.
        score: Higher is better (n,).
    """
    cost, score = np.asarray(cost, float), np.asarray(score, float)
    no_worse = (cost[:, None] <= cost) & (score[:, None] >= score)
    better = (cost[:, None] < cost) | (score[:, None] > score)
    return ~(no_worse & better).any(axis=0) & ~np.isnan(cost) & ~np.isnan(score)
