"""The endpoints for programs: predictions, features, health, metrics."""

import io
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from alexnet.analysis.features import check_layers, layer_shapes, taps
from alexnet.images import Pixels
from alexnet.images.decode import ImageError
from alexnet.serve.description import (
    BINARY,
    ERRORS,
    FEATURES,
    IMAGES,
    NO_TOKEN,
    PREDICTIONS,
    TEXT,
    answers,
)
from alexnet.serve.limits import Refusal
from alexnet.serve.predictor import Predictor
from alexnet.serve.service import Service, as_prediction
from alexnet.serve.uploads import Upload, find_images

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

CURL_KIND = "application/x-www-form-urlencoded"
CURL = "; curl sends a file as it is with --data-binary, not with -d"
"""What curl calls every body, and a hint: -d takes line breaks out of it."""


async def uploads_of(request: "Request", service: Service) -> list[Upload]:
    """Read the images of a request."""
    body = b"".join([part async for part in request.stream()])
    return find_images(request.headers.get("content-type", ""), body, service.limits)


async def images_of(
    request: "Request", service: Service, predictor: Predictor
) -> tuple[list[Upload], list[Pixels | ImageError]]:
    """Read and decode the images of a request. Raises `Refusal` if none of them is an image."""
    with service.arriving(predictor):
        uploads = await uploads_of(request, service)
        pixels = await service.decode(uploads, predictor)
    if all(isinstance(each, ImageError) for each in pixels):
        count = len(uploads)
        which = f"none of {count} files is an image; the first: " if count > 1 else ""
        is_curl = request.headers.get("content-type") == CURL_KIND
        raise Refusal(400, f"{which}{pixels[0]}{CURL if is_curl else ''}")
    return uploads, pixels


async def image_of(request: "Request", service: Service, predictor: Predictor) -> Pixels:
    """Read and decode the one image of a request."""
    _, pixels = await images_of(request, service, predictor)
    if len(pixels) > 1 or isinstance(pixels[0], ImageError):
        raise Refusal(400, "this question is about one image")
    return pixels[0]


def add_predictions(app: "FastAPI", service: Service) -> None:
    """Add /predict."""
    from fastapi import Query, Request
    from fastapi.responses import JSONResponse, Response

    responses = {**answers(json=PREDICTIONS), **ERRORS}

    @app.post("/predict", tags=["predict"], openapi_extra=IMAGES, responses=responses)
    async def predict(
        request: Request,
        run: str | None = Query(None, description="A served run. Default: the first"),
        top: int = Query(5, ge=1, le=100_000, description="Classes in the answer"),
        views: int = Query(1, description="1, the centre, or 10, the mean over the paper's ten"),
    ) -> Response:
        """Name the most probable classes of each image, as `alexnet predict --json` does.

        The body is one image, or a form with one or more files. A file that is no image has an
        `error` in place of `predictions`; if none is an image, the status is 400.
        """
        if views not in (1, 10):
            raise Refusal(400, f"there are 1 or 10 views, not {views}")
        predictor = service.predictor(run)
        uploads, pixels = await images_of(request, service, predictor)
        rows = await service.predict(pixels, predictor, views)
        pairs = zip(uploads, rows, strict=True)
        return JSONResponse([as_prediction(own, row, predictor, top) for own, row in pairs])


def add_features(app: "FastAPI", service: Service) -> None:
    """Add /features."""
    from fastapi import Query, Request
    from fastapi.responses import JSONResponse, Response

    @app.post(
        "/features",
        tags=["predict"],
        openapi_extra=IMAGES,
        response_class=Response,
        responses={**answers(json=FEATURES, npz=BINARY), **ERRORS},
    )
    async def features(
        request: Request,
        layer: Annotated[list[str], Query(description="Rows of the network, such as relu7")],
        run: str | None = Query(None, description="A served run. Default: the first"),
        form: str = Query("json", pattern="^(json|npz)$", description="json, or NumPy's npz"),
    ) -> Response:
        """Return the outputs of rows of the network for each image's centre.

        A file that is no image has an `error` in place of `features`. In an npz such files are left
        out; `names` lists the others, each layer has an array, images first.
        """
        predictor = service.predictor(run)
        check_layers(predictor.loaded.model, layer)
        uploads, pixels = await images_of(request, service, predictor)
        good = [
            (own.name, each)
            for own, each in zip(uploads, pixels, strict=True)
            if not isinstance(each, ImageError)
        ]
        shapes = layer_shapes(predictor.loaded.model)
        count = len(good) * sum(int(np.prod(shapes[name])) for name in layer)
        if form == "json" and count > service.limits.values:
            raise Refusal(400, f"{count:,} numbers are too many for JSON; ask for form=npz")
        images = np.stack([each for _, each in good])
        found = await service.inquire(partial(_features, predictor, images, layer))
        if form == "npz":
            names = [name for name, _ in good]
            return Response(_as_npz(names, found), media_type="application/octet-stream")
        return JSONResponse(_as_json(uploads, pixels, found))


def _features(predictor: Predictor, images: Pixels, layers: list[str]) -> dict[str, Any]:
    import torch

    with torch.inference_mode():
        inputs = torch.cat([predictor.inputs(image) for image in images])
        found = taps(predictor.loaded.model, inputs, layers)
    return {name: values.float().cpu().numpy() for name, values in found.items()}


def _as_json(
    uploads: list[Upload], pixels: list[Pixels | ImageError], found: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the features of each image, or the reason why a file is none, in order."""
    rows = iter(range(len(pixels)))
    return [
        {"image": own.name, "error": str(each)}
        if isinstance(each, ImageError)
        else {"image": own.name, "features": _row(found, next(rows))}
        for own, each in zip(uploads, pixels, strict=True)
    ]


def _row(found: dict[str, Any], row: int) -> dict[str, Any]:
    return {layer: values[row].tolist() for layer, values in found.items()}


def _as_npz(names: list[str], found: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, names=np.array(names), **found)
    return file.getvalue()


def add_health(app: "FastAPI", service: Service) -> None:
    """Add /health, /ready and /metrics."""
    from fastapi.responses import JSONResponse, Response

    @app.get("/health", tags=["server"])
    async def health() -> Response:
        """Say that the server lives."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", tags=["server"], responses={503: ERRORS[503], **NO_TOKEN})
    async def ready() -> Response:
        """Say whether every run has weights to answer with."""
        for predictor in service.predictors:
            predictor.loaded  # noqa: B018 - refuses while there are no weights
        return JSONResponse({"status": "ready"})

    @app.get(
        "/metrics",
        tags=["server"],
        response_class=Response,
        responses={**answers(text=TEXT), **NO_TOKEN},
    )
    async def metrics() -> Response:
        """Return counts and times in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")
