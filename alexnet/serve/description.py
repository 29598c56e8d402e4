"""What the server's description, /openapi.json, says of bodies and answers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]


def _object(**properties: Schema) -> Schema:
    """Describe an object that has all of `properties`."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
BINARY: Schema = {"type": "string", "format": "binary"}
BAD_FILE = _object(image=TEXT, error=TEXT)
"""In a form with several files, one that is no image."""
ONE_CLASS = _object(**{"class": TEXT, "probability": NUMBER, "title": TEXT})
PREDICTIONS = _list(
    {"anyOf": [_object(image=TEXT, predictions=_list(ONE_CLASS), run=TEXT), BAD_FILE]}
)
NESTED: Schema = {"type": "array", "description": "Numbers, nested as the layer's output is"}
FEATURES = _list(
    {
        "anyOf": [
            _object(image=TEXT, features={"type": "object", "additionalProperties": NESTED}),
            BAD_FILE,
        ]
    }
)


def answers(**content: Schema) -> Responses:
    """Describe what is answered with status 200: `content` has a schema for each kind.

    Kinds are "json", "npz", "png" and "text".
    """
    return {200: {"content": {KINDS[kind]: {"schema": own} for kind, own in content.items()}}}


KINDS = {
    "json": "application/json",
    "npz": "application/octet-stream",
    "png": "image/png",
    "text": "text/plain",
}
IMAGES: Schema = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {"schema": _object(file={**_list(BINARY), "minItems": 1})},
        },
    }
}
"""A body with images."""
ERROR = {"content": {"application/json": {"schema": _object(error=TEXT)}}}
ERRORS: Responses = {
    400: {"description": "No image, or a wrong parameter", **ERROR},
    401: {"description": "A token is needed", **ERROR},
    404: {"description": "No such run", **ERROR},
    408: {"description": "Sent too slowly", **ERROR},
    413: {"description": "Too large", **ERROR},
    503: {"description": "Busy, or no weights yet: see Retry-After", **ERROR},
}
NO_TOKEN: Responses = {401: ERRORS[401]}


def leave_out_422(app: "FastAPI") -> None:
    """Remove from the description the status that FastAPI has for wrong parameters: 400 here."""
    schema = app.openapi()
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    schema.pop("components", None)
