"""The registries of tables and plots: each is declared once, by a decorator, in its own file.

A new file in mosa/results/tables or mosa/results/plots with a decorated function adds one everywhere: to what
`mosa tables` and `mosa plots` write, to the workflow, to Snakemake's report, and to the documentation.
`mosa schema` writes what is generated from the registries.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mosa.base.files import PACKAGE
from mosa.base.grid import markdown_table
from mosa.base.plugins import Registry
from mosa.experiment.outputs import CONDITIONS, KINDS, Output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mosa.results.aggregate import Results

    MakeTable = Callable[[Results], Mapping[str, str] | None]
    MakePlot = Callable[[Results], Figure | None]

_PAGE = PACKAGE.parent / "docs" / "tables-and-plots.md"
_CAPTIONS = PACKAGE.parent / "report"
_BEGIN, _END = "<!-- written by `mosa schema`: -->\n", "<!-- end of what is written -->\n"


class Entry(NamedTuple):
    """A registered table or plot, and the function that makes it.

    A table's function returns the text of each format, a plot's a figure; None where the records have
    nothing to show.
    """

    output: Output
    make: Callable[["Results"], Any]


_ENTRIES: dict[str, Registry[Entry]] = {kind: Registry(kind.removesuffix("s")) for kind in KINDS}


def table(
    name: str, *, label: str, caption: str, formats: Iterable[str] = ("csv", "md"), when: str = "always"
) -> "Callable[[MakeTable], MakeTable]":
    """Register a function as the maker of a table.

    Args:
        name: Stem of its files.
        label: Title in Snakemake's report.
        caption: What it shows, in a sentence.
        formats: Suffixes of its files; Markdown is among them, and is what Snakemake's report shows.
        when: Name of the condition under which there is one, see `mosa.experiment.outputs.CONDITIONS`.
    """
    return _registering("tables", Output(name, tuple(formats), "md", label, caption, when))


def plot(name: str, *, label: str, caption: str, when: str = "always") -> "Callable[[MakePlot], MakePlot]":
    """Register a function as the maker of a plot, which is written as SVG, PDF and PNG, with its caption.

    Args:
        name: Stem of its files.
        label: Title in Snakemake's report.
        caption: What it shows, in a sentence.
        when: As in `table`.
    """
    return _registering(
        "plots", Output(name, ("svg", "pdf", "png", "caption.txt"), "svg", label, caption, when)
    )


def _registering(kind: str, output: Output) -> Callable:
    if output.when not in CONDITIONS:
        raise ValueError(f"{output.name}: no condition {output.when!r}; there are {', '.join(CONDITIONS)}")

    def register(make: Callable) -> Callable:
        _ENTRIES[kind].add(output.name, Entry(output, make), make.__module__)
        return make

    return register


def registered(kind: str) -> list[Entry]:
    """Return all tables or plots, by name.

    Args:
        kind: "tables" or "plots".
    """
    package = importlib.import_module(f"mosa.results.{kind}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return [entry for _, entry in sorted(_ENTRIES[kind].items())]


# --- what is generated


def outputs_data() -> dict[str, Any]:
    """Return the registries as data: the content of mosa/schemas/outputs.json."""
    from mosa.results.published import BENCHMARKS

    data = {kind: [asdict(entry.output) for entry in registered(kind)] for kind in KINDS}
    return data | {"published_benchmarks": sorted(BENCHMARKS.values())}


def outputs_table() -> str:
    """Return the tables and plots as a Markdown table, for the documentation."""
    rows = []
    for kind in KINDS:
        for output, _ in registered(kind):
            first, *others = output.formats
            files = ", ".join([f"`{output.name}.{first}`", *(f"`.{suffix}`" for suffix in others)])
            rows.append((files, output.described))
    return markdown_table(("file", "shows"), rows) + "\n"


def generated_files() -> dict[Path, str]:
    """Return the files of a checkout that are generated from the registries, with their contents."""
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    captions = {
        _CAPTIONS / kind / f"{output.name}.rst": f"{output.caption}\n"
        for kind in KINDS
        for output, _ in registered(kind)
    }
    return {_PAGE: before + _BEGIN + "\n" + outputs_table() + "\n" + _END + after} | captions
