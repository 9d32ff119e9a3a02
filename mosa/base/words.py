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


def lacks(option: str, others: Mapping[str, object]) -> str:
    """Say what an option of a method needs of others, which have other values."""
    needed = " and ".join(f"{name}: {json.dumps(value)}" for name, value in others.items())
    return f"{option} needs {needed}; set that, or leave it out"
