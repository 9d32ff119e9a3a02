"""Names that are longer than their place: where they are broken."""

import re

from mosa.base.grid import display_width

NAME = 30  # columns of a name in a plot, after which it is broken


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
