"""Kinds of weights files, and the statistics that each was trained with; it imports no torch."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel

IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION: Statistics = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP: Statistics = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SATELLITE: Statistics = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)  # SAT-493M of DINOv3
NONE: Statistics = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

# What a config can name, beside "weights": as the weights were trained.
NORMALIZATIONS = {
    "imagenet": IMAGENET,
    "inception": INCEPTION,
    "clip": CLIP,
    "satellite": SATELLITE,
    "none": NONE,
}

# Kinds that say how their images were normalised. State dicts of kind "timm", and BEiT's, do not.
STATISTICS = {
    "npz": INCEPTION,
    "mae": IMAGENET,
    "mocov3": IMAGENET,
    "swin": IMAGENET,
    "dino": IMAGENET,
    "dinov2": IMAGENET,
    "deit3": IMAGENET,
    "dinov3": IMAGENET,
    "dinov3_sat": SATELLITE,
    "clip": CLIP,
    "eva02": CLIP,
    "siglip": INCEPTION,
}
# Kinds of which some releases were trained with other statistics: the architecture says which these are.
SEVERAL = ("dinov3", "dinov3_sat", "clip", "eva02", "siglip")
FOUND_KINDS = ("timm", *STATISTICS, "beit")
KINDS = ("auto", *FOUND_KINDS)


def name_of(statistics: Statistics) -> str:
    """Return the name that a config has for statistics, or their numbers."""
    names = {value: name for name, value in NORMALIZATIONS.items()}
    return names.get(statistics) or "mean {}, std {}".format(*(list(part) for part in statistics))
