"""Image files to squares of RGB, compared with Pillow, numpy and handmade files."""

import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from data_makers import Pixels, encode, photo, picture, png_chunk
from PIL import Image, ImageOps

from alexnet.images import Orientation
from alexnet.images import decode as images
from alexnet.images.decode import ImageError, decode_jpeg, encode_jpeg, load_square, square_pixels
from alexnet.images.jpeg_header import size_from_header
from alexnet.images.jpeg_scans import find_segments, has_all_scans
from alexnet.images.resize import bicubic

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = png_chunk(b"IEND", b"")


def decoded(data: bytes) -> Pixels:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def same_size(data: bytes) -> Pixels:
    """Load without scaling, so that the pixels are those of a decoder."""
    return load_square(data, min(Image.open(io.BytesIO(data)).size))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (64, 64), (32, 80), (256, 512)])
def test_short_side_is_scaled_and_centre_is_cropped(height: int, width: int) -> None:
    data = encode(picture(1, height, width), "PNG")
    size = 32
    scale = size / min(height, width)
    whole = Image.open(io.BytesIO(data)).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (whole.width - size) // 2, (whole.height - size) // 2
    expected = np.array(whole.crop((left, top, left + size, top + size)))
    np.testing.assert_array_equal(load_square(data, size), expected)


@pytest.mark.parametrize(("height", "width"), [(300, 200), (20, 90), (64, 64), (1, 500)])
def test_both_sides_are_scaled_where_that_is_asked_for(height: int, width: int) -> None:
    original = picture(1, height, width)
    expected = Image.fromarray(original).resize((64, 64), Image.Resampling.BICUBIC)
    warped = load_square(encode(original, "PNG"), 64, resize="warp")
    np.testing.assert_array_equal(warped, np.asarray(expected))


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    pixels = picture(2, 32, 32)
    np.testing.assert_array_equal(load_square(encode(pixels, "PNG"), 32), pixels)
    np.testing.assert_array_equal(square_pixels(pixels, 32), pixels)
    np.testing.assert_array_equal(load_square(photo(3, 32, 32), 32), decoded(photo(3, 32, 32)))


def refuse(*_: object) -> Pixels:
    raise AssertionError("Pillow was used")


@pytest.mark.parametrize("size", [32, 100, 227, 256])
@pytest.mark.parametrize(
    ("height", "width"), [(400, 533), (533, 400), (711, 400), (300, 301), (1100, 1300), (20, 90)]
)
def test_photographs_among_many_have_the_same_pixels(height: int, width: int, size: int) -> None:
    data = photo(5, height, width)
    expected = load_square(data, size)
    np.testing.assert_array_equal(load_square(data, size, many=True), expected)


@pytest.mark.parametrize("size", [1, 5, 63, 64, 65, 130])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (63, 65), (129, 200), (260, 250)])
def test_compiled_scaling_gives_pillows_pixels(height: int, width: int, size: int) -> None:
    """Black and white noise: sums are as large and as negative as they get."""
    rng = np.random.default_rng(height * size)
    pixels = rng.integers(0, 2, (height, width, 4), np.uint8) * np.uint8(255)
    expected = images.square(Image.fromarray(pixels[:, :, :3].copy()), size)
    window, box = images._central(width, height, size)
    np.testing.assert_array_equal(bicubic(pixels, window, box, size), expected)


