"""All tables of a set of records: files, and the comparison as text for the terminal."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mosa.base.files import written_atomically
from mosa.results.aggregate import Results
from mosa.results.registry import registered
from mosa.results.tables.render import WIDTH, terminal_section


def write_tables(
    frame: pd.DataFrame,
    directory: str | Path,
    order: Iterable[str] | None = None,
    metric: str | None = None,
) -> list[Path]:
    """Write every registered table that the records have something to show in.

    The same records give the same bytes in any order.

    Args:
        frame: One row per run, as from `mosa.records`.
        directory: Where to write; it is made if need be.
        order: Variants of the comparison in display order; None: all. The sweep has every variant.
        metric: Name of the metric to compare by; None: the one that the tasks report.

    Returns:
        The paths written.

    Raises:
        UserError: The records cannot be compared, or a file cannot be written.
    """
    results = Results(frame, None if order is None else list(order), metric)
    paths = []
    for output, make in registered("tables"):
        texts = make(results)
        for suffix in output.formats if texts is not None else ():
            paths.append(Path(directory) / f"{output.name}.{suffix}")
            with written_atomically(paths[-1]) as temporary:
                temporary.write_text(texts[suffix], encoding="utf-8", newline="\n")
    return paths


def terminal_table(
    frame: pd.DataFrame,
    order: Iterable[str] | None = None,
    metric: str | None = None,
    width: int = WIDTH,
) -> str:
    """Return the comparison as plain text, in blocks of columns that fit into `width` characters."""
    results = Results(frame, None if order is None else list(order), metric)
    return "\n\n".join(terminal_section(section, width) for section in results.compared)
