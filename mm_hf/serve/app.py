"""The routes of a service."""

import asyncio
import hashlib
import hmac
import json
import math
import time
import uuid
from collections.abc import Mapping
from typing import Any

from .bodies import read_request
from .docs_page import PAGE, STARTING, asset, has_asset
from .limits import RefusedError, error_body
from .logs import log_failure, logger
from .openapi import describe
from .service import Service


# The documentation page may load only from this service. So a browser contacts no other server.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
POLICY += "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
CLOSED = 499  # the code that other servers log when the client has disconnected


def make_app(service: Service) -> Any:
    """The application (ASGI) of a service.

    Raises:
        ImportError: the extra `serve` is not installed.
    """
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, RedirectResponse, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    app = FastAPI(title=service.settings.title, docs_url=None, redoc_url=None, openapi_url=None)

    def reply(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
        return Response(to_json(body), status, dict(headers), media_type="application/json")

    def check_key(request: Request):
        """Refuses a request without the right key, if the service has a key."""
        wanted = service.settings.api_key
        if wanted is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        # Comparing digests takes the same time for every given key and length. Headers come as Latin 1.
        digests = [hashlib.sha256(key).digest() for key in (given.strip().encode("latin-1"), wanted.encode())]
        if not hmac.compare_digest(*digests) or kind.lower() != "bearer":
            headers = {"WWW-Authenticate": "Bearer"}
            message = "This service requires a key, and the request has no key or a wrong one: send the header "
            message += "`Authorization: Bearer KEY`."
            raise RefusedError(401, "unauthorized", message, headers)

    async def answered(request: Request, route: str, evidence: bool) -> Response:
        """Answers a request with rows, counts it, and logs one line about it."""
        started, number = time.monotonic(), uuid.uuid4().hex[:16]
        stage, rows, size = "reading", 0, 0
        headers = {"X-Request-ID": number}

        async def work() -> tuple[int, dict[str, Any]]:
            nonlocal stage, rows, size
            check_key(request)
            with service.taken_on() as taken:
                asked = await read_request(request, service, taken)
                stage, rows, size = "answering", len(asked.rows), taken.size
                service.metrics.rows.labels(route).inc(rows)
                return await service.answer(asked, taken, evidence)

        try:
            status, body = await asyncio.wait_for(work(), service.limits.seconds)
        except RefusedError as refused:
            status, body = refused.status, refused.body()
            headers |= refused.headers
            service.metrics.errors.labels(refused.kind).inc()
        except asyncio.TimeoutError:
            late = stage == "reading"
            status, kind = (408, "slow_body") if late else (504, "timeout")
            said = "The body did not arrive" if late else "The rows were not answered"
            body = error_body(kind, f"{said} within {service.limits.seconds:g} s (--max_seconds).")
            service.metrics.errors.labels(kind).inc()
        except ClientDisconnect:
            status, body = CLOSED, {}
            service.metrics.errors.labels("client_gone").inc()
        except Exception as error:
            log_failure(f"request {number}", error)
            status, body = 500, error_body("failed", f"{type(error).__name__}: the service could not answer.")
            service.metrics.errors.labels("failed").inc()
        seconds = time.monotonic() - started
        service.metrics.requests.labels(route, str(status)).inc()
        service.metrics.seconds.labels(route).observe(seconds)
        bad = sum("error" in answer for answer in body.get("answers", []))
        logger.info("%s %s %d rows=%d bad=%d bytes=%d ms=%.1f", number, route, status, rows, bad, size, 1000 * seconds)
        return reply(status, body, headers)

    @app.post("/predict")
    async def predict(request: Request):
        return await answered(request, "predict", False)

    @app.post("/explain")
    async def explain(request: Request):
        return await answered(request, "explain", True)

    @app.get("/health")
    async def health():
        return reply(200, {"status": "ok"}, {})

    @app.get("/ready")
    async def ready():
        try:
            service.check_ready()
        except RefusedError as refused:
            return reply(refused.status, refused.body(), refused.headers)
        return reply(200, {"status": "ready", "backend": service.backend.name}, {})

    @app.get("/metrics")
    async def metrics(request: Request):
        check_key(request)
        text, kind = service.metrics.text()
        return Response(text, media_type=kind)

    if service.settings.docs:

        @app.get("/")
        async def root():
            return RedirectResponse("/docs")

        @app.get("/openapi.json")
        async def openapi():
            service.check_ready()
            return reply(200, describe(service), {})

        @app.get("/docs")
        async def docs():
            return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})

        @app.get("/docs/start.js")
        async def start():
            return Response(STARTING, media_type="text/javascript")

        @app.get("/docs/{name}")
        async def of_docs(name: str):
            if not has_asset(name):
                raise HTTPException(404)
            content, kind = asset(name)
            return Response(content, media_type=kind, headers={"Cache-Control": "max-age=86400"})

    @app.exception_handler(RefusedError)
    async def refuse(request: Request, refused: RefusedError):
        service.metrics.errors.labels(refused.kind).inc()
        return reply(refused.status, refused.body(), refused.headers)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException):
        routes = "POST /predict, POST /explain, GET /health, GET /ready, GET /metrics"
        message = f"There is no route {request.method} {request.url.path!r:.80} ({error.status_code}). Use {routes}."
        return reply(error.status_code, error_body("no_route", message), error.headers or {})

    return app


def to_json(value: Any) -> bytes:
    """JSON in UTF-8. Numbers that are not finite become null, because JSON does not have them."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    except ValueError:
        return json.dumps(finite(value), ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def finite(value: Any) -> Any:
    """A value in which numbers that are not finite are replaced by None."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
