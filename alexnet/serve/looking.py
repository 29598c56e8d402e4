"""The endpoints behind the page: samples, and what a network does with an image."""

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from alexnet.analysis.figures.pictures import png_bytes
from alexnet.serve import inside
from alexnet.serve.api import image_of
from alexnet.serve.description import BINARY, ERRORS, IMAGES, NO_TOKEN, answers
from alexnet.serve.gallery import Gallery
from alexnet.serve.limits import Refusal
from alexnet.serve.predictor import Predictor
from alexnet.serve.samples import knows_drawings
from alexnet.serve.service import Service
from alexnet.storage.environment import package_version

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

MOST_STEPS = 400
"""Rows of a training's log that one answer has, evenly from all, beside those of epochs."""


def about_run(predictor: Predictor, service: Service, *, paths: bool) -> dict[str, Any]:
    """Describe a served run; `paths` tells the client where it is."""
    return {
        "name": predictor.name,
        "model": predictor.run.model_name,
        "classes": predictor.run.classes,
        "titles": predictor.run.titles,
        "size": predictor.preprocessing.size,
        "crop": predictor.preprocessing.crop,
        "ready": predictor.is_ready,
        "training": predictor.is_training,
        "drawings": knows_drawings(predictor.run.classes),
        "data": service.gallery is not None and predictor is service.predictors[0],
        "command": predictor.command if paths else f"--run {predictor.name}",
    }


async def about_image(
    request: "Request",
    service: Service,
    predictor: Predictor,
    question: Callable[..., Any],
    *details: object,
) -> "Response":
    """Answer a question about the one image of a request with JSON."""
    from fastapi.responses import JSONResponse

    image = await image_of(request, service, predictor)
    found = await service.inquire(partial(question, predictor, image, *details))
    return JSONResponse(found)


async def as_lines(first: Any, others: AsyncIterator[Any]) -> AsyncIterator[str]:
    """Write parts of an answer as lines of JSON; a refusal on the way is the last line."""
    yield json.dumps(first) + "\n"
    try:
        async for each in others:
            yield json.dumps(each) + "\n"
    except Refusal as refusal:
        yield json.dumps({"error": refusal.message}) + "\n"


def gallery_of(service: Service) -> Gallery:
    """Return the data set that is served. Raises `Refusal` if there is none."""
    if service.gallery is None:
        raise Refusal(404, "no data set is served: start with --data, or make an index")
    return service.gallery