def test_photographs_of_any_size_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share a buffer, which grows, and which the largest ones do not get."""
    sizes = [(100, 120), (500, 500), (80, 90), (500, 510), (100, 120)]
    files = [photo(height, height, width) for height, width in sizes]
    expected = [load_square(data, 256) for data in files]
    monkeypatch.setattr(images, "_buffer", images._DecodeBuffer())
    monkeypatch.setattr(images, "_MAX_BUFFER_BYTES", 500 * 500 * 4)
    monkeypatch.setattr(images, "square", refuse)
    found = [load_square(data, 256, many=True) for data in files]
    np.testing.assert_array_equal(found, expected)
    assert len(images._buffer.bytes) == 500 * 500 * 4


def test_threads_do_not_share_a_buffer() -> None:
    files = [photo(seed, 300, 400) for seed in range(4)]
    expected = [load_square(data, 256) for data in files]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda data: load_square(data, 256, many=True), files * 8)
    np.testing.assert_array_equal(list(found), expected * 8)


def test_photographs_among_many_are_decoded_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not use Pillow's scaling; files that simplejpeg does not decode do."""
    monkeypatch.setattr(images, "square", refuse)
    grey = encode(picture(6, 300, 400)[:, :, 0], "JPEG")
    for data in (photo(5, 400, 533), photo(5, 711, 400), photo(5, 1100, 1300), grey):
        assert load_square(data, 256, many=True).shape == (256, 256, 3)
    for data in (encode(picture(6, 300, 400), "PNG"), photo(5, 300, 400)[:-2000]):
        with pytest.raises(ImageError):
            load_square(data, 256, many=True)


@pytest.mark.parametrize("kind", ["PNG", "grey", "CMYK", "cut", "ended", "no image", "empty"])
def test_among_many_the_verdict_is_the_same(kind: str) -> None:
    whole = photo(7, 300, 400)
    data = {
        "PNG": encode(picture(6, 300, 400), "PNG"),
        "grey": encode(picture(6, 300, 400)[:, :, 0], "JPEG"),
        "CMYK": encode(Image.fromarray(picture(6, 300, 400)).convert("CMYK"), "JPEG"),
        "cut": whole[: len(whole) // 2],
        "ended": whole[: len(whole) // 2] + b"\xff\xd9",
        "no image": b"\xff\xd8 not at all",
        "empty": b"",
    }[kind]

    assert verdict(data, many=True) == verdict(data, many=False)


def verdict(data: bytes, *, many: bool) -> tuple[str, bytes]:
    try:
        return "", load_square(data, 64, many=many).tobytes()
    except ImageError as error:
        return str(error), b""


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_among_many_any_change_of_the_header_has_the_same_consequence(mode: str) -> None:
    """Change every byte up to the first scan in turn: the result must not depend on `many`."""
    data = encode(Image.fromarray(picture(8, 40, 48)).convert(mode), quality=90, comment=b"mine")
    accepted = 0
    for offset in range(2, data.index(b"\xff\xda") + 14):
        for value in (0, 1, data[offset] ^ 128, (data[offset] + 1) % 256, 0xE1, 0xFF):
            changed = data[:offset] + bytes([value]) + data[offset + 1 :]
            plain = size_from_header(changed)
            if plain is None:
                continue
            accepted += 1
            assert verdict(changed, many=True) == verdict(changed, many=False), (offset, value)
            with Image.open(io.BytesIO(changed)) as image:
                assert (image.size, image.mode) == (plain, mode)
    assert accepted > 500


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_size_of_a_plain_jpeg_is_read_without_pillow(mode: str, progressive: bool) -> None:
    image = Image.fromarray(picture(8, 40, 48)).convert(mode)
    data = encode(image, progressive=progressive, restart_marker_rows=1)
    assert size_from_header(data) == (48, 40)


def segment(data: bytes, marker: int) -> bytes:
    """Return the first segment of a JPEG with this marker."""
    start = data.index(bytes([0xFF, marker]))
    return data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4])]


