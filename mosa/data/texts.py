"""Texts from strangers: lines, and JSON objects with the line of each key, read within bounds.

Standard library only: the workflow identifies data by them.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from mosa.base.errors import shown, unreadable
from mosa.data.problems import Report

_LARGEST = 256 << 20  # bytes; a list of a million images has 100 MB at most
_DIGITS = 18  # of an integer in JSON: what is longer is no class id, and slow to convert
_STRING = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?')  # a string in JSON, and whether it is a key


def read_text(file: Path, report: Report, advice: str, missing: str = "no such file") -> str | None:
    """Return a text, without a byte order mark, or report why it cannot be read.

    Args:
        file: The file.
        report: Takes the problem.
        advice: What to do if it is missing or damaged.
        missing: What to say if it is missing.
    """
    try:
        found = os.stat(file)
        if not stat.S_ISREG(found.st_mode):
            report.error(file, f"is not a file; {advice}")
        elif found.st_size > _LARGEST:
            size = f"has {found.st_size >> 20:,} MiB, and a list at most {_LARGEST >> 20:,}"
            report.error(file, f"{size}; {advice}")
        else:
            return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        report.error(file, f"{missing}; {advice}")
    except UnicodeDecodeError as error:
        report.error(file, f"is not text in UTF-8 (its byte {error.start} is none); {advice}")
    except (OSError, ValueError) as error:
        report.error(file, f"cannot be read ({unreadable(error)}); {advice}")
    return None


def read_lines(file: Path, report: Report) -> list[tuple[str, str]] | None:
    """Return the lines of a text, each with its place; a BOM, CRLF and trailing blank lines are allowed."""
    text = read_text(file, report, "copy it there, it is part of the data set")
    if text is None:
        return None
    lines = text.rstrip().splitlines()
    return [(f"{file}, line {number}", line) for number, line in enumerate(lines, start=1)]


class Listed(NamedTuple):
    """A JSON object that lists images.

    Attributes:
        content: The object.
        lines: The first line of each of its keys.
    """

    content: dict[str, object]
    lines: dict[str, int]


def read_object(file: Path, expected: str, report: Report, advice: str) -> Listed | None:
    """Read a JSON object; keys that are listed twice are errors.

    Args:
        file: The file.
        expected: The form of the object, for the error.
        report: Takes the problems.
        advice: What to do if the file is missing or damaged.
    """
    text = read_text(file, report, advice, missing="cannot be read (no such file)")
    if text is None:
        return None
    repeated: list[str] = []

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(items)
        if len(made) < len(items):
            seen: set[str] = set()
            repeated.extend(key for key, _ in items if key in seen or seen.add(key))
        return made

    try:
        content = json.loads(text, object_pairs_hook=pairs, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        report.error(f"{file}, line {getattr(error, 'lineno', 1)}", f"is not JSON ({reason}); {advice}")
        return None
    if not isinstance(content, dict):
        report.error(f"{file}, line 1", f"is not a JSON object; expected {expected}")
        return None
    lines = _lines_of_keys(text)
    for key in repeated:
        report.error(f"{file}, line {lines[key]}", f"{shown(key)} is listed twice; keep one")
    return Listed(content, lines)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _DIGITS else digits


def _lines_of_keys(text: str) -> dict[str, int]:
    """Return the line of the first occurrence of each key, in one pass."""
    lines: dict[str, int] = {}
    line, counted = 1, 0
    for match in _STRING.finditer(text):
        line += text.count("\n", counted, match.start())
        counted = match.start()
        if match[2]:
            lines.setdefault(json.loads(match[1]), line)
    return lines
