"""Splits that a user's own data lack, and that are held out of train."""

from collections.abc import Collection, Iterator

HOLD_OUT = 0.1  # share of each class of train that becomes val if there is none
TEST_SHARE = 0.2  # the same for test, which is held out before val


def held_out_of_train(given: Collection[str]) -> Iterator[tuple[str, float]]:
    """Yield the splits that are to be held out of train, in this order, with the share of each class."""
    if "test" not in given:
        yield "test", TEST_SHARE
    if "val" not in given:
        yield "val", HOLD_OUT


def share_of(count: int, share: float, keep_one: bool = True) -> int:
    """Return how many of the images of a class a share is: rounded half up, and at least one.

    Args:
        count: Images of the class.
        share: The share.
        keep_one: Leave at least one image, even if none is taken.
    """
    number = max(1, int(share * count + 0.5))
    return min(number, count - 1) if keep_one else number
