"""The compute plot: scores against the FLOPs of training, a curve per method."""

from matplotlib.figure import Figure

from mosa.results.aggregate import Results
from mosa.results.plots.draw import chart_figure
from mosa.results.plots.scaling import cost_chart
from mosa.results.registry import plot


@plot(
    "compute",
    label="scores against compute",
    caption="Mean over tasks against the FLOPs of a training run, forward and backward: a curve per method.",
)
def compute_figure(results: Results) -> Figure | None:
    """Draw the mean over tasks against the FLOPs of training, as `scaling_figure`; None if none are known."""
    charts = [
        cost_chart(section, "training_flops", results.styles, results.order or ())
        for section in results.swept
        if section.compute["flops"].notna().any()
    ]
    return chart_figure(charts) if charts else None