@pytest.mark.parametrize(
    "kind",
    ["CMYK", "EXIF", "PNG", "cut", "nothing", "no length", "JFIF", "table", "two frames"],
)
def test_the_size_of_an_unusual_jpeg_is_not_read(kind: str) -> None:
    data = encode(picture(8, 40, 48))
    assert size_from_header(data) is not None
    table, frame = segment(data, 0xDB), segment(data, 0xC0)
    unusual = {
        "CMYK": encode(Image.fromarray(picture(8)).convert("CMYK")),
        "EXIF": jpeg_with_segment(0xE1, b"Exif\0\0"),
        "PNG": encode(picture(8), "PNG"),
        "cut": data[: data.index(b"\xff\xda") + 6],
        "nothing": b"",
        "no length": data[:2] + b"\xff\xfe\0\1" + data[2:],
        "JFIF": data[:2] + b"\xff\xe0\0\x08JFIF\0\1" + data[2:],
        "table": data.replace(table, b"\xff\xdb\0\x40" + table[4:66]),
        "two frames": data.replace(frame, 2 * frame),
    }[kind]
    assert size_from_header(unusual) is None
    assert verdict(unusual, many=True) == verdict(unusual, many=False)


@pytest.mark.parametrize("size", [1, 32, 50, 256])
@pytest.mark.parametrize(("height", "width"), [(400, 533), (512, 513), (1023, 2048), (64, 8)])
def test_among_many_the_same_reduction_is_chosen(height: int, width: int, size: int) -> None:
    with Image.open(io.BytesIO(encode(Image.new("L", (width, height)), "JPEG"))) as image:
        image.draft(None, (2 * size, 2 * size))
        assert images._drafted(width, height, size) == image.size


def test_without_simplejpeg_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = photo(5, 400, 533)
    expected = load_square(data, 256, many=True)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    np.testing.assert_array_equal(load_square(data, 256, many=True), expected)


def test_large_jpegs_are_decoded_at_twice_the_size() -> None:
    data = photo(4, 400, 600)
    np.testing.assert_allclose(
        load_square(data, 32).astype(float),
        load_square(encode(decoded(data), "PNG"), 32).astype(float),
        atol=6,  # other rounding, same picture
    )
    image = Image.open(io.BytesIO(data))
    image.draft(None, (64, 64))  # what Pillow itself takes for 64 or more
    assert min(image.size) >= 64
    np.testing.assert_array_equal(load_square(data, 32), images.square(image, 32))


@pytest.mark.fault(48)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (2, 3), (257, 255)])
def test_any_shape_is_defined(height: int, width: int) -> None:
    data = encode(np.full((height, width, 3), 77, np.uint8), "PNG")
    np.testing.assert_array_equal(load_square(data, 16), np.full((16, 16, 3), 77))


RGB = Image.fromarray(picture(5, 40, 40))
ALPHA = Image.fromarray(picture(6, 40, 40)[:, :, 0])


def with_alpha(mode: str) -> Image.Image:
    image = RGB.convert("L" if mode == "LA" else "RGB")
    image.putalpha(ALPHA)
    return image


def drawn_on_nothing(kind: str, **options: Any) -> tuple[bytes, Image.Image]:
    """Black ink: the pixels are black everywhere, and only the alpha tells where the ink is."""
    ink = Image.new("RGB", ALPHA.size)
    on_white = Image.fromarray(255 - np.array(ALPHA)).convert("RGB")
    ink.putalpha(ALPHA)
    return encode(ink, kind, **options), on_white


LOSSLESS = {
    "black ink on nothing, PNG": drawn_on_nothing("PNG"),
    "black ink on nothing, WebP": drawn_on_nothing("WEBP", lossless=True, exact=True),
    "grey PNG": (encode(RGB.convert("L"), "PNG"), RGB.convert("L").convert("RGB")),
    "black and white PNG": (encode(RGB.convert("1"), "PNG"), RGB.convert("1").convert("RGB")),
    "RGBA PNG": (encode(with_alpha("RGBA"), "PNG"), RGB),
    "LA PNG": (encode(with_alpha("LA"), "PNG"), RGB.convert("L").convert("RGB")),
    "palette PNG": (encode(RGB.convert("P"), "PNG"), RGB.convert("P").convert("RGB")),
    "transparent palette PNG": (
        encode(RGB.convert("P"), "PNG", transparency=bytes(range(0, 256, 2))),
        RGB.convert("P").convert("RGB"),
    ),
    "GIF": (encode(RGB.convert("P"), "GIF"), RGB.convert("P").convert("RGB")),
    "BMP": (encode(RGB, "BMP"), RGB),
    "WebP": (encode(RGB, "WEBP", lossless=True), RGB),
    "uncompressed PNG": (encode(RGB, "PNG", compress_level=0), RGB),
}


