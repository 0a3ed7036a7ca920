"""Whole nodes in one process, joined by a network in memory: started, stopped, and waited for by conditions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from agentworld_client.gateway import GatewayClient
from agentworld_core.messages import ActionEnvelope
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_node.network.memory import MemoryHub, MemoryNetwork
from agentworld_node.network.port import Peer
from agentworld_node.node import Node
from tests.unit.node.material import Material, peer_id

PATIENCE = 30.0
POLL_SECONDS = 0.01


async def eventually(condition: Callable[[], Any], *, seconds: float = PATIENCE, what: str = "the condition") -> Any:
    """Waits until the condition holds and returns its value; fails after a deadline no healthy run comes near."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true in time"
        await asyncio.sleep(POLL_SECONDS)


class RunningNode:
    """One node and the task that runs it."""

    def __init__(self, node: Node, network: MemoryNetwork):
        self.node = node
        self.network = network
        self.task = asyncio.create_task(node.run())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.node.http_port}"

    @property
    def height(self) -> int:
        return self.node.ledger.height

    def client(self, **options: Any) -> GatewayClient:
        return GatewayClient(self.url, **options)

    async def listening(self) -> None:
        await eventually(lambda: self.node.http_port or self.task.done(), what="the HTTP server")

    async def stop(self) -> None:
        self.node.stop()
        await self.task

    async def kill(self) -> None:
        """Ends the node without any of the courtesies of a clean stop, as far as one process allows."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class MemoryWorld:
    """Nodes of one world on a hub."""

    def __init__(self, material: Material):
        self.material = material
        self.hub = MemoryHub()
        self.nodes: dict[str, RunningNode] = {}
        self.sandbox_of: Callable[[str], Sandbox | None] = lambda _name: None

    def network(self, name: str) -> MemoryNetwork:
        """A place on the hub for a node or for a stranger under the test's control."""
        network = self.hub.network(peer_id(name), allow_unknown=True)
        network.set_peers([Peer(peer_id(other)) for other in self.material.names if other != name])
        return network

    async def start(self, *names: str, **changes: Any) -> list[RunningNode]:
        """Starts nodes and returns when their HTTP servers listen."""
        started = []
        for name in names or self.material.names:
            network = self.network(name)
            config = self.material.config(name, **changes)
            node = Node(config, network=network, sandbox=self.sandbox_of(name))
            self.nodes[name] = running = RunningNode(node, network)
            started.append(running)
        for running in started:
            await running.listening()
        return started

    async def stop(self) -> None:
        running = [node for node in self.nodes.values() if not node.task.done()]
        for node in running:
            node.node.stop()
        await asyncio.gather(*(node.task for node in running), return_exceptions=True)

    def writer(self) -> str | None:
        """The name of the node that holds the lease."""
        return next((name for name, one in self.nodes.items() if one.node.lease and one.node.lease.is_held), None)

    async def height(self, height: int, *names: str, seconds: float = PATIENCE) -> None:
        """Waits until these nodes, or all, have committed a height."""
        chosen = [self.nodes[name] for name in names] if names else list(self.nodes.values())
        await eventually(
            lambda: all(one.height >= height or one.task.done() for one in chosen),
            seconds=seconds,
            what=f"height {height}",
        )
        for one in chosen:
            if one.task.done():
                one.task.result()

    async def commit(self, name: str, actions: Sequence[ActionEnvelope]) -> list[dict[str, Any]]:
        """Submits actions to a node and returns the receipts once they are committed."""
        async with self.nodes[name].client() as client:
            receipts = await client.submit(actions, wait=True)
        assert [receipt.get("status") for receipt in receipts] == ["committed"] * len(actions), receipts
        return receipts


@asynccontextmanager
async def memory_world(material: Material, *, start: bool = True) -> AsyncIterator[MemoryWorld]:
    """A world whose nodes run, and are stopped in the end."""
    world = MemoryWorld(material)
    try:
        if start:
            await world.start()
        yield world
    finally:
        await world.stop()


async def get(url: str, path: str) -> tuple[int, str]:
    """The status and text of a plain request."""
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return response.status, await response.text()
