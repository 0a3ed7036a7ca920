"""The control endpoint of a supervisor: loopback HTTP for who can read the token in its folder, and its client."""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from agentworld_core.errors import AgentWorldError, InvalidField, NotAvailable, Unauthorized
from agentworld_node.api.errors import Handler, errors_as_json
from agentworld_node.api.malformed import server_log
from agentworld_node.api.requests import json_of
from agentworld_node.supervisor.declared import Outcome
from agentworld_node.supervisor.manifests import MAX_VALUES, Complaint, Given, RefusedManifests, parse_documents
from agentworld_node.supervisor.ports import LOOPBACK
from agentworld_node.supervisor.record import SupervisorRecord
from agentworld_node.supervisor.state import WorldState

if TYPE_CHECKING:
    from agentworld_node.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024
REQUEST_SECONDS = 30.0


class ControlServer:
    """Answers ``apply``, ``world`` and ``stop`` for one supervisor."""

    def __init__(self, supervisor: Supervisor):
        self.token = secrets.token_urlsafe(32)
        self._supervisor = supervisor
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listens on a free port of the loopback address and returns the URL."""
        app = web.Application(middlewares=[errors_as_json, self._guard], client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/v1/world", self._world),
                web.post("/v1/apply", self._apply),
                web.post("/v1/stop", self._stop),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, logger=server_log(), shutdown_timeout=2)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, 0).start()
        return f"http://{LOOPBACK}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Closes the endpoint."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self.token.encode()):
            raise Unauthorized("the token is missing or wrong", remedy="use the one in supervisor.json")
        return await handler(request)

    async def _world(self, _request: web.Request) -> web.Response:
        state = self._supervisor.state
        if state is None:
            raise NotAvailable("the supervisor is still starting", remedy="try again")
        return web.json_response(state.as_dict())

    async def _apply(self, request: web.Request) -> web.Response:
        documents, dry_run = _asked(json_of(await request.read(), most=MAX_VALUES))
        reading = parse_documents(documents)
        applied = self._supervisor.apply(reading.given, dry_run=dry_run)
        return web.json_response(
            {
                "outcomes": [outcome.as_dict() for outcome in applied.outcomes],
                "notices": [*reading.notices, *applied.notices],
            }
        )

    async def _stop(self, _request: web.Request) -> web.Response:
        log.info("asked to stop")
        self._supervisor.stop()
        return web.json_response({"status": "stopping"}, status=202)


def _asked(body: object) -> tuple[list[tuple[str, object]], bool]:
    """Returns the documents with their sources, and whether they are only to be tried."""
    if not isinstance(body, dict):
        raise InvalidField("must be an object", field="body", value=body)
    for name in body:
        if name not in ("documents", "dry_run"):
            raise InvalidField("is not a field", field=name, remedy="use documents and dry_run")
    documents, dry_run = body.get("documents"), body.get("dry_run", False)
    if not isinstance(documents, list):
        raise InvalidField("must be a list", field="documents", value=documents)
    if not isinstance(dry_run, bool):
        raise InvalidField("must be true or false", field="dry_run", value=dry_run)
    for index, item in enumerate(documents):
        if not isinstance(item, dict) or set(item) != {"source", "manifest"} or not isinstance(item["source"], str):
            raise InvalidField("must be an object of source and manifest", field=f"documents[{index}]", value=item)
    return [(item["source"], item["manifest"]) for item in documents], dry_run


class ControlClient:
    """Talks to the supervisor that a record names; typed errors, no retries."""

    def __init__(self, record: SupervisorRecord):
        self._record = record

    async def world(self) -> WorldState:
        """Returns the state of the world."""
        return WorldState.from_dict(await self._request("GET", "/v1/world"))

    async def apply(self, given: Sequence[Given], *, dry_run: bool = False) -> tuple[list[Outcome], list[str]]:
        """Hands manifests over and returns what became of each, and notices; RefusedManifests when nothing did."""
        documents = [{"source": item.source, "manifest": item.manifest} for item in given]
        answer = await self._request("POST", "/v1/apply", {"documents": documents, "dry_run": dry_run})
        return [Outcome(**item) for item in answer["outcomes"]], list(answer["notices"])

    async def stop(self) -> None:
        """Asks the supervisor to stop everything; it does so after it has answered."""
        await self._request("POST", "/v1/stop")

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._record.token}"}
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        url = self._record.url + path
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.request(method, url, json=body) as answer,
            ):
                document = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NotAvailable(f"the supervisor at {self._record.url} does not answer: {error}") from error
        if "error" in document:
            raise _error(document["error"])
        return dict(document)


def _error(fields: dict[str, Any]) -> AgentWorldError:
    if "complaints" in fields:
        return RefusedManifests([Complaint.from_dict(item) for item in fields["complaints"]])
    return InvalidField(
        str(fields.get("message")), field=fields.get("field"), value=fields.get("value"), remedy=fields.get("remedy")
    )
