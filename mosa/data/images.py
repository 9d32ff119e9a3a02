"""Image files of any format to RGB pixels of a given size."""

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mosa.base.errors import UserError
from mosa.data.pixels import Coding, to_rgb

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SHORTER = 256 / 224  # the shorter side before the crop, relative to the crop
_LONGEST = 32  # times the shorter side: what is longer takes memory without end once the shorter is enlarged
_ANEW = "copy it again, or save it anew as an 8-bit PNG"
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INTEGERS = {3: "H", 4: "I"}  # types of EXIF's tags
_KINDS = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"\x89PNG": "PNG"}


def read_image(
    image: Path | np.ndarray, size: int, resize: str, interpolation: str, notes: list[str] | None = None
) -> np.ndarray:
    """Decode and resize one image.

    Args:
        image: Its file, or its pixels.
        size: Side of the square that the model takes.
        resize: "direct" or "shorter", see `mosa.data.task.Task`.
        interpolation: One of `mosa.data.task.INTERPOLATIONS`.
        notes: As for `decode`.

    Returns:
        uint8 of shape (size, size, 3) if resized directly, otherwise (height, width, 3).

    Raises:
        UserError: As `decode`; or the sides are too different to resize the shorter.
    """
    rgb = Image.fromarray(image) if isinstance(image, np.ndarray) else decode_for(image, resize, notes)
    if resize == "direct":
        target = (size, size)
    else:
        short = round(size * _SHORTER)
        target = tuple(int(short * side / min(rgb.size)) for side in rgb.size)  # as torchvision rounds
    if interpolation == "legacy_bilinear":
        return resize_legacy(np.asarray(rgb), target[::-1])
    return np.asarray(rgb if target == rgb.size else rgb.resize(target, _RESAMPLING[interpolation]))


def resize_legacy(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize as TensorFlow 1's `tf.image.resize_bilinear`: neither antialiasing nor half-pixel centres.

    Pixel i of n is read at i * N / n of N, between its two neighbours; the last one is its own neighbour.

    Args:
        pixels: uint8 of shape (height, width, channels).
        size: Height and width.

    Returns:
        uint8 of shape (*size, channels); where TensorFlow gives fractions, the nearest whole numbers.
    """
    values = pixels.astype(np.float32)
    for axis, length in ((1, size[1]), (0, size[0])):
        count = values.shape[axis]
        place = np.arange(length, dtype=np.float32) * np.float32(count / length)
        lower = np.minimum(place.astype(np.int64), count - 1)
        weight = np.expand_dims(place - lower, [other for other in range(3) if other != axis])
        low, high = (values.take(index, axis) for index in (lower, np.minimum(lower + 1, count - 1)))
        values = low + (high - low) * weight
    return values.round().astype(np.uint8)


def decode_for(path: Path, resize: str, notes: list[str] | None = None) -> Image.Image:
    """Decode a file that is to be resized, see `decode` and `read_image`.

    Raises:
        UserError: As `read_image`.
    """
    rgb = decode(path, notes)
    if resize != "direct" and max(rgb.size) > _LONGEST * min(rgb.size):
        raise UserError(
            f"{path}: has {rgb.width:,} x {rgb.height:,} pixels; resized by its shorter side, an image may "
            f"be at most {_LONGEST} times as long as wide: cut it, or take resize 'direct'"
        )
    return rgb


def decode(path: Path, notes: list[str] | None = None) -> Image.Image:
    """Read a file as RGB: 16 bits scaled to 8, transparency composited onto white, rotated by its EXIF data.

    Args:
        path: The file.
        notes: Takes what its owner should know although the image can be read, such as broken EXIF data.

    Raises:
        UserError: The file is not an image, is truncated, empty or too large, or would become black or white
            since the range of its values is not known.
    """
    notes = [] if notes is None else notes
    try:
        if path.stat().st_size == 0:
            raise UserError("is an empty file; copy it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and broken EXIF data
            with Image.open(path) as image:
                coding = Coding.of(image, notes)
                image.load()
                return to_rgb(_upright(image, notes), coding, notes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Image.DecompressionBombError:  # raised at twice Pillow's limit
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise UserError(
            f"{path}: has more than {limit:,} pixels; if it is genuine, make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: {_unidentified(path)}; {_ANEW}") from None
    except FileNotFoundError:
        raise UserError(
            f"{path}: is not there; if its folder was moved, delete the task's pack, which lists the images"
        ) from None
    except PermissionError:
        raise UserError(f"{path}: cannot be read (Permission denied); change its permissions") from None
    except Exception as error:  # Pillow's plugins raise whatever their parsing runs into
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: cannot be decoded ({reason}); {_ANEW}") from None


def _unidentified(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return f"is a file of type {head[8:].decode('ascii', 'replace').strip()!r}, which cannot be read"
    kind = _KINDS.get(head[:4])
    return f"is a {kind} that is damaged, or of a kind that cannot be read" if kind else "is not an image"


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Return an image as its camera was held.

    `PIL.ImageOps.exif_transpose` also writes the EXIF data back, which fails if any tag has a wrong type.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation is None and image.info.get("exif"):
            orientation = _orientation(image.info["exif"])
        method = _UPRIGHT.get(orientation)
    except Exception:  # whatever the parsing of a broken block runs into
        notes.append("has broken EXIF data, so it is read as it is stored, without rotation")
        return image
    if method is None and orientation not in (None, 0, 1):
        notes.append(f"has the EXIF orientation {orientation!r:.20}, not one of 1 to 8, so it is not rotated")
    return image if method is None else image.transpose(method)


def _orientation(exif: bytes) -> int | None:
    """Find the orientation in a block of which Pillow drops all tags after a damaged one."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}[block[:2]]
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", block, place)
        if tag == ExifTags.Base.Orientation and kind in _INTEGERS and number == 1:
            return struct.unpack_from(order + _INTEGERS[kind], block, place + 8)[0]
    return None
