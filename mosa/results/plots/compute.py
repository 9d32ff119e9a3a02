"""The compute plot: as the scaling plot, against the FLOPs of training."""

from matplotlib.figure import Figure

from mosa.results.aggregate import Results
from mosa.results.plots.scaling import cost_figure
from mosa.results.registry import plot


@plot(
    "compute",
    label="scores against compute",
    caption="Mean over tasks against the FLOPs of a training run, forward and backward: a curve per method.",
)
def compute_figure(results: Results) -> Figure | None:
    """Draw the mean over tasks against the FLOPs of training, as `scaling_figure`; None if none are known."""
    sections = [section for section in results.swept if section.compute["flops"].notna().any()]
    if not sections:
        return None
    sizes = [section.compute["flops"] for section in sections]
    return cost_figure(results, sections, sizes, "FLOPs of a training run, mean over tasks")
