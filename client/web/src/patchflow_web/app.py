"""The application: its parts, the client that they share, and what holds for every answer."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from patchflow_client import NO_RETRIES, TLS, AsyncClient, PatchflowError, RetryPolicy
from patchflow_client.channel import Token, check_token
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import openai_api, page_api

STATIC = pathlib.Path(__file__).parent / "static"

# Scripts, styles and pictures are this server's own; pictures also come as data.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where the server is and how to speak to it."""

    server: str
    tls: TLS | None = None
    token: Token = None
    forward_tokens: bool = False  # /v1 sends its caller's token instead.
    timeout: float = 300  # Seconds of a generation.
    retry: RetryPolicy = RetryPolicy()
    allowed_hosts: list[str] = dataclasses.field(default_factory=lambda: ["*"])


class SecurityHeaders:
    """Adds HEADERS to every answer, without holding back a stream."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def make_app(settings: Settings) -> FastAPI:
    """ValueError and OSError for settings that can't be."""
    check_token(settings.server, settings.token, settings.tls)
    if settings.tls is not None:
        settings.tls.credentials()

    def connect(retry: RetryPolicy) -> AsyncClient:
        return AsyncClient(
            settings.server, tls=settings.tls, token=settings.token, retry=retry, timeout=settings.timeout
        )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):
        # The page waits with its user; callers of /v1 have retries of their own.
        async with connect(settings.retry) as client, connect(NO_RETRIES) as impatient:
            app.state.client, app.state.impatient = client, impatient
            app.state.settings = settings
            yield

    app = FastAPI(title="Patchflow", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(SecurityHeaders)
    app.include_router(page_api.router)
    app.include_router(openai_api.router)
    openai_api.add_error_handlers(app)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/healthz")
    def alive() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def ready(request: Request) -> JSONResponse:
        """Whether the server answers and a model is ready."""
        try:
            models = await request.app.state.impatient.models(timeout=5)
        except PatchflowError as error:
            return JSONResponse({"status": "unavailable", "error": error.code.name}, 503)
        return JSONResponse({"status": "ok"} if any(model.ready for model in models) else {"status": "loading"},
                            200 if any(model.ready for model in models) else 503)

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
