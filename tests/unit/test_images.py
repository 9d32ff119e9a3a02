"""Odd images come out right, or are refused by name: none becomes black, white or sideways without a word."""

import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from standin import make_fgvc

from mosa.base.errors import UserError
from mosa.data import make_pack
from mosa.data.catalogue import get_task
from mosa.data.images import decode, decode_for, read_image, resize_legacy
from mosa.experiment.protocol import PRESETS


def inspect(path, resize):
    """Return the notes on an image."""
    notes = []
    decode_for(path, resize, notes)
    return notes


RAMP = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, axis=2)


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert image.mode.startswith("I;16")
    np.testing.assert_array_equal(decode(save(tmp_path / "x.png", image)), grey(RAMP))
    np.testing.assert_array_equal(decode(save(tmp_path / "x.tif", image)), grey(RAMP))


def test_grey_and_one_bit_images_have_three_channels(tmp_path):
    np.testing.assert_array_equal(decode(save(tmp_path / "x.png", Image.fromarray(RAMP))), grey(RAMP))
    bits = Image.fromarray(RAMP > 100)
    np.testing.assert_array_equal(decode(save(tmp_path / "y.png", bits)), grey(255 * (RAMP > 100)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode, tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200 if mode != "LA" else 0
    pixels[:2, :, 3] = 255
    image = Image.fromarray(pixels).convert(mode)
    if mode == "P":
        indices = np.zeros((4, 4), np.uint8)
        indices[2:] = 1
        image = Image.fromarray(indices, mode="P")
        image.putpalette([200, 0, 0, 7, 7, 7])
        image.info["transparency"] = 1
    out = np.asarray(decode(save(tmp_path / "x.png", image)))
    assert (out[:2] == ([0, 0, 0] if mode == "LA" else [200, 0, 0])).all()
    assert (out[2:] == 255).all()


def test_cmyk_is_converted(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red
    out = np.asarray(decode(save(tmp_path / "x.jpg", image, quality=100)))
    assert out.shape == (8, 8, 3) and (out[..., 0] > 240).all() and (out[..., 1:] < 15).all()


def test_a_camera_held_upright_is_upright(tmp_path):
    image = Image.fromarray(np.stack([RAMP] * 3, axis=2)[:2])  # 4 wide, 2 high
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    out = decode(save(tmp_path / "x.png", image, exif=exif))
    assert out.size == (2, 4)
    np.testing.assert_array_equal(np.asarray(out)[..., 0], np.rot90(RAMP[:2], -1))


@pytest.mark.filterwarnings("ignore")
def test_a_decompression_bomb_is_refused_by_name_and_unread(tmp_path):
    side = int((2 * Image.MAX_IMAGE_PIXELS) ** 0.5) + 10
    path = tmp_path / "bomb.png"
    Image.new("1", (side, side)).save(path)
    with pytest.raises(UserError, match=r"bomb\.png: has more than 178,956,970 pixels"):
        decode(path)


def test_sizes_are_torchvisions():
    from mosa.base.torchvision import declare_missing_operators

    declare_missing_operators()
    import torchvision

    rng = np.random.default_rng(0)
    for height, width in ((37, 61), (61, 37), (300, 301), (224, 224)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mode = torchvision.transforms.InterpolationMode
        for name, interpolation in (("bicubic", mode.BICUBIC), ("bilinear", mode.BILINEAR)):
            resize = torchvision.transforms.Resize(64, interpolation)
            np.testing.assert_array_equal(
                read_image(pixels, 56, "shorter", name), np.asarray(resize(Image.fromarray(pixels)))
            )


# EXIF data


def exif_block(*tags):
    """EXIF data of tags, each a number, a type, a count and four bytes."""
    entries = b"".join(struct.pack("<HHI4s", *tag) for tag in tags)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)


def short(value):
    return struct.pack("<HH", value, 0)


def rotated(tag):
    return exif_block(tag, (0x112, 3, 1, short(6)))


MISTYPED = {
    "a width that is text": (0x100, 2, 4, b"800\0"),
    "a number that is text": (0x128, 2, 4, b"abc\0"),
    "a text that is a number": (0x10E, 4, 1, b"\1\0\0\0"),
    "an unknown type": (0x100, 77, 1, b"\1\0\0\0"),
    "a fraction without its place": (0x11A, 5, 1, b"\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("name", MISTYPED)
def test_a_mistyped_tag_beside_a_rotation_leaves_the_rotation_right(name, suffix, tmp_path):
    image = Image.fromarray(np.stack([RAMP] * 3, axis=2)[:2])
    upright = decode(save(tmp_path / f"right.{suffix}", image, exif=exif_block((0x112, 3, 1, short(6)))))
    assert upright.size == (2, 4)
    notes = []
    out = decode(save(tmp_path / f"x.{suffix}", image, exif=rotated(MISTYPED[name])), notes)
    np.testing.assert_array_equal(np.asarray(out), np.asarray(upright))
    assert notes == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_pillows(orientation, tmp_path):
    from PIL import ImageOps

    exif = exif_block((0x100, 2, 4, b"800\0"), (0x112, 3, 1, short(orientation)))
    path = save(tmp_path / "x.png", Image.fromarray(RAMP[:2]), exif=exif)
    clean = exif_block((0x112, 3, 1, short(orientation)))
    expected = ImageOps.exif_transpose(
        Image.open(save(tmp_path / "y.png", Image.fromarray(RAMP[:2]), exif=clean))
    )
    np.testing.assert_array_equal(decode(path), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize(
    ("exif", "words"),
    [
        (exif_block((0x112, 2, 2, b"6\0\0\0")), "has the EXIF orientation '6', not one of 1 to 8"),
        (exif_block((0x112, 3, 1, short(9))), "has the EXIF orientation 9, not one of 1 to 8"),
        (b"Exif\0\0II*\0\xff", "has broken EXIF data, so it is read as it is stored"),
    ],
)
def test_an_orientation_that_cannot_be_followed_is_noted(exif, words, tmp_path):
    path = save(tmp_path / "x.jpg", Image.fromarray(RAMP[:2]), exif=exif)
    (note,) = inspect(path, "direct")
    assert note.startswith(words)
    assert decode(path).size == (4, 2)


# Pixels of other kinds


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (RAMP.astype(np.float32) / 255, "floating-point"),
        (RAMP.astype(np.float32), "floating-point"),
        (RAMP.astype(np.int32), "signed or 32-bit"),
        (RAMP.astype(np.int32) * 1000, "signed or 32-bit"),
    ],
)
def test_values_without_a_known_range_are_refused(pixels, kind, tmp_path):
    path = save(tmp_path / "x.tif", Image.fromarray(pixels))
    with pytest.raises(UserError, match=rf"x\.tif: has {kind} pixels, and which values are black and white"):
        decode(path)


def tiff(path, pixels, bits, sample_format=1, photometric=1):
    """Write a grey TIFF of any kind by hand, since Pillow writes few."""
    height, width = pixels.shape
    data = pixels.tobytes()
    longs = {256: width, 257: height, 273: 8, 278: height, 279: len(data)}
    shorts = {258: bits, 259: 1, 262: photometric, 277: 1, 339: sample_format}
    tags = sorted((longs | shorts).items())
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in longs else 3, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
    return path


@pytest.mark.parametrize(
    ("dtype", "sample_format"), [("i1", 2), ("<i2", 2), ("<u4", 1), ("<i4", 2), ("<f4", 3)]
)
def test_tiffs_of_other_types_are_refused(dtype, sample_format, tmp_path):
    pixels = RAMP.astype(dtype)
    with pytest.raises(UserError, match="and which values are black and white is not known"):
        decode(tiff(tmp_path / "x.tif", pixels, 8 * pixels.itemsize, sample_format))


@pytest.mark.parametrize(("dtype", "sample_format"), [("<f8", 3), ("<i8", 2), ("<f2", 3)])
def test_a_tiff_that_pillow_does_not_know_is_called_a_tiff(dtype, sample_format, tmp_path):
    pixels = RAMP.astype(dtype)
    with pytest.raises(UserError, match=r"is a TIFF that is damaged, or of a kind that|floating-point"):
        decode(tiff(tmp_path / "x.tif", pixels, 8 * pixels.itemsize, sample_format))


def test_white_is_zero_where_a_tiff_says_so(tmp_path):
    for bits, factor in ((8, 1), (16, 257)):
        pixels = (255 - RAMP).astype(f"<u{bits // 8}") * factor
        path = tiff(tmp_path / "x.tif", pixels, bits, photometric=0)
        np.testing.assert_array_equal(decode(path), grey(RAMP))


def test_twelve_bits_reach_white(tmp_path):
    values = np.array([0, 4095, 2048, 1024] * 4, np.uint16)
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).tolist()
    )
    path = tiff(tmp_path / "x.tif", np.frombuffer(packed, np.uint8).reshape(4, 6), 12)
    path.write_bytes(
        path.read_bytes().replace(struct.pack("<HHII", 256, 4, 1, 6), struct.pack("<HHII", 256, 4, 1, 4))
    )
    assert np.asarray(decode(path))[0, :, 0].tolist() == [0, 255, 128, 64]


def test_eight_bits_that_were_saved_as_sixteen_are_refused(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(RAMP.astype(np.uint16)))
    with pytest.raises(UserError, match="has 16 bits per pixel but no value over 240, and would be of one"):
        decode(path)
    black = save(tmp_path / "black.png", Image.fromarray(np.zeros((4, 4), np.uint16)))
    assert not np.asarray(decode(black)).any()  # as it was meant


def test_twelve_bits_that_were_saved_as_sixteen_are_noted(tmp_path):
    path = save(tmp_path / "x.png", Image.fromarray(RAMP.astype(np.uint16) * 17))
    (note,) = inspect(path, "direct")
    assert note.startswith("is nearly black: it uses few of its 16 bits")
    assert not inspect(save(tmp_path / "y.png", Image.fromarray(RAMP.astype(np.uint16) * 257)), "direct")


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_an_image_that_is_transparent_everywhere_is_refused(suffix, tmp_path):
    pixels = np.dstack([RAMP, RAMP, RAMP, np.zeros_like(RAMP)])
    path = save(tmp_path / f"x.{suffix}", Image.fromarray(pixels), lossless=True, exact=True)
    with pytest.raises(UserError, match="is transparent everywhere, and would be white"):
        decode(path)


def test_a_transparent_value_of_sixteen_bits_is_white(tmp_path):
    pixels = np.array([[0, 1000], [65535, 30000]], np.uint16)
    path = save(tmp_path / "x.png", Image.fromarray(pixels), transparency=1000)
    assert np.asarray(decode(path))[..., 0].tolist() == [[0, 255], [255, 117]]


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_the_first_of_several_frames_is_read_and_noted(suffix, tmp_path):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    path = save(tmp_path / f"x.{suffix}", first, save_all=True, append_images=[second], lossless=True)
    assert inspect(path, "direct") == ["has several pages or frames, of which only the first is read"]
    assert (np.asarray(decode(path)) == [200, 0, 0]).all()


def test_a_photograph_with_a_preview_is_as_good_as_any(tmp_path):
    image = Image.fromarray(np.stack([RAMP] * 3, axis=2))
    path = save(tmp_path / "x.jpg", image, format="MPO", save_all=True, append_images=[image])
    assert Image.open(path).format == "MPO" and inspect(path, "direct") == []


def test_files_that_are_no_images_are_called_what_they_are(tmp_path):
    for content, words in (
        (b"\0\0\0\x18ftypheic" + bytes(30), "is a file of type 'heic', which cannot be read"),
        (b"\x89PNG\r\n\x1a\nxx", "is a PNG that is damaged"),
        (b"<html>404</html>", "is not an image"),
    ):
        (tmp_path / "x.jpg").write_bytes(content)
        with pytest.raises(UserError, match=rf"x\.jpg: {words}"):
            decode(tmp_path / "x.jpg")


# Extreme shapes


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (3300, 100)])
def test_a_strip_is_refused_before_its_shorter_side_is_enlarged(size, tmp_path):
    path = save(tmp_path / "strip.png", Image.new("RGB", size))
    tracemalloc.start()
    for read in (lambda: read_image(path, 224, "shorter", "bicubic"), lambda: inspect(path, "shorter")):
        with pytest.raises(UserError, match=r"strip\.png: has [\d,]+ x [\d,]+ pixels; .* at most 32 times"):
            read()
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert read_image(path, 224, "direct", "bicubic").shape == (224, 224, 3)
    assert inspect(path, "direct") == []


