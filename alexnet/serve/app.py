"""The application: endpoints, the page, errors as JSON, all behind the guard."""

import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.errors import AlexnetError, CheckpointError, UsageError
from alexnet.serve.api import add_features, add_health, add_predictions
from alexnet.serve.description import leave_out_422
from alexnet.serve.guard import Application, Guard
from alexnet.serve.limits import Refusal
from alexnet.serve.looking import add_evidence, add_facts, add_questions, add_units
from alexnet.serve.metrics import OTHER
from alexnet.serve.service import Service
from alexnet.storage.environment import package_version

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


def make_app(
    service: Service,
    *,
    token: str | None = None,
    hosts: Iterable[str] = (),
    paths: bool = True,
) -> Application:
    """Return the application, which serves until its lifespan ends.

    `token` and `hosts` are those of `Guard`; `paths` tells clients where the runs are.
    """
    from fastapi import FastAPI

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="alexnet",
        version=package_version(),
        description="Predictions of AlexNet, and a look inside it.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
    )
    add_errors(app)
    add_predictions(app, service)
    add_features(app, service)
    add_health(app, service)
    add_facts(app, service, paths=paths)
    add_units(app, service)
    add_questions(app, service)
    add_evidence(app, service)
    add_page(app)
    leave_out_422(app)
    guard = Guard(app, service.limits, token, tuple(hosts), service.load)
    return counted(guard, app, service)


def add_errors(app: "FastAPI") -> None:
    """Answer every error with one line of JSON that names no path and no code."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    def answer(status: int, message: str, headers: Any = None) -> "Response":
        return JSONResponse({"error": message}, status, headers)

    async def refused(_: "Request", error: Any) -> "Response":
        return answer(error.status, error.message, error.headers)

    async def wrong_parameter(_: "Request", error: Any) -> "Response":
        first = error.errors()[0]
        return answer(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    async def of_http(_: "Request", error: Any) -> "Response":
        return answer(error.status_code, str(error.detail), error.headers)

    async def gone(_: "Request", __: Any) -> "Response":
        return answer(400, "the client has gone")

    async def of_ours(_: "Request", error: Any) -> "Response":
        if isinstance(error, UsageError):
            return answer(400, str(error))
        log.error("%s", error)
        status = 503 if isinstance(error, CheckpointError) else 500
        return answer(status, "this cannot be answered; the server's log says why")

    async def of_memory(_: "Request", __: Any) -> "Response":
        return answer(503, "out of memory; try again", {"retry-after": "5"})

    async def unexpected(_: "Request", __: Any) -> "Response":
        return answer(500, "an unexpected error; the server's log says which")

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(RequestValidationError, wrong_parameter)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(AlexnetError, of_ours)
    app.add_exception_handler(MemoryError, of_memory)
    app.add_exception_handler(Exception, unexpected)


def add_page(app: "FastAPI") -> None:
    """Add the page and its files. They are read once: a request names a key, never a path."""
    from fastapi.responses import Response

    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in TYPES}

    def respond(name: str) -> Response:
        if name not in files:
            raise Refusal(404, "no such file")
        return Response(files[name], media_type=TYPES[Path(name).suffix])

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return respond("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return respond("docs.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return respond(name)


def counted(inner: Application, app: "FastAPI", service: Service) -> Application:
    """Count and time the requests to `inner`, by the endpoints of `app`."""
    known = {route.path for route in app.routes if hasattr(route, "path")}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def note_status(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await inner(scope, receive, note_status)
        finally:
            # The names of runs and layers come from the client: only endpoints are counted.
            path = getattr(scope.get("route"), "path", None) or scope["path"]
            path = path if path in known else OTHER
            service.metrics.requests.labels(path, str(status)).inc()
            service.metrics.seconds.labels(path).observe(time.perf_counter() - start)

    return application
