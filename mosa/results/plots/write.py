"""All plots of a set of records, as SVG, PDF and PNG files."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mosa.results.plots.figures import STYLE
from mosa.results.write import write_outputs

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
    reference: str | None = None,
) -> list[Path]:
    """Draw every registered plot, see `write_outputs`."""
    # The user's matplotlibrc has no effect.
    with matplotlib.style.context(["default", STYLE], after_reset=True):
        return write_outputs("plots", _save, frame, directory, order, metric, reference)


def _save(figure: Figure, path: Path, suffix: str) -> None:
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):  # laid out once, for all formats
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # with any, even "none", each file is drawn twice
    figure.savefig(path, format=suffix, metadata=_FORMATS[suffix])
