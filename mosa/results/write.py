"""Files of all that is registered, tables or plots."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mosa.base.errors import UserError, plain, reason_of, unknown
from mosa.base.files import written_atomically
from mosa.base.plugins import in_use
from mosa.experiment.outputs import Output
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
    only: Iterable[str] | None = None,
) -> list[Path]:
    """Write every registered table or plot that the records have something to show in.

    The same records give the same bytes in any order. Where one cannot be made, all others are first. Of one
    that is not made now, no file of an earlier time is left.

    Args:
        kind: "tables" or "plots".
        save: Writes what a registered function made to a path, in the format of a suffix.
        frame: One row per run, as from `mosa.results.frame`; the order of the rows does not matter.
        directory: Where to write; it is made if need be.
        order: Variants of the comparison in display order; None: all. A sweep has every variant.
        metric: Name of the metric to compare by; None: the one that the tasks report.
        reference: Variant to compare the others with; None: see `mosa.results.aggregate.Section.reference`.
        only: Names of those that are written; None: all.

    Returns:
        The paths written.

    Raises:
        UserError: The records cannot be compared, a name is unknown, or a file cannot be written.
    """
    results = Results(frame, None if order is None else list(order), metric, reference)
    entries = {entry.output.name: entry for entry in registered(kind)}
    for name in only or ():
        if name not in entries:
            raise unknown(kind.removesuffix("s"), name, entries)
    paths: list[Path] = []
    failed: list[Exception] = []
    for output, make in (entries[name] for name in (entries if only is None else only)):
        files = [Path(directory) / f"{output.name}.{suffix}" for suffix in output.formats]
        try:
            if (made := make(results)) is not None:
                for file, suffix in zip(files, output.formats, strict=True):
                    _write(kind, save, made, file, output, suffix)
                    paths.append(file)
                continue
        except Exception as error:  # of a plugin's, say
            failed.append(error)
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink()
    if failed:
        raise failed[0]
    return paths


def _write(kind: str, save: Callable, made: Any, file: Path, output: Output, suffix: str) -> None:
    """Write one format of what was made; say of a plugin's that it is not what is written."""
    try:
        with written_atomically(file) as temporary:
            save(made, temporary, suffix)
    except UserError:
        raise
    except Exception as error:
        what = kind.removesuffix("s")
        plugin = next((one.name for one in in_use() if output.name in one.names(what)), None)
        if plugin is None:
            raise
        wanted = {"table": "the text of each of its formats, by name", "plot": "a figure of matplotlib"}[what]
        reason = plain(f"{type(error).__name__}: {reason_of(error)}")
        raise UserError(
            f"plugin {plugin}: what the {what} {output.name!r} returns cannot be written as {suffix} "
            f"({reason}); expected {wanted}"
        ) from error
