"""What a file that is no image may be: another format, or a text that came in an image's place."""

_CONVERT = "convert it to PNG or JPEG"
_FETCH = "download it again"
_Sign = tuple[int, bytes, str, str]
_IMAGES: tuple[_Sign, ...] = (
    (0, b"II*\0", "a TIFF image", _CONVERT),
    (0, b"MM\0*", "a TIFF image", _CONVERT),
    (4, b"ftypavif", "an AVIF image", _CONVERT),
    (4, b"ftyp", "an HEIC image or a video", _CONVERT),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (0, b"P5", "a PGM image", _CONVERT),
    (0, b"P6", "a PPM image", _CONVERT),
    (0, b"8BPS", "a Photoshop file", _CONVERT),
    (0, b"<svg", "an SVG drawing", _CONVERT),
    (0, b"%PDF", "a PDF document", _CONVERT),
)
_PLACEHOLDERS: tuple[_Sign, ...] = (
    (0, b"<!doctype html", "a web page", _FETCH),
    (0, b"<html", "a web page", _FETCH),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "git lfs pull fetches the file"),
)


def name_foreign(data: bytes) -> str | None:
    """Return what a file is and what to do, "a TIFF image; convert it to PNG"; None if unknown."""
    return _name(data, _IMAGES) or name_placeholder(data)


def name_placeholder(data: bytes) -> str | None:
    """Return what came in the place of a file, and what to do; None for anything else."""
    return _name(data, _PLACEHOLDERS)


def _name(data: bytes, signs: tuple[_Sign, ...]) -> str | None:
    head = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n\t ").lower()
    for offset, sign, what, advice in signs:
        if head.startswith(sign.lower(), offset):
            return f"{what}; {advice}"
    return None
