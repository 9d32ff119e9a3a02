"""Names that are longer than their place: their width, and where they are broken."""

import re
import unicodedata

NAME = 30  # columns of a name in a plot, after which it is broken


def display_width(text: str) -> int:
    """Return how many columns text takes where characters have one width; wide ones (CJK) take two."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(bool(unicodedata.combining(character)) for character in text)


def pad(text: str, width: int, left: bool = True) -> str:
    """Return text with spaces after it, or before it, up to a width in columns."""
    spaces = " " * (width - display_width(text))
    return text + spaces if left else spaces + text


def wrapped(text: str, width: int = NAME) -> list[str]:
    """Break text into lines of at most so many columns, after spaces and `_ - . / ,` where possible.

    Nothing is left out: two names that differ, differ when they are broken.
    """
    lines = [""]
    for part in re.findall(r"[^\s_\-./,]*[\s_\-./,]*", text):
        if lines[-1] and display_width(lines[-1] + part.rstrip()) > width:
            lines.append("")
        for character in part:
            if display_width(lines[-1] + character) > width and not character.isspace():
                lines.append("")
            lines[-1] += character
    return [line.strip() for line in lines]