@pytest.mark.fault(44)
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_kinds_give_their_pixels(name: str) -> None:
    data, expected = LOSSLESS[name]
    np.testing.assert_array_equal(same_size(data), np.array(expected))


@pytest.mark.fault(44)
@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_any_mode_become_rgb(mode: str, progressive: bool) -> None:
    data = encode(RGB.convert(mode), quality=95, progressive=progressive)
    np.testing.assert_array_equal(same_size(data), decoded(data))
    difference = np.abs(same_size(data).astype(int) - np.array(RGB.convert(mode).convert("RGB")))
    assert difference.mean() < 5  # compared with the original pixels


@pytest.mark.fault(44)
@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_first_of_several_frames_is_taken(kind: str) -> None:
    frames = [Image.fromarray(picture(seed, 40, 40)) for seed in (7, 8)]
    if kind == "GIF":
        frames = [frame.convert("P") for frame in frames]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(same_size(data), np.array(frames[0].convert("RGB")))


def raw_png(color_type: int, depth: int, rows: list[bytes], width: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + END


@pytest.mark.fault(44)
@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3)])
def test_sixteen_bit_png_keeps_the_high_byte(color_type: int, channels: int) -> None:
    values = np.random.default_rng(9).integers(0, 65536, (8, 8, channels), dtype=np.uint16)
    rows = [row.astype(">u2").tobytes() for row in values]
    expected = np.broadcast_to((values >> 8).astype(np.uint8), (8, 8, 3))
    np.testing.assert_array_equal(load_square(raw_png(color_type, 16, rows, 8), 8), expected)


def sixteen_bits(values: Any, color_type: int, bits: int | None = None) -> bytes:
    """Write (H, W, channels) 16-bit values as PNG, with `bits` in sBIT."""
    data = raw_png(color_type, 16, [row.astype(">u2").tobytes() for row in values], values.shape[1])
    body = bytes([bits] * values.shape[2]) if bits else b""
    return data[:33] + png_chunk(b"sBIT", body) + data[33:] if bits else data


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("color_type", [0, 2, 4, 6])
def test_sixteen_bit_png_is_scaled_by_the_bits_that_its_values_need(
    color_type: int, bits: int
) -> None:
    """Cameras and microscopes fill 8 to 14 bits; the alpha channel does not count."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    values = np.random.default_rng(bits).integers(0, 2**bits, (9, 7, channels), np.uint16)
    values[4, 3, 0] = 2**bits - 1
    if color_type in (4, 6):
        values[..., -1] = 65535
    colors = values[..., : 1 if color_type in (0, 4) else 3]
    expected = np.broadcast_to(colors.astype(float) * 256 // 2**bits, (9, 7, 3))[1:8]
    np.testing.assert_array_equal(load_square(sixteen_bits(values, color_type), 7), expected)


@pytest.mark.parametrize(
    ("bits", "largest", "scaled_by", "why"),
    [
        (12, 1000, 12, "the file says 12 though 10 would hold the values"),
        (10, 200, 10, "the same"),
        (12, 65520, 16, "scaled to 16 bits, as the standard asks"),
        (12, 1008, 16, "scaled, and dark: the low four bits are 0"),
        (16, 255, 8, "16 says no more than the depth"),
        (4, 15, 8, "fewer than 8 bits are not spread out"),
    ],
)
def test_the_bits_that_the_file_names_count(
    bits: int, largest: int, scaled_by: int, why: str
) -> None:
    step = 16 if largest % 16 == 0 else 1
    values = (np.arange(64).reshape(8, 8, 1) * 7 % (largest // step + 1) * step).astype(np.uint16)
    values[0, 0] = largest
    expected = np.broadcast_to(values >> (scaled_by - 8), (8, 8, 3))
    np.testing.assert_array_equal(load_square(sixteen_bits(values, 0, bits), 8), expected, why)


def interlaced_png(values: Any, depth: int) -> bytes:
    """Write (H, W) grey values as an interlaced PNG: the seven passes of the PNG standard."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
    kind = ">u2" if depth == 16 else "u1"
    parts = [values[y::dy, x::dx] for y, x, dy, dx in passes]
    rows = [b"\0" + row.astype(kind).tobytes() for part in parts if part.size for row in part]
    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 1)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return SIGNATURE + body + END


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 8), (13, 9)])
@pytest.mark.parametrize("depth", [8, 16])
def test_interlaced_png_is_whole(depth: int, height: int, width: int) -> None:
    values = np.random.default_rng(height).integers(1, 256, (height, width))
    values[-1] = 0  # as rows that are missing
    data, size = interlaced_png(values, depth), min(height, width)
    expected = square_pixels(np.stack([values] * 3, 2).astype(np.uint8), size)
    np.testing.assert_array_equal(load_square(data, size), expected)


