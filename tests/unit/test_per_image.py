"""Statistics of predictions: against scikit-learn and scipy, and worked by hand."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from mosa.data.metrics import METRICS
from mosa.data.predictions import softmax
from mosa.results.per_image import (
    agreement,
    bootstrap_interval,
    calibration_error,
    class_accuracy,
    confusion_matrix,
    ensemble,
    mcnemar_p,
    most_confused,
    reliability,
    smallest_mcnemar_p,
    wilson_interval,
)

RNG = np.random.default_rng(0)
LABELS, OURS, THEIRS = RNG.integers(0, 5, (3, 200))
OURS[:120], THEIRS[40:150] = LABELS[:120], LABELS[40:150]


def test_confusions_are_those_of_sklearn():
    found = confusion_matrix(LABELS, OURS, 6)
    np.testing.assert_array_equal(found, metrics.confusion_matrix(LABELS, OURS, labels=range(6)))
    accuracy = class_accuracy(found)
    recall = metrics.recall_score(LABELS, OURS, labels=range(5), average=None)
    np.testing.assert_allclose(accuracy[:5], recall, rtol=1e-15)
    assert np.isnan(accuracy[5])  # no image of this class


@pytest.mark.parametrize(("correct", "images"), [(32, 32), (0, 7), (1, 2), (731, 797), (5, 40)])
def test_wilsons_interval_is_that_of_scipy(correct, images):
    low, high = stats.binomtest(correct, images).proportion_ci(0.95, "wilson")
    assert wilson_interval(correct, images) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_all_of_32_images_is_89_to_100():
    low, high = wilson_interval(32, 32)
    assert f"[{100 * low:.0f}, {100 * high:.0f}]" == "[89, 100]"


def test_a_bootstrap_of_one_seed_has_the_quantiles_of_the_binomial_distribution():
    correct = np.arange(200)[None] < 150
    low, high = bootstrap_interval(correct)
    expected = stats.binom(200, 0.75).ppf([0.025, 0.975]) / 200
    np.testing.assert_allclose([low, high], expected, atol=0.011)  # two images
    assert bootstrap_interval(np.ones((3, 32), bool)) == (1, 1)


def test_seeds_that_saw_the_same_images_are_drawn_together():
    """Three seeds with the same answers say no more of the images than one."""
    correct = np.arange(200)[None] < 150
    assert bootstrap_interval(np.repeat(correct, 3, axis=0)) == bootstrap_interval(correct)
    apart = np.stack([np.roll(correct[0], shift) for shift in (0, 70, 140)])
    width = [np.diff(bootstrap_interval(one))[0] for one in (apart, correct)]
    assert width[0] < 0.8 * width[1]


def test_calibration_error_is_the_metric():
    logits = RNG.normal(size=(300, 4)).astype(np.float32) * 3
    labels = RNG.integers(0, 4, 300)
    shares = softmax(logits)
    binned = reliability(shares.max(1), shares.argmax(1) == labels)
    wanted = METRICS["ece"].compute(torch.from_numpy(logits), torch.from_numpy(labels))
    assert 100 * calibration_error(binned) == pytest.approx(wanted, rel=1e-12)
    assert binned[0].sum() == 300 and binned[2].sum() == (shares.argmax(1) == labels).sum()


def test_mcnemar_is_the_binomial_test_of_the_images_on_which_two_differ():
    for ours, theirs in ((0, 0), (3, 9), (9, 3), (5, 5), (0, 12), (140, 90)):
        wanted = stats.binomtest(ours, ours + theirs).pvalue if ours + theirs else 1
        assert mcnemar_p(ours, theirs) == pytest.approx(wanted, rel=1e-9), (ours, theirs)
    assert mcnemar_p(0, 6) == 2 / 2**6 == smallest_mcnemar_p(6)  # by hand
    assert smallest_mcnemar_p(0) == 1


def test_agreement_is_cohens_kappa_and_jaccard_of_mistakes():
    found = agreement(LABELS, OURS, THEIRS)
    right, other = OURS == LABELS, THEIRS == LABELS
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(right, other), rel=1e-12)
    assert found.shared_mistakes == pytest.approx(metrics.jaccard_score(~right, ~other), rel=1e-12)
    assert found.same == pytest.approx(metrics.accuracy_score(OURS, THEIRS), rel=1e-12)
    assert found.only_ours == (right & ~other).sum() and found.only_theirs == (other & ~right).sum()
    assert found.oracle == pytest.approx((right | other).mean())
    assert agreement(LABELS, OURS, OURS)[:3] == (1, 1, pytest.approx(1))
    assert np.isnan(agreement(LABELS, LABELS, LABELS)[1:3]).all()  # no mistake


def test_two_that_are_unsure_of_different_images_are_better_together():
    """Worked by hand: each is wrong on one image with 0.55, and right on the other with 0.9."""
    one = np.array([[0.9, 0.1], [0.55, 0.45]])
    other = np.array([[0.45, 0.55], [0.1, 0.9]])
    labels = np.array([0, 1])
    assert [(x.argmax(1) == labels).mean() for x in (one, other)] == [0.5, 0.5]
    np.testing.assert_array_equal(ensemble(one, other), labels)


def test_the_most_confused_pair_is_named_with_its_images():
    labels = np.array([0, 0, 0, 1, 1, 2])
    seeds = [np.array([1, 1, 0, 1, 0, 2]), np.array([0, 1, 0, 1, 1, 0])]
    first, *others = most_confused(labels, seeds, 3)
    assert first == (0, 1, 1.5, 0.5, [1, 0])  # image 1 by both seeds, image 0 by one
    assert [(one.label, one.predicted, one.which) for one in others] == [(1, 0, [4]), (2, 0, [5])]
    assert most_confused(labels, [labels], 3) == []
