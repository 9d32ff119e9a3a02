"""All tables of a set of records: files, and the comparison as text for the terminal."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from mosa.results.aggregate import compare
from mosa.results.tables.render import WIDTH, terminal_section
from mosa.results.write import write_outputs


def write_tables(
    frame: pd.DataFrame,
    directory: str | Path,
    order: Iterable[str] | None = None,
    metric: str | None = None,
    reference: str | None = None,
    only: Iterable[str] | None = None,
) -> list[Path]:
    """Write every registered table, see `write_outputs`."""
    return write_outputs("tables", _save, frame, directory, order, metric, reference, only)


def _save(texts: Mapping[str, str], path: Path, suffix: str) -> None:
    path.write_text(texts[suffix], encoding="utf-8", newline="\n")


def terminal_table(
    frame: pd.DataFrame,
    order: Iterable[str] | None = None,
    metric: str | None = None,
    width: int = WIDTH,
) -> str:
    """Return the comparison as plain text, in blocks of columns that fit into `width` characters."""
    return "\n\n".join(terminal_section(section, width) for section in compare(frame, order, metric))
