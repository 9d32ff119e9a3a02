"""Words that several modules use in sentences."""

import json
from collections.abc import Mapping


def count(number: int, noun: str, plural: str = "") -> str:
    """Return the number with its noun: "1 seed", "3 seeds", "12,000 images".

    Args:
        number: How many.
        noun: Of one.
        plural: Of none or several; "": the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def room(gib: float) -> str:
    """Return room on a disk or in memory, given in GiB, in words: "1.3 GiB", "12 MiB", "0.6 MiB"."""
    if gib >= 0.1:
        return f"{gib:.1f} GiB"
    mib = gib * 1024
    size, unit = (mib, "MiB") if mib >= 0.1 else (mib * 1024, "KiB")
    return f"{size:.0f} {unit}" if size >= 10 else f"{size:.2g} {unit}"


def lacks(option: str, others: Mapping[str, object]) -> str:
    """Say what an option of a method needs of others, which have other values."""
    needed = " and ".join(f"{name}: {json.dumps(value)}" for name, value in others.items())
    return f"{option} needs {needed}; set that, or leave it out"