@pytest.mark.parametrize("is_interlaced", [False, True])
def test_a_png_whose_pixels_end_early_is_refused(is_interlaced: bool) -> None:
    """Its data unpack without an error, to too few rows; Pillow leaves the others black."""
    values = np.random.default_rng(0).integers(1, 256, (200, 260)).astype(np.uint8)
    rows = [row.tobytes() for row in values]
    data = interlaced_png(values, 8) if is_interlaced else raw_png(0, 8, rows, 260)
    assert load_square(data, 200).all()
    body = zlib.decompress(data[41:-16])  # without the parts of the chunks around it
    for count in (1, 2, 50, 99):  # of the last rows of 1 + 260 bytes
        part = png_chunk(b"IDAT", zlib.compress(body[: -261 * count]))
        with pytest.raises(ImageError, match="the lower part of the image is missing"):
            load_square(data[:33] + part + END, 200)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("height", "width"), [(90, 120), (400, 300)])
def test_a_turned_jpeg_has_the_pixels_that_pillow_turns(
    height: int, width: int, mode: str, many: bool
) -> None:
    image = Image.fromarray(picture(3, height, width)).convert(mode)
    for orientation in range(10):  # 0 and 9 are no orientations
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(image, exif=exif)
        with Image.open(io.BytesIO(data)) as opened:
            opened.draft(None, (128, 128))
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        found = load_square(data, 64, orientation="turn", many=many)
        np.testing.assert_array_equal(found, images.square(upright, 64))


@pytest.mark.fault(45)
def test_orientation_is_ignored_unless_asked_for() -> None:
    """Compare all eight orientations with the turns in the EXIF standard."""
    pixels = picture(10, 32, 48)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }
    plain = load_square(encode(pixels, "PNG"), 16)
    for orientation, seen in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(pixels, "PNG", exif=exif)
        np.testing.assert_array_equal(load_square(data, 16), plain)
        expected = load_square(encode(np.ascontiguousarray(seen), "PNG"), 16)
        np.testing.assert_array_equal(load_square(data, 16, orientation="turn"), expected)


def jpeg_with_segment(marker: int, body: bytes) -> bytes:
    # With a resolution in the header Pillow does not read the EXIF data by itself.
    data = encode(picture(11), quality=90, dpi=(72, 72))
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


