"""Numbers in sentences."""


def count(number: int, noun: str, plural: str = "") -> str:
    """Return the number with its noun: "1 seed", "3 seeds", "12,000 images".

    Args:
        number: How many.
        noun: Of one.
        plural: Of none or several; "": the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
