"""Statistics of predictions, on plain arrays: what runs say of the same images. Each names its reference."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from mosa.data.metrics import BINS, SHIPPED
from mosa.results.stats import CONFIDENCE

RESAMPLES = 9999  # of a bootstrap


def percent(value: float, signed: bool = False) -> str:
    """Return an accuracy, or a difference of two, in percent as the tables of means print top-1."""
    return SHIPPED["top1"].shown(value, signed=signed)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count images by class (rows) and predicted class (columns), int64 (classes, classes)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the share of each class's images that are classified right (recall); NaN without images."""
    images = confusion.sum(axis=1)
    return np.divide(confusion.diagonal(), images, out=np.full(len(images), np.nan), where=images > 0)


def wilson_interval(correct: int, images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's score interval of an accuracy over images that are a sample of such images.

    Wilson, JASA 1927; recommended by Brown, Cai and DasGupta, Statistical Science 2001. It holds for few
    images and at 100 %: 32 right of 32 is [0.893, 1].
    """
    z = stats.norm.ppf((1 + confidence) / 2)
    share, total = correct / images, images + z**2
    middle = (correct + z**2 / 2) / total
    half = z / total * np.sqrt(images * share * (1 - share) + z**2 / 4)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def bootstrap_interval(correct: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the percentile bootstrap interval of an accuracy over images and seeds.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Images are drawn, each with the
    answers of all seeds, as these saw the same images. The draws are random and always the same. Where all
    images have the same answers it has no width: take Wilson's.

    Args:
        correct: Whether each image is classified right (seeds, images).
        confidence: Coverage.
    """
    # A draw of images is a draw of how often each number of right seeds occurs.
    seeds, images = correct.shape
    counts = np.bincount(correct.sum(axis=0), minlength=seeds + 1)
    draws = np.random.default_rng(0).multinomial(images, counts / images, size=RESAMPLES)
    means = draws @ np.arange(seeds + 1) / (seeds * images)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Count images, and add up confidence and right answers, by bin of confidence: (3, bins).

    Bin b holds (b / bins, (b + 1) / bins]. Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Args:
        confidence: Highest probability of each image (images,).
        correct: Whether it is classified right (images,).
        bins: Number of bins.
    """
    number = np.clip(np.ceil(confidence * bins), 1, bins).astype(np.int64) - 1
    weights = (None, confidence, correct.astype(np.float64))
    return np.stack([np.bincount(number, weights=weight, minlength=bins) for weight in weights])


def calibration_error(binned: np.ndarray) -> float:
    """Return the expected calibration error of what `reliability` returns (Guo et al. 2017)."""
    images, confidence, correct = binned
    return float(np.abs(correct - confidence).sum() / images.sum())


def mcnemar_p(only_ours: int, only_theirs: int) -> float:
    """Return the exact p-value, two-sided, that two classifiers are right equally often on the same images.

    McNemar, Psychometrika 1947, by the binomial distribution; recommended for two classifiers on one test
    set by Dietterich, Neural Computation 1998.

    Args:
        only_ours: Images that only the one classifies right.
        only_theirs: Images that only the other does.
    """
    differing = only_ours + only_theirs
    if not differing:
        return 1.0
    return float(min(1, 2 * stats.binom.cdf(min(only_ours, only_theirs), differing, 0.5)))


def smallest_mcnemar_p(differing: int) -> float:
    """Return the smallest p-value that `mcnemar_p` can give with so many images on which two differ."""
    return min(1.0, 2.0 ** (1 - differing))


class Agreement(NamedTuple):
    """How far two runs agree on the same images; shares are fractions, NaN where nothing is to be compared.

    Attributes:
        same: Share of images with the same predicted class.
        shared_mistakes: Of the images that either gets wrong, the share that both do (Jaccard).
        kappa: Error consistency: agreement on which images are right beyond what two classifiers of these
            accuracies have by chance; 0 is chance, 1 the same images. Cohen's kappa of being right, Geirhos,
            Meding and Wichmann, NeurIPS 2020.
        only_ours, only_theirs: Images that only the one classifies right.
        oracle: Share of images that at least one of the two classifies right.
    """

    same: float
    shared_mistakes: float
    kappa: float
    only_ours: int
    only_theirs: int
    oracle: float


def agreement(labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Agreement:
    """Compare two runs' predicted classes (images,) of the same images."""
    right, other = ours == labels, theirs == labels
    wrong = int((~right | ~other).sum())
    chance = right.mean() * other.mean() + (1 - right.mean()) * (1 - other.mean())
    return Agreement(
        same=float((ours == theirs).mean()),
        shared_mistakes=float((~right & ~other).sum() / wrong) if wrong else np.nan,
        kappa=float(((right == other).mean() - chance) / (1 - chance)) if chance < 1 else np.nan,
        only_ours=int((right & ~other).sum()),
        only_theirs=int((other & ~right).sum()),
        oracle=float((right | other).mean()),
    )


def ensemble(*probabilities: np.ndarray) -> np.ndarray:
    """Return the classes that the mean of several runs' probabilities (images, classes) predicts.

    Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles, NeurIPS 2017.
    """
    return np.mean(probabilities, axis=0).argmax(axis=1)


class Confused(NamedTuple):
    """A class that is taken for another.

    Attributes:
        label, predicted: Their numbers.
        images: Images of the class that are, mean over seeds.
        share: The same, of all its images.
        which: Numbers of these images, those that most seeds confuse first.
    """

    label: int
    predicted: int
    images: float
    share: float
    which: list[int]


def most_confused(
    labels: np.ndarray, predicted: Sequence[np.ndarray], classes: int, pairs: int = 5, images: int = 5
) -> list[Confused]:
    """Return the pairs of a class and another that it is most often taken for; ties by number.

    Args:
        labels: The right classes (images,).
        predicted: Of each seed the predicted classes (images,).
        classes: Number of classes.
        pairs: How many are returned at most.
        images: How many images of a pair are returned at most.
    """
    total = sum(confusion_matrix(labels, of_seed, classes) for of_seed in predicted)
    of_class = total.sum(axis=1)
    np.fill_diagonal(total, 0)
    found = []
    for place in np.argsort(-total.ravel(), kind="stable")[:pairs]:
        label, other = divmod(int(place), classes)
        if not total[label, other]:
            break
        times = sum((labels == label) & (of_seed == other) for of_seed in predicted)
        which = np.argsort(-times, kind="stable")[:images]
        number = float(total[label, other])
        found.append(
            Confused(
                label, other, number / len(predicted), number / of_class[label],
                [int(one) for one in which if times[one]],
            )
        )  # fmt: skip
    return found
