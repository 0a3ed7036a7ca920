"""What the nodes say of themselves (``GET /v1/status``), and the directories that govern them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from agentworld_client.gateway import CBOR, GatewayClient
from agentworld_core.codec import decode
from agentworld_core.consensus.verdict import Verdict
from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import Directory, Revocation, Revocations
from agentworld_core.topology.node_config import NodeConfig
from agentworld_node.supervisor.ports import LOOPBACK

REQUEST_SECONDS = 3.0
REVOCATIONS_LIMIT = 8 * 1024 * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node said last; ``reachable`` is False when it has not answered this time."""

    node_id: str
    reachable: bool = False
    genesis_hash: str = ""
    height: int = 0
    block_hash: str = ""
    state_root: str = ""
    lag: int = 0
    in_sync: bool = False
    in_touch: bool = False
    sync_reason: str = ""
    epoch: int = 0
    pending_epoch: int = 0
    revoked: tuple[str, ...] = ()
    active_key_id: str = ""
    voting: bool = False
    writer: str = ""
    term: int = 0
    mempool: int = 0
    evidence: int = 0
    problems: tuple[str, ...] = ()
    progress: Verdict | None = None


def parse_report(node_id: str, document: Mapping[str, Any]) -> NodeReport:
    """Returns the report of a status document; KeyError or TypeError when it is of another shape."""
    pending, sync, signing = document["pending_directory"], document["sync"], document["signing"]
    return NodeReport(
        node_id=node_id,
        reachable=True,
        genesis_hash=document["genesis_hash"],
        height=document["head"]["height"],
        block_hash=document["head"]["block_hash"],
        state_root=document["head"]["state_root"],
        lag=sync["lag"],
        in_sync=sync["state"] == "in_sync",
        in_touch=sync["state"] != "syncing",
        sync_reason=sync.get("reason") or "",
        epoch=document["directory"]["epoch"],
        pending_epoch=0 if pending is None else pending["epoch"],
        revoked=tuple(document["revocations"]["key_ids"]),
        active_key_id=signing["active_key_id"] or "",
        voting=signing["voting"],
        writer=document["writer"]["holder"] or "",
        term=document["writer"]["term"],
        mempool=document["mempool"]["actions"],
        evidence=len(document["evidence"]),
        problems=tuple(signing.get("problems", ())),
        progress=Verdict(**document["consensus"]),
    )


class Observer:
    """Asks the nodes, all at once, and remembers the last word of those that do not answer."""

    def __init__(self) -> None:
        self.reports: dict[str, NodeReport] = {}
        self._clients: dict[str, GatewayClient] = {}
        self._directories: dict[int, Directory] = {}

    async def observe(self, configs: Iterable[NodeConfig]) -> None:
        """Brings ``reports`` up to date; nodes that are no longer among the configurations are forgotten."""
        configs = list(configs)
        found = await asyncio.gather(*(self._ask(config) for config in configs))
        self.reports = {report.node_id: report for report in found}

    def reachable(self) -> list[NodeReport]:
        """Returns the reports of the nodes that answered this time, those with the highest head first."""
        answered = [report for report in self.reports.values() if report.reachable]
        return sorted(answered, key=lambda report: (-report.height, report.node_id))

    async def directories(self) -> tuple[Directory | None, Directory | None]:
        """Returns the directory in force and the one that a block has announced for later; None where nobody says."""
        answered = self.reachable()
        if not answered:
            return None, None
        epoch = max(report.epoch for report in answered)
        later = max(report.pending_epoch for report in answered)
        current = await self._directory(epoch)
        return current, None if current is None or later <= epoch else await self._directory(later)

    async def statements(self, node_id: str) -> list[Revocation]:
        """Returns the revocations that a node holds; a typed error when it does not answer."""
        url = f"{self.client(node_id).url}/v1/revocations"
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, headers={"Accept": CBOR}) as answer,
            ):
                return list(decode(Revocations, await answer.read(), limit=REVOCATIONS_LIMIT).statements)
        except (aiohttp.ClientError, TimeoutError, AgentWorldError):
            return []

    def client(self, node_id: str) -> GatewayClient:
        """Returns the client of a node that has been observed."""
        return self._clients[node_id]

    async def close(self) -> None:
        """Closes all connections."""
        for client in self._clients.values():
            await client.close()
        self._clients = {}

    async def _ask(self, config: NodeConfig) -> NodeReport:
        client = await self._connect(config)
        try:
            return parse_report(config.node_id, await client.status())
        except (AgentWorldError, KeyError, TypeError, ValueError):
            before = self.reports.get(config.node_id) or NodeReport(node_id=config.node_id)
            return dataclasses.replace(before, reachable=False, in_sync=False, voting=False)

    async def _connect(self, config: NodeConfig) -> GatewayClient:
        url = f"http://{LOOPBACK}:{config.http_port}"
        client = self._clients.get(config.node_id)
        if client is None or client.url != url:
            if client is not None:
                await client.close()
            client = GatewayClient(url, patience=0.0, request_timeout=REQUEST_SECONDS)
            await client.__aenter__()
            self._clients[config.node_id] = client
        return client

    async def _directory(self, epoch: int) -> Directory | None:
        if epoch not in self._directories:
            for report in self.reachable():
                if max(report.epoch, report.pending_epoch) < epoch:
                    continue
                try:
                    self._directories[epoch] = await self.client(report.node_id).directory(epoch)
                    break
                except AgentWorldError:
                    continue
        return self._directories.get(epoch)
