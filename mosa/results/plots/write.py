"""All plots of a set of records, as SVG, PDF and PNG files, with their captions."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mosa.results.plots.figures import LOOK, STYLE, WIDTHS, Look
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
    titles: bool = False,
    columns: int = 2,
    only: Iterable[str] | None = None,
) -> list[Path]:
    """Draw every registered plot, see `write_outputs`.

    Args:
        titles: Whether titles and notes are drawn into the plots, too; they are in the caption anyway.
        columns: Of a page that a plot takes: 1 (3.3 inches) or 2 (6.9 inches).
    """
    look = LOOK.set(Look(WIDTHS[columns], titles))
    # The user's matplotlibrc has no effect.
    with matplotlib.style.context(["default", STYLE], after_reset=True):
        try:
            return write_outputs("plots", _save, frame, directory, order, metric, reference, only)
        finally:
            LOOK.reset(look)


def _save(figure: Figure, path: Path, suffix: str) -> None:
    if suffix == "caption.txt":
        path.write_text(f"{figure.get_label()}\n", encoding="utf-8")
        return
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):  # laid out once, for all formats
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # with any, even "none", each file is drawn twice
    figure.savefig(path, format=suffix, metadata=_FORMATS[suffix])
