"""Whether a JPEG has all its data.

libjpeg fills what is missing with grey, or with less detail, and only warns. simplejpeg passes its
warnings on; Pillow does not, so without simplejpeg a second decoding has to show what is missing.
"""

import io
import re
from collections.abc import Iterator

from PIL import Image

from alexnet.images.jpeg_header import SCAN

END = 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
# In a scan 0xFF is followed by 0; restart markers, fill bytes and 0x01 do not end it.
_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")
_DATA_IS_MISSING = re.compile(
    r"Premature end|Corrupt JPEG data: (?!\d+ extraneous bytes before marker 0xd9)"
)
_MISSING = "damaged: part of the image's data is missing or wrong"
# Contains no marker and no long run of one code; the second one follows a restart marker.
_MORE = bytes(range(255)) * 8


def find_segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield marker, offset and body of each segment of a JPEG, the end marker last."""
    offset = 2
    while match := _MARKER.search(data, offset):
        marker, start = match[1][0], match.end()
        offset = start if marker == END else start + int.from_bytes(data[start : start + 2])
        yield marker, match.start(), data[start + 2 : offset]
        if marker == END or offset > len(data):
            return


def has_all_scans(data: bytes) -> bool:
    """Return whether the scans of a JPEG give every bit of every coefficient of each component.

    An ordinary JPEG has one scan. A progressive one has about ten, and when it ends between two of
    them the decoder does not warn.
    """
    missing: dict[int, list[int]] = {}  # by component: the low bits that each coefficient lacks
    progressive = False
    for marker, _, body in find_segments(data):
        if marker in _FRAMES and len(body) >= 6:
            progressive = marker in _PROGRESSIVE
            missing = {component: [16] * 64 for component in body[6::3][: body[5]]}
        elif marker == SCAN and body:
            count = body[0]
            first, last, bits = 0, 63, 0
            if progressive and len(body) >= 4 + 2 * count:
                first, last, bits = body[-3], min(body[-2], 63), body[-1] & 15
            for component in body[1 : 1 + 2 * count : 2]:
                if component in missing:
                    missing[component][first : last + 1] = [bits] * (last + 1 - first)
            if not any(map(any, missing.values())):
                return True
    return False


def find_damage(data: bytes, image: Image.Image, size: tuple[int, int]) -> str | None:
    """Return what is wrong with a JPEG that decodes; `image` was made by `draft(None, size)`."""
    if not has_all_scans(data):
        return _MISSING
    try:
        import simplejpeg
    except ImportError:
        return _MISSING if _lacks_data(data, image, size) else None
    try:
        simplejpeg.decode_jpeg(
            data, "CMYK" if image.mode == "CMYK" else "GRAY", min_height=1, min_width=1
        )
    except ValueError as error:
        if _DATA_IS_MISSING.match(str(error)):
            return _MISSING
        # Its first warning hides others, and it does not read every kind.
        return _MISSING if _lacks_data(data, image, size) else None
    return None


def _lacks_data(data: bytes, image: Image.Image, size: tuple[int, int]) -> bool:
    """Return whether more data before the end marker change the image: then it lacked them."""
    end = next((offset for marker, offset, _ in find_segments(data) if marker == END), len(data))
    restarts = re.findall(rb"\xff([\xd0-\xd7])", data[:end])
    restart = bytes([0xFF, 0xD0 + (restarts[-1][0] + 1) % 8]) if restarts else b""
    longer = data[:end] + _MORE + restart + _MORE + data[end:]
    return _pixels(longer, size) != (image.tobytes(), image.size)


def _pixels(data: bytes, size: tuple[int, int]) -> tuple[bytes, tuple[int, int]]:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        image.draft(None, size)
        return image.tobytes(), image.size