def test_a_panorama_is_none(tmp_path):
    path = save(tmp_path / "wide.png", Image.new("RGB", (3200, 100)))
    assert read_image(path, 14, "shorter", "bicubic").shape == (16, 512, 3)


def test_a_strip_leaves_no_pack_and_is_named_with_its_line(tmp_path):
    folder = make_fgvc(tmp_path, get_task("fgvc/cub"))
    save(folder / "images/val/001 class/0.jpg", Image.new("RGB", (5000, 1)))
    with pytest.raises(UserError, match=r"val\.json, line 3: .*/val/001 class/0\.jpg: has 5,000 x 1 pixels"):
        make_pack("fgvc/cub", tmp_path / "out" / "pack", tmp_path)
    assert not [path for path in (tmp_path / "out").iterdir() if not path.name.endswith(".lock")]


def test_packing_warns_of_what_it_notes(tmp_path, capsys):
    folder = make_fgvc(tmp_path, get_task("fgvc/cub"))
    for split in ("val", "test"):
        image = Image.new("RGB", (16, 12))
        image.save(folder / f"images/{split}/001 class/0.jpg", exif=exif_block((0x112, 3, 1, short(9))))
    make_pack("fgvc/cub", tmp_path / "pack", tmp_path, image_size=8)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "EXIF" in line]
    assert line.startswith("warning: ") and "test.json, line 3: " in line and "(and 1 more: " in line


