"""The application: routes, limits, figures. It reads no file that a request names, and nothing is unpickled."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from weft.errors import UserError
from weft.serve.batching import Batcher
from weft.serve.engine import Engine
from weft.serve.rows import image

BYTES, ROWS, SECONDS, TOP = 16 << 20, 1000, 30.0, 100
"""Of a request at most: bytes of its body, rows, seconds to send it and to answer it, hits."""
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": what}
    for code, what in {
        400: "not readable",
        408: "sent too slowly",
        413: "too large",
        422: "a value that the model cannot take",
        504: "took too long",
    }.items()
}


class Rows(BaseModel):
    """One row, or several: values by modality, the cells of a table by their columns."""

    model_config = ConfigDict(extra="forbid")
    rows: dict[str, Any] | list[dict[str, Any]] = Field(examples=[[{"caption": "a red circle"}]])
    explain: bool = Field(False, description="Exact Shapley value of each modality.")


class Values(BaseModel):
    """Rows to embed."""

    model_config = ConfigDict(extra="forbid")
    rows: dict[str, Any] | list[dict[str, Any]]


class Query(BaseModel):
    """One modality of one row, to search by."""

    model_config = ConfigDict(extra="forbid")
    query: dict[str, Any] = Field(examples=[{"caption": "a red circle"}])
    find: str | None = None
    top: int = Field(12, ge=1, le=TOP)


class Fast(Request):
    """A request whose JSON is read in half the time; what that reader refuses, the other reads, or says why not."""

    async def json(self) -> Any:
        try:
            return from_json(await self.body())
        except ValueError:
            return await super().json()


class Route(APIRoute):
    """A route of such requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            return await handler(Fast(request.scope, request.receive))

        return answered


class Door:
    """What every request passes: it is counted, and its whole body is read before the application sees it, so that
    what is too large or too slow is refused.

    Args:
        app: the application.
        counts: requests by path and status.
        spent: seconds by path.
    """

    def __init__(self, app: Any, counts: Counter[tuple[str, int]], spent: dict[str, float]) -> None:
        self.app, self.counts, self.spent = app, counts, spent

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def heard(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if scope["method"] in ("POST", "PUT", "PATCH"):
                await self._whole(scope, receive, heard)
            else:
                await self.app(scope, receive, heard)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.counts[path, status] += 1
            self.spent[path] = self.spent.get(path, 0.0) + time.perf_counter() - began

    async def _whole(self, scope: Any, receive: Any, send: Any) -> None:
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > BYTES:
                        found, remedy = f"more than {BYTES:,} bytes", "send fewer rows"
                        await answer(413, "the body is too large", found, remedy)(scope, receive, send)
                        return
        except TimeoutError:
            found = f"more than {SECONDS:g} s"
            await answer(408, "the request came too slowly", found, "send less")(scope, receive, send)
            return
        whole = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Any:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)


def answer(status: int, what: str, found: str, remedy: str) -> Response:
    """An error in the three parts of a :class:`~weft.errors.UserError`, in ASCII."""
    content = json.dumps({"what": what, "found": found, "remedy": remedy})
    return Response(content, status, media_type="application/json")


