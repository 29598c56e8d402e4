"""The images in a request: its body, or the files of a form (multipart/form-data)."""

from dataclasses import dataclass
from email.message import Message

from alexnet.serve.limits import Limits, Refusal

HOW = "send one image as the body, or one or more as the files of a form"
HEAD = 8192
"""Bytes that the headers of a form's part may have."""


@dataclass(frozen=True)
class Upload:
    """One file as it was sent; `name` is what the client calls it."""

    name: str
    data: bytes


def find_images(content_type: str, body: bytes, limits: Limits) -> list[Upload]:
    """Return the images of a request. Raises `Refusal` if there is none, or too many."""
    header = _header("Content-Type", content_type)
    if header.get_content_type() == "multipart/form-data":
        uploads = _files_of_form(header.get_boundary() or "", body, limits)
    else:
        uploads = [Upload("image", body)]
    if not any(upload.data for upload in uploads):
        raise Refusal(400, f"no image was sent: {HOW}")
    return uploads


def _files_of_form(boundary: str, body: bytes, limits: Limits) -> list[Upload]:
    """Return the files of a form, RFC 7578; fields that are no files are refused."""
    if not boundary:
        raise Refusal(400, "the form has no boundary")
    # One search by C code, which stops after the number of parts that is allowed.
    delimiter = b"\r\n--" + boundary.encode("utf-8", "surrogateescape")
    _, *parts = (b"\r\n" + body).split(delimiter, limits.images + 2)
    end = next((i for i, part in enumerate(parts) if part.startswith(b"--")), None)
    if end is None:
        if len(parts) > limits.images:
            raise Refusal(400, f"more than {limits.images} images in one request")
        raise Refusal(400, "the form has no end")
    if end > limits.images:
        raise Refusal(400, f"more than {limits.images} images in one request")
    return [_file_of(part) for part in parts[:end]]


def _file_of(part: bytes) -> Upload:
    """Read one part of a form."""
    head, found, data = part.partition(b"\r\n\r\n")
    if not found or len(head) > HEAD:
        raise Refusal(400, "the form is damaged")
    lines = head.decode("utf-8", "replace").split("\r\n")
    value = next((x for x in lines if x.lower().startswith("content-disposition:")), "")
    name = _header("Content-Disposition", value.partition(":")[2].strip()).get_filename()
    if name is None:
        raise Refusal(400, f"a field of the form is no file: {HOW}")
    return Upload(name, data)


def _header(name: str, value: str) -> Message:
    """Parse a header with parameters; a damaged one has none."""
    message = Message()
    message[name] = value.replace("\r", " ").replace("\n", " ")
    return message
