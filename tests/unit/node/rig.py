"""Parts of a node around a real ledger, with peers on a hub that do what the test says; no node decides anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agentworld_core.messages import BlockBundle
from agentworld_core.ordering.batch import BatchLimits
from agentworld_core.ordering.mempool import Mempool, MempoolLimits
from agentworld_node.keys import KeyFolder
from agentworld_node.ledger import Ledger
from agentworld_node.metrics import Metrics
from agentworld_node.network.memory import MemoryHub, MemoryNetwork
from agentworld_node.network.port import Peer
from agentworld_node.roles.acceptance import unix_ms
from agentworld_node.roles.evidence import EvidenceRole
from agentworld_node.roles.gateway import GatewayRole
from agentworld_node.roles.keyring import NodeKeyring
from agentworld_node.roles.membership import MembershipRole
from tests.unit.core.ledger.chains import Chain

ME = "peer-me"


class Rig:
    """A ledger of the world of ``tests.unit.core.ledger.chains`` with what a role needs around it.

    Members a to d are ``peer-a`` to ``peer-d`` on the hub; ``peer`` gives the test such a place, or a stranger's.
    """

    def __init__(self, folder: Path, chain: Chain, tasks: asyncio.TaskGroup):
        self.chain = chain
        self.tasks = tasks
        self.ledger = Ledger.open(folder, chain.genesis, sandbox=chain.state.sandbox)
        self.metrics = Metrics()
        self.hub = MemoryHub()
        self.network = self.hub.network(ME, allow_unknown=True)
        self.mempool = Mempool(MempoolLimits(), BatchLimits())
        self.keyring = NodeKeyring(
            node_id="me",
            folder=KeyFolder(None),
            revocations=self.ledger.revocations,
            directory_at=self.ledger.directory_at,
        )
        self._peers: list[MemoryNetwork] = []
        self._gateways: list[GatewayRole] = []

    async def peer(self, name: str) -> MemoryNetwork:
        """Starts a network of the test's own that is connected with the one under test."""
        network = self.hub.network(name, allow_unknown=True)
        network.set_peers([Peer(ME)])
        await network.start()
        self._peers.append(network)
        return network

    def gateway(self, *, workers: int = 1, clock_ms: Callable[[], int] = unix_ms) -> GatewayRole:
        role = GatewayRole(
            ledger=self.ledger,
            mempool=self.mempool,
            network=self.network,
            metrics=self.metrics,
            workers=workers,
            clock_ms=clock_ms,
        )
        self._gateways.append(role)
        role.start(self.tasks)
        return role

    def membership(self) -> MembershipRole:
        role = MembershipRole(ledger=self.ledger, keyring=self.keyring, network=self.network, metrics=self.metrics)
        role.start(self.tasks)
        return role

    def evidence(self) -> EvidenceRole:
        role = EvidenceRole(ledger=self.ledger, network=self.network, metrics=self.metrics)
        role.start(self.tasks)
        return role

    async def apply(self, *bundles: BlockBundle) -> None:
        for bundle in bundles:
            await self.ledger.apply(bundle)

    def refused(self, topic: str) -> dict[str, int]:
        """How many messages of a topic were refused, by code."""
        series = self.metrics._counters.get("agentworld_messages_refused_total", {})
        return {dict(labels)["code"]: count for labels, count in series.items() if dict(labels)["topic"] == topic}

    async def close(self) -> None:
        for network in (*self._peers, self.network):
            await network.stop()
        for role in self._gateways:
            role.close()
        await self.ledger.settle()
        self.ledger.close()


@asynccontextmanager
async def rig(folder: Path, chain: Chain | None = None) -> AsyncIterator[Rig]:
    """A rig whose network runs; ends the tasks of the roles and everything else."""
    made: Rig | None = None
    body: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            made = Rig(folder, chain or Chain(), tasks)
            await made.network.start()
            try:
                yield made
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group
                body = error
            raise _Over
    except* _Over:
        await made.close() if made is not None else None
    if body is not None:
        raise body


class _Over(Exception):
    """Ends the tasks of a rig."""
