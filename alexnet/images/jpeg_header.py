"""Read width and height from the header of a JPEG that contains nothing unusual.

Pillow takes five times as long because it also stores comments and metadata. Headers with anything
that Pillow examines or might reject are left to Pillow.
"""

JFIF, QUANTIZATION, SCAN = 0xE0, 0xDB, 0xDA
FRAMES = (0xC0, 0xC2)
"""Baseline and progressive, 8 bits."""
SKIPPED = (0xC4, 0xDD, 0xFE)
"""Huffman tables, restart interval, comments."""


def size_from_header(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an ordinary grey or colour JPEG; None for all others."""
    size, offset = None, 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker, end = data[offset + 1], offset + 2 + int.from_bytes(data[offset + 2 : offset + 4])
        body = data[offset + 4 : end]
        if len(body) != end - offset - 4:  # cut off, or a length below 2
            return None
        if marker == SCAN:
            return size
        if marker in FRAMES and size is None:
            size = _frame_size(body)
            known = size is not None
        elif marker == JFIF:
            known = body.startswith(b"JFIF\0") and len(body) == 14
        elif marker == QUANTIZATION:  # tables of 64 bytes after a byte of 0 to 3
            known = len(body) % 65 == 0 and all(table < 4 for table in body[::65])
        else:
            known = marker in SKIPPED
        if not known:
            return None
        offset = end
    return None


def _frame_size(body: bytes) -> tuple[int, int] | None:
    """Return width and height of an 8-bit frame, grey or three colours."""
    if len(body) < 6 or body[0] != 8 or body[5] not in (1, 3) or len(body) != 6 + 3 * body[5]:
        return None
    width, height = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
    return (width, height) if width and height else None
