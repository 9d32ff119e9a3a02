"""What follows from what a method declares of itself: the families that it fits, and facts."""

from collections.abc import Mapping, Sequence

ANY_MODEL = "any model"  # declared in place of families by a method that does not need to know the blocks


def misfit(method: str, family: str, fits: Sequence[str]) -> str | None:
    """Return why a method does not fit a family of architectures, or None if it does.

    Args:
        method: Name of the method.
        family: Name of the family, such as "Swin".
        fits: The families that the method declares, or `ANY_MODEL`.
    """
    if ANY_MODEL in fits or family in fits:
        return None
    return f"{method} does not fit {family} (fits {', '.join(fits)})"


def holds(declared: bool | Mapping[str, Sequence[object]], options: Mapping[str, object]) -> bool:
    """Return whether something that a method declares holds with its options.

    Args:
        declared: True or False, or the values of options with which it holds.
        options: All options of the method.
    """
    if isinstance(declared, bool):
        return declared
    return all(options[name] in values for name, values in declared.items())
