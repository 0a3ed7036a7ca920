"""Serves the gateway, the control API, probes and metrics of one node over HTTP.

Handlers translate and nothing else: every decision is made by the services they are given. Every error of ours becomes
JSON ``{"error": {code, message, retryable, field?, value?, remedy?, retry_after_ms?}}`` with its own status; anything
else is logged and becomes 500 ``internal`` without details.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from aiohttp import web

from agentworld_client.documents import document
from agentworld_core.codec import encode
from agentworld_core.consensus.evidence import evidence_id
from agentworld_core.errors import AgentWorldError, InvalidField, MalformedEncoding, NotFound, TooLarge
from agentworld_core.ids import check_hash, is_hash
from agentworld_core.messages import ActionEnvelope, Directory, Revocation
from agentworld_core.ordering.transfer import WriterTransfer
from agentworld_core.world.tree_nodes import MAX_KEY_BYTES
from agentworld_node.api import documents
from agentworld_node.api.errors import errors_as_json
from agentworld_node.api.limits import (
    MAX_BLOCKS,
    MAX_BLOCKS_BYTES,
    MAX_BODY_BYTES,
    MAX_HEIGHT,
    MAX_WAIT_SECONDS,
    ApiLimits,
)
from agentworld_node.api.openapi import openapi_document
from agentworld_node.api.rates import ClientRates
from agentworld_node.api.requests import (
    JSON,
    check_kind,
    check_query,
    flag,
    integer,
    json_of,
    message_of,
    naming_body,
    number,
)
from agentworld_node.api.services import Services

log = logging.getLogger(__name__)

MAX_ENTRIES = MAX_BLOCKS
MAX_ENTRIES_BYTES = 1024 * 1024
SSE_KEEPALIVE_SECONDS = 15

SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
LIMITS: web.AppKey[ApiLimits] = web.AppKey("limits", ApiLimits)
RATES: web.AppKey[ClientRates] = web.AppKey("rates", ClientRates)


def build_app(services: Services) -> web.Application:
    """Returns the HTTP application of a node."""
    app = web.Application(middlewares=[errors_as_json, check_query], client_max_size=MAX_BODY_BYTES)
    app[SERVICES] = services
    app[LIMITS] = ApiLimits()
    app[RATES] = ClientRates(services.rate_limit, services.metrics)
    app.on_shutdown.append(_answer_waiting)
    app.add_routes(
        [
            web.post("/v1/actions", submit),
            web.get("/v1/actions/{action_id}", receipt),
            web.get("/v1/head", head),
            web.get("/v1/genesis", genesis),
            web.get("/v1/blocks", blocks),
            web.get("/v1/blocks/{block}", block),
            web.get("/v1/directories/{epoch}", directory),
            web.get("/v1/revocations", revocations),
            web.get("/v1/state", state_entries),
            web.get("/v1/evidence", evidence),
            web.get("/v1/evidence/{hash}", one_evidence),
            web.get("/v1/state/{key:.+}", state),
            web.get("/v1/blobs/{hash}", blob),
            web.get("/v1/events", events),
            web.get("/v1/status", status),
            web.get("/v1/consensus", consensus),
            web.post("/control/v1/directories", publish_directory),
            web.post("/control/v1/revocations", publish_revocation),
            web.get("/v1/writer", writer),
            web.post("/control/v1/writer", transfer_writer),
            web.get("/openapi.json", openapi),
            web.get("/livez", livez),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
        ]
    )
    return app


async def _answer_waiting(app: web.Application) -> None:
    """Answers who waits for a commit, before the server waits for its answers and then cuts them off."""
    app[SERVICES].gateway.answer_waiting()


async def submit(request: web.Request) -> web.Response:
    """Takes one action or several; ``?wait=committed`` answers when they are in a block, or 504 after ``timeout_s``."""
    services, rates, client = request.app[SERVICES], request.app[RATES], request.remote or ""
    kind = check_kind(request, (documents.CBOR, JSON))
    wait = request.query.get("wait", "pooled")
    if wait not in ("pooled", "committed"):
        raise InvalidField("must be pooled or committed", field="wait", value=wait)
    timeout = integer(request, "timeout_s", 30, 1, MAX_WAIT_SECONDS)
    rates.enter(client)
    body = await request.app[LIMITS].body(request)
    actions, several = await asyncio.to_thread(_actions, kind, body)
    admitted, refused = rates.admit(client, actions)
    results = await services.gateway.submit(admitted, source=client)
    if wait == "committed":
        results = await services.gateway.wait_committed(results, seconds=timeout)
    if several:
        return web.json_response({"results": [_result(result) for result in (*results, *refused)]})
    result = results[0]
    if isinstance(result, AgentWorldError):
        raise result
    late = wait == "committed" and result["status"] != "committed"
    return web.json_response(result, status=504 if late else 200 if result["status"] == "committed" else 202)


def _actions(content_type: str, body: bytes) -> tuple[list[ActionEnvelope], bool]:
    if content_type == JSON:
        return documents.actions_from_json(json_of(body))
    try:
        return documents.actions_from_cbor(body, limit=MAX_BODY_BYTES)
    except (MalformedEncoding, TooLarge) as error:
        raise naming_body(error, "send one action or actions") from None


def _result(result: dict[str, Any] | AgentWorldError) -> dict[str, Any]:
    return {"error": result.as_dict()} if isinstance(result, AgentWorldError) else result


async def receipt(request: web.Request) -> web.Response:
    """Returns what is known of an action: ``pooled``, or ``committed`` with its place and outcome."""
    action_id = check_hash(request.match_info["action_id"], field="action_id")
    return web.json_response(request.app[SERVICES].gateway.receipt(action_id))


async def head(request: web.Request) -> web.Response:
    """Returns the newest committed block of this node, signed, with the certificate that proves it."""
    announce = request.app[SERVICES].head()
    if announce is None:
        raise NotFound("no block has been committed yet", remedy="submit an action first")
    if _wants_cbor(request):
        return web.Response(body=encode(announce), content_type=documents.CBOR)
    return web.json_response(document(announce))


async def genesis(request: web.Request) -> web.Response:
    """Returns the genesis document; its hash is the ETag."""
    ledger = request.app[SERVICES].ledger
    headers = {"ETag": f'"{ledger.genesis_hash}"'}
    if _wants_cbor(request):
        return web.Response(body=encode(ledger.genesis), content_type=documents.CBOR, headers=headers)
    return web.json_response({"genesis_hash": ledger.genesis_hash, **document(ledger.genesis)}, headers=headers)


async def blocks(request: web.Request) -> web.Response:
    """Returns blocks with batches and certificates as CBOR ``Blocks``, from ``from`` on, at most ``limit``."""
    start = integer(request, "from", 1, 1, MAX_HEIGHT)
    limit = integer(request, "limit", 64, 1, MAX_BLOCKS)
    ledger = request.app[SERVICES].ledger
    body = await asyncio.to_thread(ledger.encoded_blocks, start, limit=limit, max_bytes=MAX_BLOCKS_BYTES)
    return web.Response(body=body, content_type=documents.CBOR)


async def block(request: web.Request) -> web.Response:
    """Returns one block by height or hash, with its batch and certificate."""
    ledger = request.app[SERVICES].ledger
    name = request.match_info["block"]
    height = ledger.height_of(name) if is_hash(name) else number(name)
    if height is None and not is_hash(name):
        raise InvalidField("must be a height or a block hash", field="block", value=name)
    bundle = None if height is None else await asyncio.to_thread(ledger.bundle, height)
    if bundle is None:
        raise NotFound("this node has no such block", field="block", value=name)
    if _wants_cbor(request):
        return web.Response(body=encode(bundle), content_type=documents.CBOR)
    return web.json_response(document(bundle))


async def directory(request: web.Request) -> web.Response:
    """Returns a directory epoch that the ledger holds, or ``latest``."""
    name = request.match_info["epoch"]
    epoch = number(name)
    if name != "latest" and epoch is None:
        raise InvalidField("must be an epoch or latest", field="epoch", value=name)
    found = request.app[SERVICES].ledger.directory(epoch)
    if found is None:
        raise NotFound("this node has no such epoch", field="epoch", value=name)
    if _wants_cbor(request):
        return web.Response(body=encode(found), content_type=documents.CBOR)
    return web.json_response(document(found))


async def revocations(request: web.Request) -> web.Response:
    """Returns every revocation statement that this node holds, sorted by key id."""
    held = request.app[SERVICES].membership.revocations()
    if _wants_cbor(request):
        return web.Response(body=encode(held), content_type=documents.CBOR)
    return web.json_response(document(held))


async def evidence(request: web.Request) -> web.Response:
    """Returns every proof that this node holds of a validator that voted twice, both signed votes in full."""
    held = request.app[SERVICES].evidence.all()
    if _wants_cbor(request):
        return web.Response(body=encode(held), content_type=documents.CBOR)
    items = [{"hash": evidence_id(item), **document(item)} for item in held.items]
    return web.json_response({"world_id": held.world_id, "items": items})


async def one_evidence(request: web.Request) -> web.Response:
    """Returns one proof by its content id."""
    content_hash = check_hash(request.match_info["hash"], field="hash")
    found = request.app[SERVICES].evidence.get(content_hash)
    if found is None:
        raise NotFound("this node holds no such proof", field="hash", value=content_hash)
    if _wants_cbor(request):
        return web.Response(body=encode(found), content_type=documents.CBOR)
    return web.json_response({"hash": content_hash, **document(found)})


async def state(request: web.Request) -> web.Response:
    """Returns the value under a state key at the head, with ``?proof=1`` also the proof against the state root."""
    key = request.match_info["key"]
    answer = request.app[SERVICES].ledger.read_state(key, proof=flag(request, "proof"))
    if not answer["found"] and "proof" not in answer:
        raise NotFound("the state has no such key", field="key", value=key, remedy="?proof=1 proves that")
    return web.json_response(answer)


async def state_entries(request: web.Request) -> web.Response:
    """Returns the entries of the head's state under a prefix, behind ``after``; ``next`` is what to go on after."""
    prefix, after = request.query.get("prefix", ""), request.query.get("after", "")
    for name, text in (("prefix", prefix), ("after", after)):
        if len(text) > MAX_KEY_BYTES or not text.isascii():
            raise InvalidField(f"must be at most {MAX_KEY_BYTES} ASCII characters", field=name, value=text)
    limit = integer(request, "limit", 64, 1, MAX_ENTRIES)
    ledger = request.app[SERVICES].ledger
    return web.json_response(
        await asyncio.to_thread(ledger.list_state, prefix, after=after, limit=limit, max_bytes=MAX_ENTRIES_BYTES)
    )


