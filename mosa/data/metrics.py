"""The metrics: what is measured on the evaluated split, each one a function of logits and labels.

Nothing here imports torch at module level, so tables and the workflow can read names, units and directions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mosa.base.errors import UserError, unknown
from mosa.base.plugins import Registry

if TYPE_CHECKING:
    from torch import Tensor

_PART = 256  # images whose losses are added up in single precision
BINS = 15  # of confidence, as in Guo et al. 2017
SHARES = ("top1", "top5")  # metrics that are shares of the images, with a binomial error
EXACT = 9  # decimals of a score that count; what follows is the rounding of floating-point sums


@dataclass(frozen=True)
class Metric:
    """One number that describes the predictions on a split.

    Attributes:
        name: Its key in records, CSV columns and on the command line.
        title: Its name in tables and on axes.
        unit: "%" or "" (a pure number).
        higher_is_better: Its direction.
        decimals: Digits after the point in tables.
        compute: Function of logits, float32 (n, classes), and labels, int64 (n,), both on the CPU.
        description: What it is, in one sentence, with its source where it has one.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    decimals: int
    compute: Callable[["Tensor", "Tensor"], float]
    description: str

    @property
    def label(self) -> str:
        """Title and unit: "top-1 (%)"."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def floor(self) -> float | None:
        """The least value that it can have; None: not known, as of a plugin's."""
        return 0.0 if self.name in SHIPPED else None

    def shown(self, score: float, more: int = 0, signed: bool = False) -> str:
        """Return a score, a spread or a difference as it is printed.

        Scores that are equal to `EXACT` decimals are printed alike, and a better score is never printed as a
        worse one. Halves go where Python's `format` takes them.

        Args:
            score: The unrounded number.
            more: Digits in addition to the metric's `decimals`.
            signed: Whether a positive number has a sign.
        """
        return f"{round(score, EXACT):{'+' if signed else ''}z.{self.decimals + more}f}"


def top1(logits: "Tensor", labels: "Tensor") -> float:
    """Return the share of images whose highest logit is that of their class, in percent."""
    return 100 * (logits.argmax(-1) == labels).sum().item() / len(labels)


def top5(logits: "Tensor", labels: "Tensor") -> float:
    """Return the share of images whose class is among the five highest logits, in percent."""
    best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    return 100 * (best == labels[:, None]).any(-1).sum().item() / len(labels)


def mean_per_class(logits: "Tensor", labels: "Tensor") -> float:
    """Return the mean over classes of the accuracy within the class, in percent.

    Classes without an image do not count.
    """
    hits = (logits.argmax(-1) == labels).double()
    counts = labels.bincount(minlength=logits.shape[-1])
    correct = labels.bincount(weights=hits, minlength=logits.shape[-1])
    return 100 * (correct / counts)[counts > 0].mean().item()


def nll(logits: "Tensor", labels: "Tensor") -> float:
    """Return the mean negative log-likelihood (cross-entropy), in nats."""
    import torch
    from torch.nn.functional import cross_entropy

    parts = zip(logits.split(_PART), labels.split(_PART), strict=True)
    # Added up in double precision: single precision loses digits over a large split.
    sums = torch.stack([cross_entropy(part, wanted, reduction="sum") for part, wanted in parts])
    return sums.double().sum().item() / len(labels)


def ece(logits: "Tensor", labels: "Tensor") -> float:
    """Return the expected calibration error over 15 equal bins of confidence, in percent."""
    confidence, predicted = logits.double().softmax(-1).nan_to_num().max(-1)
    hits = (predicted == labels).double()
    bins = (confidence * BINS).ceil().clamp(1, BINS).long() - 1  # bin b holds (b / 15, (b + 1) / 15]
    gaps = bins.bincount(weights=hits - confidence, minlength=BINS)
    return 100 * gaps.abs().sum().item() / len(labels)


_METRICS = (
    Metric("top1", "top-1", "%", True, 1, top1, "Accuracy of the highest logit."),
    Metric(
        "mean_per_class", "mean per class", "%", True, 1, mean_per_class,
        "Mean over classes of the accuracy within the class: rare classes weigh as much as frequent ones.",
    ),
    Metric("top5", "top-5", "%", True, 1, top5, "Share of images whose class is among the five best."),
    Metric("nll", "NLL", "", False, 3, nll, "Mean negative log-likelihood (cross-entropy), in nats."),
    Metric(
        "ece", "ECE", "%", False, 1, ece,
        "Expected calibration error: the mean gap between confidence and accuracy over 15 equal bins of "
        "confidence (Guo et al., ICML 2017).",
    ),
)  # fmt: skip
SHIPPED = {metric.name: metric for metric in _METRICS}  # those that every record has
METRICS: Registry[Metric] = Registry("metric", SHIPPED)


def get_metric(name: str) -> Metric:
    """Return a metric by its name.

    Raises:
        UserError: There is no such metric.
    """
    if name not in METRICS:
        raise UserError(
            f"{unknown('metric', name, METRICS)} (one of a plugin needs --plugin, or `plugins` in a config)"
        )
    return METRICS[name]
