"""The application: `/predict`, `/health`, `/metrics` and a page to try it at `/`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from detectron2.engine.serving.answers import answer_as_json, answer_as_picture
from detectron2.engine.serving.batching import BatchRunner, QueueFullError
from detectron2.engine.serving.limits import Refused, ServeLimits
from detectron2.engine.serving.metrics import Metrics, resident_bytes
from detectron2.engine.serving.model import ServedModel
from detectron2.engine.serving.pictures import read_picture
from detectron2.engine.serving.schema import PREDICT_SCHEMA
from detectron2.engine.serving.uploads import Wanted, parse_upload, read_body
from detectron2.version import __version__

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

# The page has its script and style inside, and shows pictures that were dropped on it.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_CLIENT_GONE = 499  # nobody sees it but the metrics


class _Server:
    """What the routes share; made when the application starts, as it holds threads."""

    def __init__(self, model: ServedModel, limits: ServeLimits, min_score: float) -> None:
        self.model = model
        self.limits = limits
        self.min_score = min_score
        self.in_progress = 0
        self.metrics = Metrics({"model": model.name, "version": __version__})
        self.runner = BatchRunner(
            model.run,
            model.key,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait,
            max_queue=limits.max_queue,
            on_batch=self.metrics.add_batch,
        )
        self.decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "detectron2-decode")
        # One at a time: masks are drawn from full images of them.
        self.painter = ThreadPoolExecutor(1, "detectron2-draw")
        gauge = self.metrics.add_gauge
        gauge("detectron2_queue_length", "Images that wait.", lambda: len(self.runner))
        gauge("detectron2_requests_in_progress", "Predictions.", lambda: self.in_progress)
        gauge("process_resident_memory_bytes", "Memory of the process.", resident_bytes)

    def close(self) -> None:
        self.runner.close()
        self.decoders.shutdown()
        self.painter.shutdown()

    async def predict(self, request: Request) -> Response:
        """The answer to a request.

        Raises:
            Refused: it gets none.
        """
        if self.in_progress >= self.limits.max_requests:
            raise _busy(f"{self.in_progress} requests are in progress", 1)
        self.in_progress += 1
        try:
            body = await read_body(
                request.stream(), request.headers.get("content-length"), self.limits
            )
            try:
                return await asyncio.wait_for(
                    self._answer(body, request), self.limits.answer_timeout
                )
            except asyncio.TimeoutError:
                raise Refused(
                    504,
                    f"There was no answer within {self.limits.answer_timeout:g} s. Try again, or "
                    "send a smaller image.",
                ) from None
        finally:
            self.in_progress -= 1

    async def _answer(self, body: bytes, request: Request) -> Response:
        in_thread = asyncio.get_running_loop().run_in_executor
        wanted, pixels, inputs = await in_thread(
            self.decoders, self._decode, body, dict(request.headers), dict(request.query_params)
        )
        height, width = inputs["height"], inputs["width"]
        try:
            waiting = self.runner.submit(inputs)
        except QueueFullError as error:
            raise _busy(f"{len(self.runner)} images are waiting", error.retry_after) from error
        del inputs
        # A time-out cancels this, which takes the image out of the queue.
        output = await asyncio.wrap_future(waiting)
        if pixels is None:
            answer = await in_thread(
                self.decoders, answer_as_json, output, self.model, (height, width), wanted.min_score
            )
            return JSONResponse(answer)
        picture = await in_thread(
            self.painter,
            answer_as_picture,
            output,
            self.model,
            pixels,
            wanted.min_score,
            wanted.media_type,
        )
        return Response(picture, media_type=wanted.media_type)

    def _decode(
        self, body: bytes, headers: dict[str, str], query: dict[str, str]
    ) -> tuple[Wanted, np.ndarray | None, dict[str, Any]]:
        """What is wanted, the image if it will be drawn into, and the input of the model."""
        wanted = parse_upload(body, headers, query, self.min_score)
        pixels = read_picture(wanted.image, self.model.image_format, self.limits.max_pixels)
        try:
            inputs = self.model.prepare(pixels)
        except ValueError as error:
            raise Refused(400, f"The image does not fit the model: {error}") from error
        keep = None if wanted.media_type == "application/json" else pixels
        return Wanted(b"", wanted.min_score, wanted.media_type), keep, inputs


def _busy(why: str, retry_after: int) -> Refused:
    return Refused(
        503,
        f"The server is busy: {why}. Try again in {retry_after} s.",
        {"retry-after": str(retry_after)},
    )


def create_app(
    model: ServedModel, limits: ServeLimits | None = None, min_score: float = 0.5
) -> FastAPI:
    """An ASGI application that serves one model.

    Args:
        limits: by default those of `ServeLimits`.
        min_score: instances below it are left out, unless a request says otherwise.
    """
    limits = limits or ServeLimits()
    server: list[_Server] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.append(_Server(model, limits, min_score))
        try:
            yield
        finally:
            server.pop().close()

    app = FastAPI(
        title="detectron2",
        version=__version__,
        lifespan=lifespan,
        # FastAPI's pages for people fetch their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    _add_error_handlers(app)
    _add_routes(app, model, lambda: server[0])
    app.add_middleware(_CountAnswers, server=lambda: server[0])
    return app


def _add_routes(app: FastAPI, model: ServedModel, server: Callable[[], _Server]) -> None:
    page = files("detectron2.engine.serving").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def demo() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": _PAGE_POLICY})

    @app.post("/predict", openapi_extra=PREDICT_SCHEMA, response_class=Response)
    async def predict(request: Request) -> Response:
        """Detect in an image."""
        return await server().predict(request)

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether predictions are answered."""
        alive = server().runner.is_alive
        content = {
            "status": "ok" if alive else "stopped",
            "model": model.name,
            "classes": len(model.class_names),
            "version": __version__,
        }
        return JSONResponse(content, 200 if alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counters for Prometheus."""
        text = server().metrics.text()
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _add_error_handlers(app: FastAPI) -> None:
    """Every error is JSON with one sentence."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": error.sentence}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{error.detail}: {request.method} {request.url.path}"
        return JSONResponse({"error": sentence}, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_GONE)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "The server failed on this image; its log says why."}, 500)


class _CountAnswers:
    """Counts answers and their seconds for the metrics."""

    def __init__(self, app: Any, server: Callable[[], _Server]) -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500
        start = time.monotonic()

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            known = {"/", "/predict", "/health", "/metrics", "/openapi.json"}
            path = scope["path"] if scope["path"] in known else "other"
            self.server().metrics.add_request(path, status, time.monotonic() - start)