def create_app(engine: Engine, *, most: int = 64) -> FastAPI:
    """The application around an engine; at ``most`` so many rows make a batch."""
    counts: Counter[tuple[str, int]] = Counter()
    spent: dict[str, float] = {}
    works = (engine.predict, engine.explain, engine.embed)
    batchers = predict, explain, embed = tuple(Batcher(work, most, SECONDS) for work in works)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        for batcher in batchers:
            await batcher.stop()

    images = [name for name, kind in engine.reader.kinds.items() if kind == "image"]
    about = f"A {type(engine.model).__name__}. A row holds {engine.reader.described()}."
    app = FastAPI(title="weft", description=about, lifespan=life, docs_url=None, redoc_url=None)
    app.router.route_class = Route
    app.add_middleware(Door, counts=counts, spent=spent)

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> Response:
        return answer(422, error.what, error.found, error.remedy)

    @app.exception_handler(TimeoutError)
    async def late(_: Request, error: TimeoutError) -> Response:
        return answer(504, "the answer took too long", f"more than {predict.limit:g} s", "send fewer rows")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"])
        return answer(422, f"the request does not fit: {first['msg']}", place, "see /docs")

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return answer(error.status_code, str(error.detail), f"status {error.status_code}", "see /docs")

    async def read(rows: Any) -> tuple[list[dict[str, Any]], list[str]]:
        """Rows, and what is to be said of them; by a thread where there are images, which take long to unpack."""
        listed = [rows] if isinstance(rows, dict) else rows
        if not 1 <= len(listed) <= ROWS:
            raise UserError(f"1 to {ROWS} rows at once", f"{len(listed)} rows", "send them in parts")
        notes: list[str] = []
        if any(name in row for row in listed for name in images):
            found = await asyncio.to_thread(engine.reader.rows, listed, notes)
        else:
            found = engine.reader.rows(listed, notes)
        return found, notes + engine.unknown(found) + engine.blank(found)

    def need(can: bool, what: str) -> None:
        if not can:
            raise UserError(f"this model does not {what}", type(engine.model).__name__, "see GET /model")

    async def predicted(given: Any, why: bool) -> dict[str, Any]:
        rows, notes = await read(given)
        need(engine.predicts, "predict")
        return {"answers": await (explain if why else predict).ask(rows), "warnings": notes}

    @app.post("/predict", responses=ERRORS)
    async def predict_rows(body: Rows) -> dict[str, Any]:
        """The prediction for one row or many. Warnings name cells that cannot be read, words that training did not
        meet, and rows that hold nothing: they are answered as one of which nothing is known. An image is
        ``{"base64": "..."}``; ``GET /model`` says what a row holds."""
        return await predicted(body.rows, body.explain)

    async def form(request: Request) -> tuple[dict[str, Any], bool]:
        row: dict[str, Any] = {}
        why = False
        async with request.form(max_files=20, max_fields=20, max_part_size=BYTES) as fields:
            for name, value in fields.multi_items():
                if not isinstance(value, str):
                    if engine.reader.kinds.get(name) != "image":
                        raise UserError("only images are uploaded", name[:100], "name the field as its modality")
                    row[name] = await asyncio.to_thread(image, await value.read(), f"the file {name!r}")
                elif name == "explain":
                    why = value.lower() == "true"
                elif name == "row":
                    try:
                        row |= json.loads(value)
                    except (ValueError, TypeError, RecursionError) as error:
                        raise UserError("row is a JSON object", type(error).__name__, "see /docs") from None
                else:
                    raise UserError("fields are row, explain and files", name[:100], "put values into row")
        return row, why

    upload = {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"row": {"type": "string"}, "explain": {"type": "string"}},
                        "additionalProperties": {"type": "string", "format": "binary"},
                    }
                }
            },
        }
    }

    @app.post("/predict/files", responses=ERRORS, openapi_extra=upload)
    async def predict_files(request: Request) -> dict[str, Any]:
        """One row as a form: ``row`` is its JSON, files are images named as their modality."""
        row, why = await form(request)
        return await predicted(row, why)

    @app.post("/embed", responses=ERRORS)
    async def embed_rows(body: Values) -> dict[str, Any]:
        """Unit vectors of every modality of every row; warnings name rows that have none."""
        rows, notes = await read(body.rows)
        need(engine.embeds, "embed")
        return {"embeddings": await embed.ask(rows), "warnings": notes}

    async def found(row: dict[str, Any], find: str | None, top: int) -> dict[str, Any]:
        need(engine.embeds, "search")
        rows, _ = await read(row)
        return await embed.alone(lambda: engine.search(rows[0], find, top))

    @app.post("/search", responses=ERRORS)
    async def search(body: Query) -> dict[str, Any]:
        """Items of the other modality by words, or by an image as base64."""
        return await found(body.query, body.find, body.top)

    @app.get("/item/{modality}/{row}", responses={404: {"description": "no such item"}})
    async def item(modality: str, row: str) -> Response:
        """An item of the served source, by the id of its row: an image as PNG."""
        shown = await asyncio.to_thread(engine.show, modality, row)
        if not isinstance(shown, bytes):
            raise HTTPException(404, "there is no such item")
        return Response(shown, media_type="image/png")

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """What a row holds and what can be asked."""
        return engine.about()

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Prometheus text."""
        lines = ["# TYPE weft_requests_total counter"]
        lines += [f'weft_requests_total{{path="{p}",status="{s}"}} {n}' for (p, s), n in sorted(counts.items())]
        lines += ["# TYPE weft_request_seconds_total counter"]
        lines += [f'weft_request_seconds_total{{path="{p}"}} {n:.6f}' for p, n in sorted(spent.items())]
        lines += ["# TYPE weft_batches_total counter", f"weft_batches_total {sum(b.batches for b in batchers)}"]
        lines += ["# TYPE weft_rows_total counter", f"weft_rows_total {sum(b.rows for b in batchers)}"]
        return "\n".join(lines) + "\n"

    page, interface = (
        (Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("page.html", "docs.html")
    )

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def home() -> str:
        return page

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        """FastAPI's own page fetches its scripts from the internet; this one needs none."""
        return interface

    return app