def training_rows(predictor: Predictor) -> dict[str, Any]:
    """Return the epochs of a training, and of its steps at most `MOST_STEPS`."""
    rows = predictor.run.metrics()
    epochs = [row for row in rows if row.get("kind") == "epoch"]
    steps = [row for row in rows if row.get("kind") != "epoch" and "train_loss" in row]
    every = -(-len(steps) // MOST_STEPS) or 1
    return {
        "training": predictor.is_training,
        "checkpoint": predictor.checkpoint,
        "planned": predictor.run.settings.epochs,
        "epochs": epochs,
        "steps": steps[::every],
    }


def add_facts(app: "FastAPI", service: Service, *, paths: bool) -> None:
    """Add what needs no image: the runs, their networks, filters, trainings, and samples."""
    from fastapi import Path
    from fastapi.responses import JSONResponse, Response

    pngs = {**answers(png=BINARY), **ERRORS}

    @app.get("/about", tags=["page"], responses=NO_TOKEN)
    async def about() -> Response:
        """Describe the served runs."""
        return JSONResponse(
            {
                "version": package_version(),
                "runs": [about_run(each, service, paths=paths) for each in service.predictors],
                "samples": [
                    {"words": kind.words, "names": list(kind.pictures)} for kind in service.samples
                ],
                "most_bytes": service.limits.body,
            }
        )

    @app.get("/samples/{name}", tags=["page"], response_class=Response, responses=pngs)
    async def sample(name: str = Path(max_length=100)) -> Response:
        """Return a sample picture, PNG."""
        if name not in service.sample_files:
            raise Refusal(404, "no such sample")
        return Response(service.sample_files[name], media_type="image/png")

    @app.get("/training", tags=["page"], responses=ERRORS)
    async def training(run: str | None = None) -> Response:
        """Return the losses and errors of a run's training, also while it goes on."""
        found = await service.inquire(partial(training_rows, service.predictor(run)))
        return JSONResponse(found)

    @app.get("/network", tags=["page"], responses=ERRORS)
    async def network(run: str | None = None) -> Response:
        """Describe a network row by row."""
        predictor = service.predictor(run)
        return JSONResponse(await service.inquire(partial(inside.network_table, predictor)))

    @app.get("/filters/{layer}", tags=["page"], responses=ERRORS)
    async def filters(layer: str, run: str | None = None) -> Response:
        """Return the filters of a convolution."""
        predictor = service.predictor(run)
        return JSONResponse(await service.inquire(partial(inside.layer_filters, predictor, layer)))


def add_units(app: "FastAPI", service: Service) -> None:
    """Add what excites a unit, without an image of the client."""
    from fastapi.responses import JSONResponse, Response

    @app.get("/preferred/{layer}/{unit}", tags=["page"], responses=ERRORS)
    async def preferred(layer: str, unit: int, run: str | None = None) -> Response:
        """Return an image made to excite a unit. This takes seconds."""
        question = partial(inside.preferred_image, service.predictor(run), layer, unit)
        return JSONResponse(await service.inquire(question))

    @app.get("/patches/{layer}/{unit}", tags=["page"], responses=ERRORS)
    async def patches(layer: str, unit: int) -> Response:
        """Return the patches of the data set that excite a unit of the first run most."""
        question = partial(gallery_of(service).patches, layer, unit)
        return JSONResponse(await service.inquire(question))


def add_questions(app: "FastAPI", service: Service) -> None:
    """Add questions about one image, which is the body."""
    from fastapi import Request
    from fastapi.responses import Response

    post = partial(app.post, tags=["page"], openapi_extra=IMAGES, responses=ERRORS)

    @post("/square", response_class=Response, responses={**answers(png=BINARY), **ERRORS})
    async def square(request: Request, run: str | None = None) -> Response:
        """Return the square of an image that the run works with, PNG.

        In place of the image it gives the same answers, and is smaller.
        """
        image = await image_of(request, service, service.predictor(run))
        return Response(png_bytes(image), media_type="image/png")

    @post("/maps/{layer}")
    async def maps(request: Request, layer: str, run: str | None = None) -> Response:
        """Return the strongest maps or units of a layer."""
        own = service.predictor(run)
        return await about_image(request, service, own, inside.layer_of_image, layer)

    @post("/maps/{layer}/{unit}")
    async def unit_map(request: Request, layer: str, unit: int, run: str | None = None) -> Response:
        """Show where in an image a unit fires."""
        own = service.predictor(run)
        return await about_image(request, service, own, inside.unit_of_image, layer, unit)


def add_evidence(app: "FastAPI", service: Service) -> None:
    """Add where the evidence for a class is, the ten views, and the nearest images."""
    from fastapi import Request
    from fastapi.responses import Response, StreamingResponse

    post = partial(app.post, tags=["page"], openapi_extra=IMAGES, responses=ERRORS)

    @post("/evidence/grad-cam/{label}")
    async def grad_cam(request: Request, label: int, run: str | None = None) -> Response:
        """Show where in an image a class, given by its number, is seen."""
        own = service.predictor(run)
        return await about_image(request, service, own, inside.class_evidence, label)

    @post("/evidence/occlusion/{label}")
    async def occlusion(request: Request, label: int, run: str | None = None) -> Response:
        """Show what a class loses where the image is covered.

        Lines of JSON: each has the picture as far as it is known; the last, where `done` is
        `count`, is the answer. Computing ends when the client closes the connection.
        """
        predictor = service.predictor(run)
        image = await image_of(request, service, predictor)
        parts = service.inquire_in_parts(inside.occlusion(predictor, image, label))
        first = await anext(parts)  # errors have a status of their own until the answer begins
        return StreamingResponse(as_lines(first, parts), media_type="application/x-ndjson")

    @post("/views")
    async def views(request: Request, run: str | None = None) -> Response:
        """Return the answers of the paper's ten views."""
        return await about_image(request, service, service.predictor(run), inside.ten_views)

    @post("/nearest")
    async def nearest(request: Request) -> Response:
        """Return the training images nearest to an image in the first run's last hidden layer."""
        question = gallery_of(service).nearest
        return await about_image(request, service, service.predictors[0], question)
