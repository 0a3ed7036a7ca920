"""The control API of the nodes over HTTP; what a node answers is size-limited and checked before it is believed."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import aiohttp

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.evidence import Evidence
from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import Directory, Genesis, Revocation
from agentworld_core.ordering.transfer import WriterTransfer
from agentworld_operator.errors import NodeRefused, NodeUnreachable
from agentworld_operator.nodes.status import NodeStatus, parse_status

_LIMIT = 4 * 1024 * 1024
_CBOR = "application/cbor"
_TRANSFER_SECONDS = 20
"""Longer than a node takes at most to carry a transfer out, or to give it up."""
_T = TypeVar("_T")


class NodeClient:
    """Speaks to nodes at ``host:port`` addresses."""

    def __init__(self, session: aiohttp.ClientSession, *, timeout_seconds: float = 3):
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def status(self, address: str) -> NodeStatus:
        """Returns what the node says about itself."""
        body = await self._request("GET", address, "/v1/status")
        try:
            return parse_status(json.loads(body))
        except ValueError as error:
            raise NodeRefused("did not answer with JSON", refusal="malformed", again=True) from error

    async def genesis(self, address: str) -> Genesis:
        """Returns the genesis document that the node began with."""
        return await self._message(Genesis, address, "/v1/genesis")

    async def directory(self, address: str, epoch: int) -> Directory:
        """Returns a directory epoch that the node holds."""
        return await self._message(Directory, address, f"/v1/directories/{epoch}")

    async def evidence(self, address: str) -> Evidence:
        """Returns the proofs that the node holds of validators that voted twice."""
        return await self._message(Evidence, address, "/v1/evidence")

    async def push_directory(self, address: str, directory: Directory) -> None:
        """Hands a signed directory to the node; the same one twice is fine."""
        await self._request("POST", address, "/control/v1/directories", body=encode(directory))

    async def push_revocation(self, address: str, statement: Revocation, *, force: bool) -> None:
        """Hands a signed revocation to the node; the same one twice is fine, ``force`` spares no governance key."""
        path = "/control/v1/revocations" + ("?force=true" if force else "")
        await self._request("POST", address, path, body=encode(statement))

    async def transfer_writer(self, address: str, wish: WriterTransfer) -> None:
        """Has the node see to it that the writer lease goes where governance wants it; returns when it has."""
        await self._request("POST", address, "/control/v1/writer", body=encode(wish), seconds=_TRANSFER_SECONDS)

    async def _message(self, kind: type[_T], address: str, path: str) -> _T:
        body = await self._request("GET", address, path, accept=_CBOR)
        try:
            return decode(kind, body)
        except AgentWorldError as error:
            raise NodeRefused(f"did not answer with what was asked: {error}", refusal=error.code, again=True) from error

    async def _request(
        self,
        method: str,
        address: str,
        path: str,
        *,
        body: bytes | None = None,
        accept: str = "application/json",
        seconds: float | None = None,
    ) -> bytes:
        headers = {"Accept": accept, **({"Content-Type": _CBOR} if body is not None else {})}
        try:
            async with self._session.request(
                method,
                f"http://{address}{path}",
                data=body,
                headers=headers,
                timeout=self._timeout if seconds is None else aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as response:
                answer = await _read(response)
                if response.status // 100 != 2:
                    raise _refusal(response.status, answer)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeUnreachable(f"{address} does not answer: {type(error).__name__} {error}") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(64 * 1024):
        size += len(part)
        if size > _LIMIT:
            raise NodeRefused(f"answered with more than {_LIMIT} bytes", refusal="too_large", again=False)
        parts.append(part)
    return b"".join(parts)


def _refusal(status: int, body: bytes) -> NodeRefused:
    """Returns the node's own refusal: its code and sentence, or the bare HTTP status."""
    try:
        document: Any = json.loads(body)
    except ValueError:
        document = {}
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        document = document["error"]
    if not isinstance(document, dict):
        document = {}
    code = str(document.get("code", f"http_{status}"))[:64]
    message = str(document.get("message", f"HTTP status {status}"))[:500]
    return NodeRefused(message, refusal=code, again=document.get("retryable") is True or status >= 500)
