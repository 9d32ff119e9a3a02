"""Whether a method fits a family of architectures, by the families that it declares."""

from collections.abc import Sequence

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
