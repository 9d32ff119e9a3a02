"""Pixels of any kind to RGB with 8 bits, and the kinds that would become black or white."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    TiffImageFile,
)

from mosa.base.errors import UserError

_DARK = 16  # of 255: what 12 bits reach if they are stored as 16
_UNSIGNED = {1, 4}  # of TIFF's sample formats; 4 is undefined


class Coding(NamedTuple):
    """What a file says of its pixels beyond Pillow's mode.

    Attributes:
        deep: Whether a channel has 16 bits, of which Pillow keeps the upper 8 if there are several channels.
        white: The largest value of a deep image of one channel.
        inverted: Whether that value is black.
    """

    deep: bool
    white: int
    inverted: bool

    @classmethod
    def of(cls, image: Image.Image, notes: list[str]) -> "Coding":
        """Read the coding of a file that is open but not loaded.

        Raises:
            UserError: Which values are black and white is not known; Pillow would clip them.
        """
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
        real, whole = image.mode == "F", image.mode == "I" and image.format != "PPM"  # scaled by its reader
        if real or whole or not _UNSIGNED.issuperset(tags.get(SAMPLEFORMAT, (1,))):
            raise UserError(
                f"has {'floating-point' if real else 'signed or 32-bit'} pixels, and which values are black "
                "and white is not known; scale it to 0 to 255, and save it with 8 bits"
            )
        if getattr(image, "is_animated", False) and image.format != "MPO":  # whose first is the photograph
            notes.append("has several pages or frames, of which only the first is read")
        if tags.get(SAMPLESPERPIXEL, 1) > len(image.getbands()):
            notes.append(f"has {tags[SAMPLESPERPIXEL]} channels, of which only {image.mode} is read")
        bits = tags.get(BITSPERSAMPLE, (16,))[0]
        return cls(";16" in str(image.tile), 2**bits - 1, tags.get(PHOTOMETRIC_INTERPRETATION) == 0)


def to_rgb(image: Image.Image, coding: Coding, notes: list[str]) -> Image.Image:
    """Convert to RGB: 16 bits are scaled to 8, and transparency is composited onto white.

    Args:
        image: The pixels.
        coding: What their file says of them.
        notes: Takes what looks wrong, though it can be read.

    Raises:
        UserError: The image would become black or white although it shows something.
    """
    if image.mode.startswith("I"):
        image = _scaled(image, coding)
    if image.has_transparency_data:
        image = _on_white(image, coding)
    image = image.convert("RGB")
    if coding.deep and max(high for _, high in image.getextrema()) <= _DARK:
        notes.append("is nearly black: it uses few of its 16 bits; if it should not be, scale its values")
    return image


def _scaled(image: Image.Image, coding: Coding) -> Image.Image:
    """Scale one channel of 16 bits, which Pillow would clip, to 8; its transparent value becomes alpha."""
    values = np.asarray(image).astype(np.int64).clip(0, coding.white)
    if 0 < values.max() * 255 < coding.white:
        raise UserError(
            f"has 16 bits per pixel but no value over {values.max()}, and would be of one colour; save it "
            "with 8 bits"
        )
    scaled = Image.fromarray(((values * 255 + coding.white // 2) // coding.white).astype(np.uint8))
    scaled = ImageOps.invert(scaled) if coding.inverted else scaled
    if "transparency" in image.info:
        scaled.putalpha(
            Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
        )
    return scaled


def _on_white(image: Image.Image, coding: Coding) -> Image.Image:
    key = image.info.get("transparency")
    if coding.deep and isinstance(key, tuple):  # of 16 bits, beside pixels of 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    image = image.convert("RGBA")
    *colours, (_, opaque) = image.getextrema()
    if opaque <= 1 and any(low != high for low, high in colours):
        raise UserError("is transparent everywhere, and would be white; save it without its alpha channel")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image)
