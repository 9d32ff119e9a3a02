"""All plots of a set of records, as SVG, PDF and PNG files."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.style
import pandas as pd

from mosa.base.files import written_atomically
from mosa.results.aggregate import Results
from mosa.results.plots.figures import STYLE
from mosa.results.registry import registered

# Metadata that is left out: it changes with the time or the versions, and the same records give the same
# bytes.
_FORMATS = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def write_plots(
    frame: pd.DataFrame,
    directory: str | Path,
    order: Iterable[str] | None = None,
    metric: str | None = None,
) -> list[Path]:
    """Draw every registered plot that the records have something to show in.

    The same records give the same bytes in any order.

    Args:
        frame: One row per run, as from `mosa.records`; the order of the rows does not matter.
        directory: Where to write; it is made if need be.
        order: Variants of the comparison in display order; None: all. The others have every variant.
        metric: Name of the metric to compare by; None: the one that the tasks report.

    Returns:
        The paths written.

    Raises:
        UserError: The records cannot be compared, or a file cannot be written.
    """
    results = Results(frame, None if order is None else list(order), metric)
    paths = []
    # The user's matplotlibrc has no effect.
    with matplotlib.style.context(["default", STYLE], after_reset=True):
        for output, make in registered("plots"):
            figure = make(results)
            if figure is None:
                continue
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out, once for all formats
            for suffix in output.formats:
                paths.append(Path(directory) / f"{output.name}.{suffix}")
                with written_atomically(paths[-1]) as temporary:
                    figure.savefig(temporary, format=suffix, metadata=_FORMATS[suffix])
    return paths
