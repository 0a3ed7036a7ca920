"""The writer lease handed over on purpose, again and again, between processes, while actions flow."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from agentworld_client.keys import save
from agentworld_client.submit import Agent
from agentworld_core.topology.node_config import LeaseConfig
from tests.integration.node.cluster_of_nodes import Cluster, as_json, cluster, run_cli, until
from tests.integration.node.test_processes import PATIENT_LEASE, all_blocks, check_history
from tests.unit.node.material import VALIDATORS, Material, now_ms, registrations, signer
from tests.unit.node.test_handover import wish

TRANSFERS = 10
CLIENTS = 4


class Flow:
    """Agents that act one after the other through a gateway until they are told to end."""

    def __init__(self, world: Cluster, agents: list[Agent]):
        self.world = world
        self.agents = agents
        self.ended = asyncio.Event()
        self.committed: list[str] = []
        self.arrivals: list[tuple[float, int]] = []

    async def act(self, agent: Agent) -> None:
        async with self.world["g0"].client(patience=60) as client:
            for number in itertools.count():
                if self.ended.is_set():
                    return
                action = agent.act("agent.move", {"to": [number, 1]})
                (receipt,) = await client.submit([action], wait=True)
                assert receipt.get("status") == "committed", receipt
                assert receipt["ok"], receipt
                self.committed.append(action.action_id)

    async def watch(self) -> None:
        """Notes when each block arrives at the gateway, and its term."""
        async with self.world["g0"].client() as client:
            async for block in client.events():
                self.arrivals.append((time.monotonic(), int(block["term"])))

    async def goes_on(self) -> None:
        seen = len(self.committed)
        await until(lambda: len(self.committed) > seen + CLIENTS, "actions flow")

    def gaps(self) -> list[float]:
        """The milliseconds between the last block of each term and the first one of the next."""
        pairs = itertools.pairwise(self.arrivals)
        return sorted(1000 * (after[0] - before[0]) for before, after in pairs if after[1] != before[1])


def figures(what: str, values: list[float]) -> str:
    return f"{what}: p50 {values[len(values) // 2]:.0f} ms, max {values[-1]:.0f} ms"


@pytest.mark.box("S5.3", "hand-over")
async def test_ten_transfers_while_actions_flow_lose_and_double_nothing(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path, others=("g0",), lease=PATIENT_LEASE)) as world:
        await world.start()
        agents, actions = registrations(CLIENTS)
        await world.commit("g0", actions)
        flow = Flow(world, agents)
        watching = asyncio.create_task(flow.watch())
        acting = [asyncio.create_task(flow.act(agent)) for agent in agents]
        took: list[float] = []
        writer, term = await world.writer()
        async with world["g0"].client(patience=0) as client:
            for number in range(TRANSFERS):
                await flow.goes_on()
                target = [name for name in VALIDATORS if name != writer][number % 3]
                began = time.monotonic()
                done: dict[str, Any] = await client.transfer_writer(wish(target, term))
                took.append(1000 * (time.monotonic() - began))
                assert done == {"holder_id": target, "term": term + 1}
                writer, term = target, term + 1
        await until(lambda: flow.arrivals[-1][1] == term, "the last writer has written")
        flow.ended.set()
        await asyncio.gather(*acting)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

        assert len(flow.gaps()) == TRANSFERS
        print(f"{TRANSFERS} transfers under {CLIENTS} clients, {len(flow.committed)} actions committed meanwhile;"
              f" {figures('without a block', flow.gaps())}; {figures('the request took', sorted(took))}")  # fmt: skip
        await world.same_head()
        await check_history(world, *world.nodes)
        async with world["g0"].client() as client:
            blocks = await all_blocks(client)
        found = [action.action_id for bundle in blocks for action in bundle.batch.actions]
        assert len(found) == len(set(found)), "nothing twice"
        assert set(flow.committed) <= set(found), "nothing that was acknowledged is lost"
        for name in world.nodes:
            assert await world[name].metric("agentworld_evidence_total") == 0


async def test_a_target_that_freezes_after_it_was_asked_costs_one_lease_and_no_more(tmp_path: Path) -> None:
    """A frozen target is in touch still, for a while; the wish is refused, or the lease expires and others go on."""
    quick = LeaseConfig(duration_ms=3000, renew_deadline_ms=2000, retry_period_ms=500)
    async with cluster(Material(tmp_path, others=("g0",), lease=quick)) as world:
        await world.start()
        agents, actions = registrations(1)
        await world.commit("g0", actions)
        writer, term = await world.writer()
        target = next(name for name in VALIDATORS if name != writer)
        key = tmp_path / "gov.pem"
        save(signer("gov"), key)
        world[target].signal(signal.SIGSTOP)
        words = ("writer", "transfer", "--to", target, "--key", str(key), "--gateway", world["g0"].url)
        code, _, err = await run_cli(*words, "--output", "json")
        assert (code != 0, "error" in as_json(err)) == (True, True), err
        await world.commit("g0", [agents[0].act("agent.move", {"to": [1, now_ms() % 100]})])
        world[target].signal(signal.SIGCONT)
        await world.ready(target)
        _, later = await world.writer()
        # It wrote on, if it could not reach the target, or somebody took the lease that had expired, once.
        assert later - term <= 2
        await check_history(world, *world.nodes)