async def blob(request: web.Request) -> web.Response:
    """Returns the bytes of a content id; the client checks that they hash to it."""
    content_hash = check_hash(request.match_info["hash"], field="hash")
    data = await asyncio.to_thread(request.app[SERVICES].ledger.blob, content_hash)
    return web.Response(body=data, content_type="application/octet-stream")


async def events(request: web.Request) -> web.StreamResponse:
    """Streams committed blocks and their events as server-sent events; ``?from=HEIGHT`` or Last-Event-ID resumes."""
    services = request.app[SERVICES]
    start = integer(request, "from", services.ledger.height + 1, 1, MAX_HEIGHT)
    last = request.headers.get("Last-Event-ID")
    if last:
        height = number(last)
        if height is None or height >= MAX_HEIGHT:
            raise InvalidField("must be a height", field="Last-Event-ID", value=last, remedy="or use from")
        start = height + 1
    with request.app[LIMITS].stream():
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        try:
            await _stream_blocks(response, services, start)
        except AgentWorldError as error:
            # The answer has begun, so all that is left is to end it; the client comes back with Last-Event-ID.
            log.warning("a stream of events ends: %s", error)
        return response


async def _stream_blocks(response: web.StreamResponse, services: Services, height: int) -> None:
    ledger, stopping = services.ledger, services.stopping
    while not stopping.is_set():
        while height <= ledger.height and not stopping.is_set():
            text = await asyncio.to_thread(_event_text, services, height)
            # Waits for a slow client, who thereby holds up nobody but itself.
            await response.write(text)
            height += 1
        waits = [asyncio.ensure_future(ledger.wait_height(height, seconds=SSE_KEEPALIVE_SECONDS))]
        waits.append(asyncio.ensure_future(stopping.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if height > ledger.height and not stopping.is_set():
            await response.write(b": alive\n\n")


def _event_text(services: Services, height: int) -> bytes:
    text = json.dumps(services.ledger.block_events(height), separators=(",", ":"))
    return f"id: {height}\nevent: block\ndata: {text}\n\n".encode()


async def status(request: web.Request) -> web.Response:
    """Returns what the node knows of itself, its world, its writer and its peers."""
    return web.json_response(request.app[SERVICES].status())


async def consensus(request: web.Request) -> web.Response:
    """Returns the height being decided: round, votes, who is missing, the lease, and why it moves or does not."""
    return web.json_response(request.app[SERVICES].consensus())


async def publish_directory(request: web.Request) -> web.Response:
    """Takes the next directory epoch, signed by governance, as CBOR; taking it again changes nothing."""
    check_kind(request, (documents.CBOR,))
    proposed = message_of(Directory, await request.app[LIMITS].body(request))
    return web.json_response(await request.app[SERVICES].membership.submit_directory(proposed))


async def publish_revocation(request: web.Request) -> web.Response:
    """Takes a revocation statement, signed by governance, as CBOR; it counts at once and for ever."""
    force = flag(request, "force")
    check_kind(request, (documents.CBOR,))
    statement = message_of(Revocation, await request.app[LIMITS].body(request))
    return web.json_response(await request.app[SERVICES].membership.submit_revocation(statement, force=force))


async def writer(request: web.Request) -> web.Response:
    """Returns who holds the writer lease; a node that does not see the lease asks a validator."""
    return web.json_response(document(await request.app[SERVICES].handover.writer()))


async def transfer_writer(request: web.Request) -> web.Response:
    """Hands the writer lease to the validator that governance has named and signed for; answers when it writes."""
    check_kind(request, (documents.CBOR,))
    wish = message_of(WriterTransfer, await request.app[LIMITS].body(request))
    return web.json_response(document(await request.app[SERVICES].handover.transfer(wish)))


async def openapi(_request: web.Request) -> web.Response:
    """Returns the OpenAPI description of this API."""
    return web.json_response(openapi_document())


async def livez(request: web.Request) -> web.Response:
    """Answers 200 while the node can still make progress, 503 when only a restart helps."""
    failure = request.app[SERVICES].failure()
    return web.Response(text=f"{failure or 'ok'}\n", status=200 if failure is None else 503)


async def readyz(request: web.Request) -> web.Response:
    """Answers 200 when the node is in sync with its peers and takes actions, else 503 with the reason."""
    reason = request.app[SERVICES].not_ready()
    return web.Response(text=f"{reason or 'ok'}\n", status=200 if reason is None else 503)


async def metrics(request: web.Request) -> web.Response:
    """Returns counters and gauges in the Prometheus text format."""
    page = request.app[SERVICES].metrics.page()
    return web.Response(body=page.encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _wants_cbor(request: web.Request) -> bool:
    return documents.CBOR in request.headers.get("Accept", "")
