"""Blocks near the limit among real validators on loopback: offered, fetched in parts, decided, whoever fails."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent
from agentworld_core.codec import encode
from agentworld_core.consensus.parts import LARGE_BYTES
from agentworld_core.errors import NotFound
from agentworld_core.messages import ActionEnvelope
from agentworld_node.node import Node
from agentworld_node.roles.parts import GET_PART
from agentworld_node.supervisor.ports import free_port
from tests.integration.node.cluster_of_nodes import PATIENCE, Cluster, cluster, until
from tests.unit.node.material import PARAMETERS, VALIDATORS, Material, agent

LARGE = dataclasses.replace(PARAMETERS, max_batch_bytes=1024 * 1024, block_interval_ms=300)
ACTIONS, PAYLOAD = 59, 15_000
NEAR_LIMIT = 850 * 1024
OUTCOMES = ("fetched", "refused", "wrong")
FETCHED = 'agentworld_parts_total{outcome="fetched"}'


class Load:
    """Actions of one agent, some 900 KiB at a time."""

    def __init__(self) -> None:
        self._agent: Agent = agent("builder")
        self._numbers = itertools.count()

    def first(self) -> list[ActionEnvelope]:
        return [self._agent.act("agent.register", {"position": [0, 0]})]

    def next(self) -> list[ActionEnvelope]:
        numbers = [next(self._numbers) for _ in range(ACTIONS)]
        return [
            self._agent.act("object.create", {"object_id": f"o{number}", "data": bytes([number % 256]) * PAYLOAD})
            for number in numbers
        ]


async def sizes(client: GatewayClient, height: int) -> list[int]:
    """How large the proposal of every block up to a height was, but for some bytes."""
    found: list[int] = []
    while len(found) < height:
        found += [len(encode(one.block)) + len(encode(one.batch)) for one in await client.blocks(len(found) + 1)]
    return found


@pytest.mark.box("S25.1", "on-the-wire")
async def test_blocks_near_the_limit_are_decided_also_while_one_is_killed_and_started(tmp_path: Path) -> None:
    load = Load()
    async with cluster(Material(tmp_path, parameters=LARGE)) as world:
        await world.start()
        writer, _ = await world.writer()
        await world.commit(writer, load.first())
        await world.commit(writer, load.next())
        others = [world[name] for name in VALIDATORS if name != writer]
        await world.same_head()
        assert all([await node.metric(FETCHED) >= 14 for node in others])

        under_way = asyncio.create_task(world.commit(writer, load.next()))
        await others[0].kill()
        await under_way
        await world.commit(writer, load.next())
        others[0].start()
        await world.ready(others[0].name)
        await world.same_head()
        await world.commit(writer, load.next())
        await world.commit(writer, load.next())
        head = await world.same_head()

        async with world[others[0].name].client() as client:
            large = [size for size in await sizes(client, head["height"]) if size >= NEAR_LIMIT]
        assert len(large) >= 3, "most of what was submitted at once is one block"
        assert await others[0].metric(FETCHED) >= 14, "who was started again fetches parts again"
        await _nothing_was_wrong(world)


async def _nothing_was_wrong(world: Cluster) -> None:
    for node in world.nodes.values():
        assert await node.metric('agentworld_parts_total{outcome="wrong"}') == 0
        assert "Traceback" not in node.log.read_text()


@asynccontextmanager
async def in_one_process(material: Material, *, old: str = "") -> AsyncIterator[dict[str, Node]]:
    """Nodes with libp2p on loopback in the test's process, so that a test can change what one of them does.

    An ``old`` one knows nothing of offers and parts, as a node of an earlier version.
    """
    ports = {name: free_port() for name in material.names}
    material.write_peers(ports)
    nodes = {name: Node(material.config(name, p2p_port=ports[name])) for name in material.names}
    if old:
        _forget_offers(nodes[old])
    tasks = [asyncio.create_task(node.run()) for node in nodes.values()]
    try:
        await until(lambda: all(len(node.network.connected()) == len(nodes) - 1 for node in nodes.values()), "all meet")
        yield nodes
    finally:
        for node in nodes.values():
            node.stop()
        await asyncio.gather(*tasks)


def _forget_offers(node: Node) -> None:
    subscribe, serve = node.network.subscribe, node.network.serve
    node.network.subscribe = lambda name, handler: (  # type: ignore[assignment, method-assign]
        (lambda: None) if name.endswith(".offer") else subscribe(name, handler)
    )
    node.network.serve = lambda name, handler: (  # type: ignore[assignment, method-assign]
        None if name == GET_PART else serve(name, handler)
    )


async def test_a_node_that_knows_nothing_of_offers_follows_by_certificates(tmp_path: Path) -> None:
    load = Load()
    leaseless = dataclasses.replace(LARGE, leaseless=True)
    async with in_one_process(Material(tmp_path, parameters=leaseless), old="v3") as nodes:
        async with GatewayClient(f"http://127.0.0.1:{nodes['v0'].http_port}", patience=PATIENCE) as client:
            for actions in (load.first(), load.next(), load.next()):
                await _committed(client, actions)
        await until(lambda: _heads(nodes) == 1, "all have the same head")
        assert _parts(nodes["v3"], "fetched") == 0
        assert all(_parts(nodes[name], "fetched") > 0 for name in ("v0", "v1", "v2"))


@pytest.mark.box("S25.1", "on-the-wire")
async def test_one_that_refuses_parts_holds_up_its_own_rounds_alone(tmp_path: Path) -> None:
    load = Load()
    leaseless = dataclasses.replace(LARGE, leaseless=True)
    async with in_one_process(Material(tmp_path, parameters=leaseless)) as nodes:

        async def refuse(_peer_id: str, _payload: bytes) -> bytes:
            raise NotFound("not from me")

        nodes["v3"].network.serve(GET_PART, refuse)
        async with GatewayClient(f"http://127.0.0.1:{nodes['v0'].http_port}", patience=PATIENCE) as client:
            await _committed(client, load.first())
            for _ in range(5):
                await _committed(client, load.next())
            height = nodes["v0"].ledger.height
            large = [size for size in await sizes(client, height) if size > LARGE_BYTES]
        await until(lambda: _heads(nodes) == 1, "all have the same head")
        assert len(large) >= 4
        fetched, refused, wrong = ([_parts(node, what) for node in nodes.values()] for what in OUTCOMES)
        assert sum(refused[:3]) > 0, "it was asked, and refused"
        assert all(count > 0 for count in fetched)
        assert sum(wrong) == 0


async def _committed(client: GatewayClient, actions: list[ActionEnvelope]) -> None:
    async def look() -> bool:
        return all(one.get("status") == "committed" for one in await client.submit(actions, wait=True))

    await until(look, "the actions are committed")


def _heads(nodes: dict[str, Node]) -> int:
    return len({node.ledger.chain.block_hash for node in nodes.values()})


def _parts(node: Node, outcome: str) -> int:
    return node.metrics._counters.get("agentworld_parts_total", {}).get((("outcome", outcome),), 0)
