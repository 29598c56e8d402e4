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
from PIL import Image

from alexnet.images import decode as images
from alexnet.images.decode import ImageError, decode_jpeg, encode_jpeg, load_square, square_pixels
from alexnet.images.jpeg_header import size_from_header
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


LOSSLESS = {
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
        np.testing.assert_array_equal(load_square(data, 16, orient=True), expected)


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
@pytest.mark.parametrize("orient", [False, True])
@pytest.mark.parametrize("name", EXTRAS)
def test_broken_extras_do_no_harm_and_are_not_warned_of(name: str, orient: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_square(EXTRAS[name], 16, orient=orient)
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
    "a format not on the list": (encode(RGB, "TIFF"), "not a JPEG"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
    "noise": (bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8)), "not a JPEG"),
    "JPEG of three bytes": (JPEG[:3], "not a JPEG"),
    "JPEG cut in half": (JPEG[: len(JPEG) // 2], "damaged"),
    "JPEG without its last ten bytes": (JPEG[:-10], "damaged"),
    "JPEG cut, with an end marker": (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "lower part"),
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
