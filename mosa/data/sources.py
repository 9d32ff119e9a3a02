"""Where data sets and weights come from: sources.csv, and the tables of docs/data.md and docs/weights.md.

sources.csv has one file a row: `kind` ("data" or "weights"), `name` (a task, a benchmark for what all its
tasks share, or a weights file), official `page`, `file`, `bytes`, `checksum` ("sha256:..." or "md5:...", of
which some sources give the first digits only, "..."), `licence`, and the `source` where page, file and size
were read. What no source states is empty. Standard library only.
"""

import csv
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import UserError
from mosa.base.grid import markdown_table

SOURCES = Path(__file__).parent / "sources.csv"
LOOKED_UP = "2026-11-27"
_BEGIN, _END = (
    "<!-- written by `mosa schema` from mosa/data/sources.csv: -->",
    "<!-- end of what is written -->",
)


class Origin(NamedTuple):
    """A file that one downloads: a row of sources.csv; `bytes` is None where no source states it."""

    kind: str
    name: str
    page: str
    file: str
    bytes: int | None
    checksum: str
    licence: str
    source: str


def read_sources() -> list[Origin]:
    """Return all rows of sources.csv.

    Raises:
        UserError: The file is damaged.
    """
    with SOURCES.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    if tuple(head) != Origin._fields or any(len(row) != len(head) for row in rows):
        raise UserError(f"{SOURCES}: is damaged; check the package out again")
    return [Origin(*row[:4], int(row[4]) if row[4] else None, *row[5:]) for row in rows]


def origins(kind: str, name: str) -> list[Origin]:
    """Return what is known of a task or benchmark ("data"), or of a weights file ("weights"), by its name."""
    return [row for row in read_sources() if (row.kind, row.name) == (kind, name)]


def where(kind: str, name: str) -> str:
    """Return where a task or a weights file comes from, for an error: its page, if it is known, and ours.

    Of VTAB-1k it is ours alone, with the prepared collections: nobody reads the original archive of a task.
    """
    if (kind, name.partition("/")[0]) == ("data", "vtab1k"):
        return "docs/data.md links prepared collections"
    page = next((row.page for row in origins(kind, name) if row.page), "")
    ours = f"docs/{kind}.md" if page else f"docs/{kind}.md says where others are"
    return f"{page}, see {ours}" if page else ours


def with_sources(page: str, kind: str) -> str:
    """Return a page of documentation with the table of its sources written again between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    header = (*(("for", "files") if kind == "data" else ("file", "checksum")), "licence", "read in")
    table = markdown_table(header, _rows(kind))
    return "\n".join([before + _BEGIN, "", table, "", _END + rest.partition(_END)[2]])


def _rows(kind: str) -> Iterator[tuple[str, ...]]:
    for (name, page), group in groupby(
        (row for row in read_sources() if row.kind == kind), lambda row: (row.name, row.page)
    ):
        rows = list(group)
        linked = f"[{name}]({page})" if page else name
        files = "; ".join(_shown(row) for row in rows) if kind == "data" else rows[0].checksum or "—"
        sources = "; ".join(dict.fromkeys(row.source for row in rows))
        yield linked, files, rows[0].licence or "see its page", sources


def _shown(row: Origin) -> str:
    return f"{row.file} ({_size(row.bytes)})" if row.bytes else row.file


def _size(number: int) -> str:
    """Return a number of bytes in the largest decimal unit of which there is at least one."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {unit}"
    return f"{number} bytes"