EXTRAS = {
    "EXIF with an entry past its end": jpeg_with_segment(
        0xE1,
        b"Exif\0\0II*\0\x08\0\0\0\x02\0"
        + struct.pack("<HHII", 0x011A, 5, 2555904, 5000)
        + struct.pack("<HHII", 0x0112, 3, 9, 70000),
    ),
    "EXIF of noise": jpeg_with_segment(0xE1, b"Exif\0\0" + bytes(range(256)) * 40),
    "a colour profile of noise": jpeg_with_segment(0xE2, b"ICC_PROFILE\0\1\1" + b"x" * 60000),
}


@pytest.mark.fault(46)
@pytest.mark.parametrize("orientation", ["ignore", "turn"])
@pytest.mark.parametrize("name", EXTRAS)
def test_broken_extras_do_no_harm_and_are_not_warned_of(
    name: str, orientation: Orientation
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_square(EXTRAS[name], 16, orientation=orientation)
    np.testing.assert_array_equal(found, load_square(photo(11), 16))


@pytest.mark.fault(46)
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_texts_that_unpack_to_much_are_passed_over(kind: bytes) -> None:
    data = encode(picture(12, 16, 16), "PNG")
    packed = zlib.compress(bytes(20_000_000))
    heads = {b"iTXt": b"x\0\1\0\0\0", b"zTXt": b"x\0\0", b"iCCP": b"x\0\0"}
    bomb = data[:33] + png_chunk(kind, heads[kind] + packed) + data[33:]
    np.testing.assert_array_equal(load_square(bomb, 16), picture(12, 16, 16))


def header_only(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + END


JPEG = photo(13, 80, 120)
PNG = encode(picture(13, 80, 120), "PNG")
BAD = {
    "empty": (b"", "empty file"),
    "text": (b"not an image at all", "not a JPEG"),
    "a format not on the list": (
        encode(RGB, "TIFF"),
        "BMP image but a TIFF image; convert it to PNG",
    ),
    "a second one": (encode(RGB, "PPM"), "BMP image but a PPM image; convert it to PNG"),
    "a web page": (b"\n<!DOCTYPE html><html><body>not found", "BMP image but a web page; download"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d", "git lfs pull"),
    "a photograph of a telephone": (b"\0\0\0\x18ftypheic", "an HEIC image .* convert it"),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing; convert it"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
    "noise": (bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8)), "not a JPEG"),
    "JPEG of three bytes": (JPEG[:3], "not a JPEG"),
    "JPEG cut in half": (JPEG[: len(JPEG) // 2], "damaged"),
    "JPEG without its last ten bytes": (JPEG[:-10], "damaged"),
    "JPEG cut, with an end marker": (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "data is missing"),
    "PNG cut": (PNG[: len(PNG) // 2], "damaged"),
    "PNG with a flipped bit": (PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:], "damaged"),
    "GIF cut": (encode(RGB, "GIF")[:-50], "damaged"),
    "BMP cut": (encode(RGB, "BMP")[:-50], "damaged"),
    "WebP cut": (encode(RGB, "WEBP")[:-50], "damaged"),
    "50,000 x 50,000": (header_only(50_000, 50_000), "pixels"),
    "10,001 x 10,000": (header_only(10_001, 10_000), "10001 x 10000 pixels"),
}


@pytest.mark.fault(43)
@pytest.mark.fault(47)
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_the_same_reason_every_time(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(ImageError, match=reason) as first:
        load_square(data, 16)
    with pytest.raises(ImageError) as second:
        load_square(data, 16)
    assert str(first.value) == str(second.value)
    assert " at 0x" not in str(first.value)


@pytest.mark.fault(43)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_that_are_grey_below_are_not_taken_for_cut_ones(
    mode: str, options: dict[str, Any]
) -> None:
    pixels = picture(14, 64, 64)
    pixels[40:] = 128
    data = encode(Image.fromarray(pixels).convert(mode), **options)
    np.testing.assert_array_equal(same_size(data), decoded(data))


JPEG_KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_rows": 1},
    "progressive with restart markers": {"progressive": True, "restart_marker_rows": 1},
}


def noisy(seed: int, height: int = 64, width: int = 80) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, 8, (height, width, 3))
    return (picture(seed, height, width) + noise).clip(0, 255).astype(np.uint8)


def accepted_cuts(kind: str, mode: str) -> tuple[int, int]:
    """Cut a JPEG at every seventh byte and end it properly; return the accepted and all cuts."""
    data = encode(Image.fromarray(noisy(3)).convert(mode), quality=85, **JPEG_KINDS[kind])
    assert load_square(data, 16).shape == (16, 16, 3)
    cuts = range(data.index(b"\xff\xda") + 20, len(data) - 20, 7)
    accepted = [cut for cut in cuts if not verdict(data[:cut] + b"\xff\xd9", many=False)[0]]
    return len(accepted), len(cuts)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_what_the_decoder_warns_of_is_refused(kind: str, mode: str) -> None:
    pytest.importorskip("simplejpeg")
    assert accepted_cuts(kind, mode)[0] == 0


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_without_its_warnings_missing_data_are_noticed(
    kind: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut that takes only some bits of the last block may stay unnoticed."""
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    accepted, cuts = accepted_cuts(kind, mode)
    assert accepted <= 0.02 * cuts


@pytest.mark.parametrize("with_simplejpeg", [True, False])
def test_a_progressive_jpeg_that_ends_between_two_scans_is_refused(
    with_simplejpeg: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No decoder warns of it: the image only lacks detail."""
    if not with_simplejpeg:
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    data = encode(noisy(4), progressive=True)
    scans = [offset for marker, offset, _ in find_segments(data) if marker == 0xDA]
    assert len(scans) == data.count(b"\xff\xda") == 10
    assert has_all_scans(data)
    for offset in scans[1:]:
        for many in (False, True):
            said, _ = verdict(data[:offset] + b"\xff\xd9", many=many)
            assert said == "damaged: part of the image's data is missing or wrong"


@pytest.mark.parametrize("with_simplejpeg", [True, False])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_whole_jpeg_may_have_more_data_than_it_needs(
    progressive: bool, with_simplejpeg: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such files are common in Dogs vs. Cats, and phones append data of their own."""
    if not with_simplejpeg:
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    data = encode(noisy(5), progressive=progressive)
    extra = bytes(np.random.default_rng(0).integers(0, 255, 228, np.uint8))
    for longer in (data[:-2] + extra + data[-2:], data + extra, data + photo(3)):
        np.testing.assert_array_equal(load_square(longer, 32), load_square(data, 32))
    with pytest.raises(ImageError, match="data is missing"):  # the whole one is another image
        load_square(data[: len(data) // 2] + b"\xff\xd9" + photo(3), 32)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_pixels_of_another_kind_are_refused(pixels: Pixels) -> None:
    with pytest.raises(ImageError, match=r"not \(H, W, 3\) uint8"):
        square_pixels(pixels, 4)


def test_our_jpegs_decode_to_the_same_pixels_by_both_decoders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("simplejpeg")
    files = [encode_jpeg(picture(seed, 47, 47)) for seed in range(8)]
    images._jpeg_decoder.cache_clear()
    fast = [decode_jpeg(data) for data in files]
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    images._jpeg_decoder.cache_clear()
    plain = [decode_jpeg(data) for data in files]
    with pytest.raises(ImageError):
        decode_jpeg(files[0][:100])
    images._jpeg_decoder.cache_clear()
    np.testing.assert_array_equal(fast, plain)
    np.testing.assert_array_equal(plain, [decoded(data) for data in files])


def test_our_jpegs_are_close_to_the_pixels() -> None:
    pixels = picture(15, 64, 64)
    difference = np.abs(decode_jpeg(encode_jpeg(pixels)).astype(int) - pixels)
    assert difference.mean() < 2
    with pytest.raises(ImageError, match="damaged"):
        decode_jpeg(encode_jpeg(pixels)[:200])
