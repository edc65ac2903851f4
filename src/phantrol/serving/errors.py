"""What the server refuses, in OpenAI's shape. No message holds a path, an address of memory, or a trace."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class Refusal(Exception):
    """An answer other than 200.

    param          the field of the request that is at fault
    code           a word that programs can compare
    retry_after_s  when it is worth asking again
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, " ".join(message.split()), param, code
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))

    def body(self) -> dict[str, Any]:
        """Return {"error": {"message", "type", "param", "code"}}."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the whole answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def server_fault() -> Refusal:
    """Return what a client is told of a fault of ours: that there was one; the log says which."""
    return Refusal(500, "the server failed on this request; its log says why", code="internal_error")
