"""One colour, marker and place per method, the same in every table and plot."""

from collections.abc import Iterable
from typing import NamedTuple


class MethodStyle(NamedTuple):
    """How a method is drawn; the marker tells methods apart where colour cannot (greyscale print)."""

    color: str
    marker: str
    dash: str


# Colours of Okabe and Ito (2008), "Color Universal Design", which the common forms of colour blindness keep
# apart, and grey. Their yellow is left out: too light for thin lines on white paper.
METHOD_STYLES = {
    "linear": MethodStyle("#767676", "X", "--"),
    "full": MethodStyle("#000000", "P", ":"),
    "lora": MethodStyle("#009E73", "s", "-."),
    "adapter": MethodStyle("#0072B2", "o", "--"),
    "mosa": MethodStyle("#D55E00", "D", "-"),
}
# Three colours and seven markers share no factor: the first 21 new methods all look different.
_MORE_COLORS = ("#CC79A7", "#E69F00", "#56B4E9")
_MORE_MARKERS = ("^", "v", "p", "h", "<", ">", "*")


def method_order(methods: Iterable[str]) -> list[str]:
    """Return the distinct methods: those with a style of their own in its order, then the others by name."""
    methods = set(methods)
    return [m for m in METHOD_STYLES if m in methods] + sorted(methods - METHOD_STYLES.keys())


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """Return a style for each method; methods without a fixed one take theirs from a cycle, by name."""
    styles = {}
    for method in method_order(methods):
        new = len(styles.keys() - METHOD_STYLES.keys())
        cycled = MethodStyle(
            _MORE_COLORS[new % len(_MORE_COLORS)], _MORE_MARKERS[new % len(_MORE_MARKERS)], "-"
        )
        styles[method] = METHOD_STYLES.get(method, cycled)
    return styles
