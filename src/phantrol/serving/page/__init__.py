"""The page at `/`: a chat in the browser, and the maps that it shows of an answer.

The page is a handful of files that the browser loads from this server and from nowhere else, which the header
Content-Security-Policy holds it to. It speaks to the server as any client does, through /v1/models and
/v1/chat/completions; only the maps have a route of their own, /v1/phantrol/explain.

N tokens of the prompt, H x W the grid of one picture's tokens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request, Response

from phantrol.explain.maps import maps_as_json
from phantrol.models.conversation import Chat

FILES = {
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys(
        ("page.js", "chat.js", "pictures.js", "settings.js", "maps.js", "turns.js", "views.js"),
        "text/javascript; charset=utf-8",
    ),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes(
    engine: Any,
    look: Callable[[Request, Callable[[Chat], dict[str, Any]]], Awaitable[dict[str, Any]]],
) -> APIRouter:
    """Return the routes of the page: `/`, its files under /page/, and POST /v1/phantrol/explain.

    engine  an `Engine`
    look    does a piece of work with the chat in the body of a request, {"messages": [...]} as /v1/chat/completions
            takes it, its pictures decoded, where the model may be used, in its turn, and returns what it gives; a
            ValueError of the work is a mistake in the request. It raises what the app answers with; the limits on
            bodies, pictures, addresses and on how many chats are in memory are its own

    /v1/phantrol/explain answers what `maps_as_json` returns for the prompt of the chat.
    """
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    def page() -> Response:
        return _file("index.html", "text/html; charset=utf-8")

    def serve(name: str, kind: str) -> None:
        router.add_api_route(f"/page/{name}", lambda: _file(name, kind), include_in_schema=False)

    for name, kind in FILES.items():
        serve(name, kind)

    @router.post("/v1/phantrol/explain")
    async def explain(request: Request) -> dict[str, Any]:
        """Where the model looked twice, and what its phantom adds, in the prompt of a chat."""
        return await look(request, lambda chat: maps_as_json(engine, chat))

    return router


def _file(name: str, kind: str) -> Response:
    return Response((files(__name__) / name).read_bytes(), headers={**HEADERS, "Content-Type": kind})
