"""Image files of any format to RGB pixels of a given size."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mosa.base.errors import UserError

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SHORTER = 256 / 224  # the shorter side before the crop, relative to the crop


def read_image(image: Path | np.ndarray, size: int, resize: str, interpolation: str) -> np.ndarray:
    """Decode and resize one image.

    Args:
        image: Its file, or its pixels.
        size: Side of the square that the model takes.
        resize: "direct" or "shorter", see `mosa.data.task.Task`.
        interpolation: "bicubic" or "bilinear", both with antialiasing.

    Returns:
        uint8 of shape (size, size, 3) if resized directly, otherwise (height, width, 3).

    Raises:
        UserError: The file is not an image, or is truncated, empty or too large.
    """
    rgb = Image.fromarray(image) if isinstance(image, np.ndarray) else decode(image)
    if resize == "direct":
        target = (size, size)
    else:
        short = round(size * _SHORTER)
        target = tuple(int(short * side / min(rgb.size)) for side in rgb.size)  # as torchvision rounds
    if target != rgb.size:
        rgb = rgb.resize(target, INTERPOLATIONS[interpolation])
    return np.asarray(rgb)


def decode(path: Path) -> Image.Image:
    """Read a file as RGB: 16 bits scaled to 8, transparency composited onto white, rotated by its EXIF data.

    Raises:
        UserError: The file is not an image, or is truncated, empty or too large.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: is an empty file; copy it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and broken EXIF data
            with Image.open(path) as image:
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:  # raised at twice Pillow's limit
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise UserError(
            f"{path}: has more than {limit:,} pixels; if it is genuine, make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: is not an image; copy it again") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise UserError(f"{path}: cannot be decoded ({error}); copy it again") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
