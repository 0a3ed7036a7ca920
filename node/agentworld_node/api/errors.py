"""Every refusal over HTTP is one JSON document: ``{"error": {code, message, retryable, field?, value?, remedy?}}``.

One that says when to come again has ``retry_after_ms`` in it, and the header ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from aiohttp import web

from agentworld_core.errors import AgentWorldError, InvalidField, NotFound, TooLarge, Unsupported

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class UnsupportedMediaType(Unsupported):
    """The body is of a kind that is not understood here."""

    http_status = 415


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers an error of ours with its own status; anything unforeseen is logged and becomes 500 without details."""
    try:
        return await handler(request)
    except AgentWorldError as error:
        return _answer(error)
    except web.HTTPRequestEntityTooLarge:
        remedy = f"send at most {request.client_max_size} bytes"
        return _answer(TooLarge("has more bytes than are taken", field="body", remedy=remedy))
    except web.HTTPException as error:
        return _of_aiohttp(request, error)
    except web.RequestPayloadError:
        encoding = request.headers.get("Content-Encoding")
        return _answer(InvalidField("does not arrive as its headers say", field="body", value=encoding))
    except (asyncio.CancelledError, ConnectionResetError):
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _answer(AgentWorldError("the node failed to answer; its log says why"), status=500)


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    """Says in our words what the HTTP server found before a handler was chosen."""
    if isinstance(error, web.HTTPNotFound):
        return _answer(
            NotFound("there is nothing here", field="path", value=request.path, remedy="/openapi.json lists what is")
        )
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        refusal = Unsupported("is not possible here", field="method", value=request.method, remedy=f"use {allowed}")
        return _answer(refusal, status=error.status, headers={"Allow": allowed})
    return _answer(InvalidField(error.reason, field="request"), status=error.status)


def _answer(
    error: AgentWorldError, *, status: int | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    headers = dict(headers or {})
    if error.retry_after_ms:
        headers["Retry-After"] = str(math.ceil(error.retry_after_ms / 1000))
    return web.json_response({"error": error.as_dict()}, status=status or error.http_status, headers=headers)
