"""Width and height of a JPEG, read from its header where that has nothing unusual in it.

Pillow reads the same in five times as long: it keeps what a person may have written into a file.
Anything that Pillow looks into, or might object to, is left to it.
"""

JFIF, QUANTIZATION, SCAN = 0xE0, 0xDB, 0xDA
FRAMES = (0xC0, 0xC2)
"""Baseline and progressive, 8 bits."""
NOT_LOOKED_INTO = (0xC4, 0xDD, 0xFE)
"""Huffman tables, restart interval, comments: passed over."""


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a plain JPEG in grey or colour; None for all else."""
    size, place = None, 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind, end = data[place + 1], place + 2 + int.from_bytes(data[place + 2 : place + 4])
        body = data[place + 4 : end]
        if len(body) != end - place - 4:  # cut off, or shorter than nothing
            return None
        if kind == SCAN:
            return size
        if kind in FRAMES and size is None:
            size = _frame_size(body)
            known = size is not None
        elif kind == JFIF:
            known = body.startswith(b"JFIF\0") and len(body) == 14
        elif kind == QUANTIZATION:  # tables of 64 bytes after a byte that is 0 to 3
            known = len(body) % 65 == 0 and all(table < 4 for table in body[::65])
        else:
            known = kind in NOT_LOOKED_INTO
        if not known:
            return None
        place = end
    return None


def _frame_size(body: bytes) -> tuple[int, int] | None:
    """Return width and height of a frame of 8 bits, grey or three colours."""
    if len(body) < 6 or body[0] != 8 or body[5] not in (1, 3) or len(body) != 6 + 3 * body[5]:
        return None
    width, height = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
    return (width, height) if width and height else None
