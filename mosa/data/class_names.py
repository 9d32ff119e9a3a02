"""Names of the classes of the demo's tasks, by label. They decide no pixel, and no digest has them."""

_NAMES = {
    "demo/digits": tuple("0123456789"),
    "demo/textures": (
        *("wood", "marble", "brick", "weave", "zigzag", "scales", "rings", "spiral"),
        *("tiles", "hatching", "terrain", "ridges", "maze", "confetti", "grass", "tartan"),
    ),
    "demo/tissue": ("few", "many", "large", "aligned", "ring", "cluster"),
    "demo/location": tuple(f"strip {number}" for number in range(1, 17)),  # from the left
    "demo/orientation": tuple(f"{22.5 * number + 11.25:.0f}°" for number in range(16)),  # middle of the bin
    "demo/count": tuple("12345678"),
    "demo/flowers": tuple(
        f"{colour} {petals} {form}"
        for colour in ("pink", "violet")
        for form in ("round", "pointed", "notched")
        for petals in (4, 5, 6, 8)
    ),
}


def known_classes(task: str) -> tuple[str, ...]:
    """Return a name for each class of a task, by label; empty where only its data say them.

    Args:
        task: Full name, such as "demo/digits".
    """
    return _NAMES.get(task, ())
