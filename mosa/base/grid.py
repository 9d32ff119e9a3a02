"""Rows of text as a table: aligned for a terminal, or in Markdown.

In both, `sides` says where the columns' texts stand, a letter each: l, r or c (centred, in Markdown alone).
Its last letter holds for all columns after it: "lr" is a column of names, and columns of figures.
"""

import unicodedata
from collections.abc import Iterable, Sequence

_MARKS = {"l": ":--", "r": "--:", "c": ":-:"}


def display_width(text: str) -> int:
    """Return how many columns text takes where characters have one width; wide ones (CJK) take two."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(bool(unicodedata.combining(character)) for character in text)


def pad(text: str, width: int, side: str = "l") -> str:
    """Return text with spaces after it (l) or before it (r), up to a width in columns."""
    spaces = " " * (width - display_width(text))
    return text + spaces if side == "l" else spaces + text


def aligned(rows: Sequence[Sequence[str]], sides: str = "l") -> list[str]:
    """Return the lines of a table for a terminal, two spaces between columns.

    Args:
        rows: At least one, its headings first; all have the same number of cells.
        sides: Of the columns, as above.
    """
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    places = list(zip(widths, _of_columns(sides, len(widths)), strict=True))
    return [
        "  ".join(pad(cell, *place) for cell, place in zip(row, places, strict=True)).rstrip() for row in rows
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], sides: str = "l") -> str:
    """Return a table in Markdown; what has to be escaped is escaped already.

    Args:
        header: The headings.
        rows: All have as many cells as there are headings.
        sides: Of the columns, as above.
    """
    marks = [_MARKS[side] for side in _of_columns(sides, len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *rows))


def _of_columns(sides: str, columns: int) -> str:
    return sides.ljust(columns, sides[-1])[:columns]
