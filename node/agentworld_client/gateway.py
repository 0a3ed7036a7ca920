"""Talks to the HTTP gateway of any node: one method a request, typed errors, retries only where they are safe."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from agentworld_client.errors import GatewayError, GatewayUnreachable, retry_after_ms
from agentworld_client.source import Tip
from agentworld_core.codec import decode, encode
from agentworld_core.consensus.evidence import Evidence
from agentworld_core.errors import AgentWorldError, HashMismatch, InvalidField
from agentworld_core.hashing import content_id
from agentworld_core.messages import (
    ActionEnvelope,
    Actions,
    BlockBundle,
    Blocks,
    Directory,
    Genesis,
    Revocation,
    WorldHeadAnnounce,
)
from agentworld_core.ordering.transfer import WriterTransfer

CBOR = "application/cbor"
MAX_ANSWER_BYTES = 32 * 1024 * 1024
_PLAIN_BODY_BYTES = 512 * 1024
SHORTEST_PAUSE = 0.1


class GatewayClient:
    """A connection to one gateway, for instance ``http://127.0.0.1:8080``; use it as an async context manager.

    Reads, and submissions, which are idempotent by action id, are tried again while the error is retryable and
    ``patience`` seconds have not passed: with backoff, and not before the gateway says. InvalidField for what is no
    address of a server.
    """

    def __init__(self, url: str, *, patience: float = 10.0, request_timeout: float = 60.0):
        self.url = _checked_address(url)
        self._patience = patience
        self._timeout = aiohttp.ClientTimeout(total=request_timeout, sock_connect=5)
        self._session: aiohttp.ClientSession | None = None
        self._jitter = random.Random()  # noqa: S311 - spreads retries, protects nothing

    async def __aenter__(self) -> GatewayClient:
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calling it again does nothing."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def submit(self, actions: Sequence[ActionEnvelope], *, wait: bool = False) -> list[dict[str, Any]]:
        """Submits signed actions and returns a receipt, or ``{"error": ...}``, for each; ``wait`` until committed.

        Actions that the gateway has no room for, or that are beyond its rate limit, are sent again when it says, for as
        long as some of them are taken every ``patience`` seconds; once some were not committed in time, the others are
        not waited for. When that fails as a whole, the error stands in the place of their results, so that those of
        the others are not lost; it is raised when there are no others.
        """
        results = await self._submit(actions, wait)
        deadline = self._deadline()
        while later := {number: pause for number, result in enumerate(results) if (pause := _pause(result))}:
            left = deadline - asyncio.get_running_loop().time()
            pauses = [pause for pause in later.values() if pause <= left]
            if not pauses:
                break
            await asyncio.sleep(max(pauses))  # so that as many as possible go together
            try:
                wait = wait and not any(result.get("status") == "pooled" for result in results)
                again = await self._submit([actions[number] for number in later], wait)
            except (GatewayError, GatewayUnreachable) as error:
                if len(later) == len(results):
                    raise
                again = unanswered([actions[number] for number in later], error)
            for number, result in zip(later, again, strict=True):
                results[number] = result
            if not all(map(_pause, again)):
                deadline = self._deadline()
        return results

    async def _submit(self, actions: Sequence[ActionEnvelope], wait: bool) -> list[dict[str, Any]]:
        query = "?wait=committed&timeout_s=30" if wait else ""
        answer = await self._json(f"/v1/actions{query}", data=encode(Actions(tuple(actions))))
        results = answer.get("results")
        if not isinstance(results, list) or len(results) != len(actions):
            raise _nonsense("/v1/actions", f"{len(actions)} results expected")
        if not all(isinstance(result, dict) for result in results):
            raise _nonsense("/v1/actions", "results are objects")
        return results

    async def receipt(self, action_id: str) -> dict[str, Any]:
        """Returns the receipt of an action; GatewayError ``not_found`` when the node does not know it."""
        return await self._json(f"/v1/actions/{action_id}")

    async def height_of_action(self, action_id: str) -> int | None:
        """Returns the height that the node's receipt of an action states, None while the action only waits."""
        height = (await self.receipt(action_id)).get("height")
        return height if isinstance(height, int) else None

    async def status(self) -> dict[str, Any]:
        """Returns the node's status document."""
        return await self._json("/v1/status")

    async def consensus(self) -> dict[str, Any]:
        """Returns the height that the node sees being decided: votes, lease, and why it moves or does not."""
        return await self._json("/v1/consensus")

    async def head(self) -> WorldHeadAnnounce | None:
        """Returns the newest committed head of the node, None before the first block."""
        try:
            return decode(WorldHeadAnnounce, await self._request("GET", "/v1/head"))
        except GatewayError as error:
            if error.code == "not_found" and error.field != "path":  # of an address that is no gateway
                return None
            raise

    async def tip(self) -> Tip | None:
        """Returns what the node announces as its newest block, without judging the announcement."""
        head = await self.head()
        return None if head is None else Tip(head.height, head.block_hash, head.state_root)

    async def genesis(self) -> Genesis:
        """Returns the genesis document as the node has it; compare its hash with one you trust."""
        return decode(Genesis, await self._request("GET", "/v1/genesis"))

    async def blocks(self, start: int, *, limit: int = 64) -> tuple[BlockBundle, ...]:
        """Returns consecutive blocks from ``start`` on, with batches and certificates; empty at the head."""
        body = await self._request("GET", f"/v1/blocks?from={start}&limit={limit}")
        return decode(Blocks, body, limit=MAX_ANSWER_BYTES).bundles

    async def block(self, block: str | int) -> BlockBundle:
        """Returns the block of a height or hash; GatewayError ``not_found`` when the node has no such block."""
        return decode(BlockBundle, await self._request("GET", f"/v1/blocks/{block}"), limit=MAX_ANSWER_BYTES)

    async def directory(self, epoch: int | None = None) -> Directory:
        """Returns a directory epoch, the latest by default."""
        return decode(Directory, await self._request("GET", f"/v1/directories/{epoch or 'latest'}"))

    async def evidence(self) -> Evidence:
        """Returns the proofs that the node holds of validators that voted twice; check them before you believe them."""
        return decode(Evidence, await self._request("GET", "/v1/evidence"), limit=MAX_ANSWER_BYTES)

    async def state(self, key: str, *, proof: bool = False) -> dict[str, Any]:
        """Returns the JSON answer about a state key: ``found``, ``value`` and, on request, ``proof``."""
        try:
            return await self._json(f"/v1/state/{quote(key, safe='/')}" + ("?proof=1" if proof else ""))
        except GatewayError as error:
            if error.status == 404:
                return {"key": key, "found": False}
            raise

    async def state_entries(self, prefix: str, *, most: int = 10_000) -> list[dict[str, Any]]:
        """Returns the entries of the head's state under a prefix, as the node says them: at most ``most`` of them.

        They come in several answers, between which blocks may be committed.
        """
        entries: list[dict[str, Any]] = []
        after = ""
        while len(entries) < most:
            answer = await self._json(
                f"/v1/state?prefix={quote(prefix, safe='')}&after={quote(after, safe='')}&limit=256"
            )
            found = answer.get("entries")
            if not isinstance(found, list):
                raise _nonsense("/v1/state", "a list of entries expected")
            entries += found
            if not found or not isinstance(answer.get("next"), str):
                break
            after = answer["next"]
        return entries[:most]

    async def blob(self, content_hash: str) -> bytes:
        """Returns the bytes of a content id, checked against it."""
        data = await self._request("GET", f"/v1/blobs/{content_hash}")
        if content_id(data) != content_hash:
            raise HashMismatch("the node returned other bytes", field="hash", value=content_hash)
        return data

    async def publish_directory(self, directory: Directory) -> dict[str, Any]:
        """Submits the next directory epoch, signed by governance."""
        return await self._json("/control/v1/directories", data=encode(directory))

    async def publish_revocation(self, statement: Revocation, *, force: bool = False) -> dict[str, Any]:
        """Submits a revocation statement, signed by governance."""
        path = "/control/v1/revocations" + ("?force=1" if force else "")
        return await self._json(path, data=encode(statement))

    async def writer(self) -> dict[str, Any]:
        """Returns ``holder_id`` and ``term`` of the writer lease."""
        return await self._json("/v1/writer")

    async def transfer_writer(self, wish: WriterTransfer) -> dict[str, Any]:
        """Has the writer lease handed over, and returns the new writer once it writes."""
        return await self._json("/control/v1/writer", data=encode(wish))

    async def events(self, start: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yields one document a committed block, from ``start`` (default: the next) on, until the node goes away."""
        session = self._open_session()
        query = "" if start is None else f"?from={start}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
        try:
            async with session.get(f"{self.url}/v1/events{query}", timeout=timeout) as response:
                if response.status != 200:
                    raise _error(await _read(response), response.status)
                async for document in _documents(response):
                    yield document
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.url, error) from error

    async def _json(self, path: str, *, data: bytes | None = None) -> dict[str, Any]:
        body = await self._request("GET" if data is None else "POST", path, data=data, accept="application/json")
        try:
            return dict(json.loads(body))
        except (ValueError, TypeError) as error:
            raise _nonsense(path, "a JSON object expected") from error

    async def _request(self, method: str, path: str, *, data: bytes | None = None, accept: str = CBOR) -> bytes:
        deadline = self._deadline()
        delay = SHORTEST_PAUSE
        while True:
            try:
                return await self._once(method, path, data, accept)
            except (GatewayError, GatewayUnreachable) as error:
                pause = max(delay * self._jitter.uniform(0.5, 1.0), error.retry_after_ms / 1000)
                if not error.retryable or asyncio.get_running_loop().time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            delay = min(delay * 2, 2.0)

    async def _once(self, method: str, path: str, data: bytes | None, accept: str) -> bytes:
        headers = {"Accept": accept}
        if data is not None:
            headers["Content-Type"] = CBOR
        session = self._open_session()
        # A large body is handed over in pieces, so that it does not hold up everything else.
        stream = io.BytesIO(data) if data is not None and len(data) > _PLAIN_BODY_BYTES else data
        try:
            async with session.request(method, self.url + path, data=stream, headers=headers) as response:
                body = await _read(response)
                if response.status >= 400:
                    raise _error(body, response.status)
                return body
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.url, error) from error

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._patience

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use GatewayClient as an async context manager")
        return self._session


def unanswered(actions: Sequence[ActionEnvelope], error: AgentWorldError) -> list[dict[str, Any]]:
    """Returns what stands in the place of the receipts of actions that a failed request had, and might have brought."""
    return [{"action_id": action.action_id, "error": error.as_dict()} for action in actions]


def _pause(result: dict[str, Any]) -> float:
    """Returns the seconds after which a refused action is to be sent again, 0 for one that was taken or is wrong."""
    error = result.get("error")
    milliseconds = retry_after_ms(error) if isinstance(error, dict) else 0
    return max(milliseconds / 1000, SHORTEST_PAUSE) if milliseconds else 0.0


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Returns the body of an answer; a node that sends more than an answer can have is not believed."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise _nonsense(response.url.path, f"more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


async def _documents(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yields the data of server-sent events; lines may have any length up to that of an answer."""
    buffer = bytearray()
    async for piece in response.content.iter_any():
        buffer += piece
        *lines, rest = buffer.split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            if line.startswith(b"data: "):
                try:
                    yield dict(json.loads(line[6:]))
                except (ValueError, TypeError) as error:
                    raise _nonsense("/v1/events", "a JSON object expected") from error
        if len(buffer) > MAX_ANSWER_BYTES:
            raise _nonsense("/v1/events", f"more than {MAX_ANSWER_BYTES} bytes in one line")


def _checked_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or above 65535
        right = False
    if not right:
        raise InvalidField(
            "is not the address of a gateway",
            field="gateway",
            value=url,
            remedy="give one like http://127.0.0.1:8080",
        )
    return url.rstrip("/")


def _nonsense(path: str, reason: str) -> GatewayError:
    document = {"code": "bad_answer", "message": f"the answer to {path} cannot be understood: {reason}"}
    return GatewayError(document, status=502)


def _error(body: bytes, status: int) -> GatewayError:
    try:
        document = json.loads(body)["error"]
        if not isinstance(document, dict):
            raise TypeError("an error is an object")
    except (ValueError, KeyError, TypeError):
        document = {"code": "internal", "message": f"HTTP {status}: {body[:200]!r}", "retryable": status >= 502}
    return GatewayError(document, status=status)


def _unreachable(url: str, error: Exception) -> GatewayUnreachable:
    if isinstance(error, TimeoutError):
        # Of a process that is stopped, the kernel still takes connections.
        remedy = "it may be stopped, overloaded or cut off; ask another node"
        return GatewayUnreachable(f"no answer from {url} in time", remedy=remedy)
    reason = str(error) or type(error).__name__
    return GatewayUnreachable(f"no answer from {url}: {reason}", remedy="check the address and that the node runs")
