"""A gateway that answers what the test says, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ScriptedGateway:
    """Gives the next answer of its list to each request, the last one for ever."""

    def __init__(self, *answers: web.Response | Answer):
        self.answers = list(answers)
        self.requests: list[tuple[str, str, bytes]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path, await request.read()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, web.Response):
            return web.Response(status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type})
        return await answer(request)


def refusal(status: int, code: str, *, retryable: bool) -> web.Response:
    error = {"code": code, "message": f"it is {code}", "retryable": retryable, "field": "f", "remedy": "r"}
    return web.json_response({"error": error}, status=status)


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Ends the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@asynccontextmanager
async def scripted(*answers: web.Response | Answer) -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway(*answers)
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", gateway.answer)
    async with TestServer(app) as server:
        gateway.url = str(server.make_url("")).rstrip("/")
        yield gateway