# --- the resizing of TensorFlow 1


def test_legacy_resizing_has_the_values_worked_out_by_hand():
    """Pixel i of n is N i / n of N: neither a half pixel is added nor a neighbourhood averaged."""
    row = np.array([0, 10, 20, 90], np.uint8)
    image = np.broadcast_to(row[None, :, None], (4, 4, 3))
    smaller = resize_legacy(image, (4, 3))  # read at 0, 4/3, 8/3
    assert smaller[0, :, 0].tolist() == [0, 13, 67]  # 10 + 10/3, 20 + 70 * 2/3 = 66.7
    larger = resize_legacy(image, (4, 8))  # read at 0, 0.5, 1, ... 3.5, where the last is its own neighbour
    assert larger[0, :, 0].tolist() == [0, 5, 10, 15, 20, 55, 90, 90]
    half = resize_legacy(image, (2, 2))  # every second pixel, however the others look
    assert half[..., 0].tolist() == [[0, 20], [0, 20]]
    assert (resize_legacy(image.transpose(1, 0, 2), (3, 4)) == smaller.transpose(1, 0, 2)).all()
    assert (resize_legacy(image, (4, 4)) == image).all() and smaller.dtype == np.uint8


def test_legacy_resizing_interpolates_both_ways_before_it_rounds():
    image = np.array([[0, 1], [1, 4]], np.uint8)[..., None]
    assert resize_legacy(image, (4, 4))[..., 0].tolist() == [
        [0, 0, 1, 1],
        [0, 2, 2, 2],
        [1, 2, 4, 4],
        [1, 2, 4, 4],
    ]


def test_the_family_of_vpt_reads_vtab_as_tensorflow_1(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    legacy, plain = (
        read_image(tmp_path / "image.png", 16, "direct", how) for how in ("legacy_bilinear", "bilinear")
    )
    assert (legacy == resize_legacy(pixels, (16, 16))).all() and (legacy != plain).mean() > 0.9
    assert PRESETS["vpt"].interpolation_for("direct") == "legacy_bilinear"
    assert PRESETS["vpt"].interpolation_for("shorter") == "bilinear"
    assert {PRESETS[name].interpolation_for("direct") for name in ("standard", "noah")} == {"bicubic"}
