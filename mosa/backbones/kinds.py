"""Kinds of weights files, and the statistics that each was trained with; it imports no torch."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel

IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION: Statistics = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
NONE: Statistics = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

# What a config can name, beside "weights": as the weights were trained.
NORMALIZATIONS = {"imagenet": IMAGENET, "inception": INCEPTION, "none": NONE}

# Kinds that say how their images were normalised. A state dict of kind "timm" does not.
STATISTICS = {
    "npz": INCEPTION,
    "mae": IMAGENET,
    "mocov3": IMAGENET,
    "swin": IMAGENET,
    "dino": IMAGENET,
    "dinov2": IMAGENET,
    "deit3": IMAGENET,
}
FOUND_KINDS = ("timm", *STATISTICS)
KINDS = ("auto", *FOUND_KINDS)


def name_of(statistics: Statistics) -> str:
    """Return the name that a config has for statistics, or their numbers."""
    names = {value: name for name, value in NORMALIZATIONS.items()}
    return names.get(statistics) or "mean {}, std {}".format(*(list(part) for part in statistics))
