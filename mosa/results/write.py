"""Files of all that is registered, tables or plots."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mosa.base.files import written_atomically
from mosa.results.aggregate import Results
from mosa.results.registry import registered


def write_outputs(
    kind: str,
    save: Callable[[Any, Path, str], None],
    frame: pd.DataFrame,
    directory: str | Path,
    order: Iterable[str] | None = None,
    metric: str | None = None,
    reference: str | None = None,
) -> list[Path]:
    """Write every registered table or plot that the records have something to show in.

    The same records give the same bytes in any order. Where one cannot be made, all others are first.

    Args:
        kind: "tables" or "plots".
        save: Writes what a registered function made to a path, in the format of a suffix.
        frame: One row per run, as from `mosa.results.frame`; the order of the rows does not matter.
        directory: Where to write; it is made if need be.
        order: Variants of the comparison in display order; None: all. A sweep has every variant.
        metric: Name of the metric to compare by; None: the one that the tasks report.
        reference: Variant to compare the others with; None: see `mosa.results.aggregate.Section.reference`.

    Returns:
        The paths written.

    Raises:
        UserError: The records cannot be compared, or a file cannot be written.
    """
    results = Results(frame, None if order is None else list(order), metric, reference)
    paths, failed = [], []
    for output, make in registered(kind):
        try:
            made = make(results)
        except Exception as error:  # of a plugin's, say
            failed.append(error)
            continue
        for suffix in output.formats if made is not None else ():
            paths.append(Path(directory) / f"{output.name}.{suffix}")
            with written_atomically(paths[-1]) as temporary:
                save(made, temporary, suffix)
    if failed:
        raise failed[0]
    return paths
