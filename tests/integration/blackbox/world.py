"""A world on machines of its own, the clients that use it, and the history that is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from agentworld_client.submit import Agent
from agentworld_core.codec import encode
from agentworld_core.hashing import content_id
from agentworld_core.messages import Parameters
from agentworld_core.topology.node_config import LeaseConfig
from tests.integration.blackbox.clients import Clients
from tests.integration.blackbox.history import Block, History
from tests.integration.blackbox.machines import Machine, build_clock, open_network
from tests.integration.node.cluster_of_nodes import Cluster, as_json, run_cli, until
from tests.unit.node.material import PARAMETERS, QUICK_LEASE, Material, peer_id, registrations

START_SECONDS = 300.0
_NUMBERS = re.compile(r"[0-9]+")
LONGER = dataclasses.replace(PARAMETERS, snapshot_interval=50)
"""What fits worlds of thousands of blocks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """How large a world is: validators, clients, the pause of a client between actions, bytes of each disk."""

    seed: int
    validators: int = 4
    clients: int = 6
    pause: float = 0.05
    disk_bytes: int = 512 * 1024 * 1024
    lease: LeaseConfig = QUICK_LEASE
    parameters: Parameters = LONGER

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"v{number}" for number in range(self.validators))


class MachineMaterial(Material):
    """What the nodes need, with the addresses of their machines."""

    def __init__(self, folder: Path, setup: Setup):
        super().__init__(folder, validators=setup.names, parameters=setup.parameters, lease=setup.lease)

    def place(self, machines: list[Machine]) -> None:
        """Writes the configuration of every node, and whom it talks to."""
        rows = [
            {"node_id": m.name, "peer_id": peer_id(m.name), "addresses": [f"{m.address}:{m.p2p_port}"]}
            for m in machines
        ]
        self.peers_file.write_text(json.dumps(rows))
        for m in machines:
            where = {"p2p_host": m.address, "http_host": m.address, "p2p_port": m.p2p_port, "http_port": m.http_port}
            self.write_config(self.config(m.name, **where))


class MachineCluster(Cluster):
    """All machines of a world; every process that it started ends with it."""

    def __init__(self, folder: Path, setup: Setup):
        self.material = MachineMaterial(folder, setup)
        clock = build_clock(folder)
        self.machines = {
            name: Machine(name, number, folder=folder, clock=clock, disk_bytes=setup.disk_bytes)
            for number, name in enumerate(setup.names)
        }
        self.nodes = dict(self.machines)
        open_network()
        for machine in self.machines.values():
            machine.plug_in()
        self.material.place(list(self.machines.values()))

    async def ledger(self, name: str) -> list[Block]:
        """The whole ledger of a node."""
        found: list[Block] = []
        async with self[name].client(patience=30) as client:
            while bundles := await client.blocks(len(found) + 1):
                for bundle in bundles:
                    block = bundle.block
                    found.append(
                        Block(
                            height=block.height,
                            block_hash=content_id(encode(block)),
                            parent_hash=block.prev_block_hash,
                            state_root=block.state_root,
                            term=block.term,
                            attempt=block.attempt,
                            proposer=block.proposer_id,
                            actions=tuple(action.action_id for action in bundle.batch.actions),
                        )
                    )
        return found

    async def replay(self, name: str) -> tuple[int, str]:
        """Height and state root, as somebody finds them who executes all blocks of a node again."""
        words = ("verify", "--replay", "--gateway", self[name].url, "--output", "json")
        code, out, err = await run_cli(*words, seconds=600)
        if code != 0:
            raise RuntimeError(f"agentworld verify --replay ends with {code}: {err[-2000:]}")
        report = as_json(out)
        return int(report["height"]), str(report["state_root"])


class Running:
    """A world under load."""

    def __init__(self, cluster: MachineCluster, clients: Clients):
        self.cluster = cluster
        self.clients = clients
        self.history = clients.history
        self.unready: dict[str, float] = {}

    async def commits_again(self, *, since: float, seconds: float) -> bool:
        """True as soon as an action is acknowledged after a time; False when that takes longer than so many seconds."""

        def look() -> bool:
            acks = self.history.acknowledged
            return bool(acks) and acks[-1].ended > since

        return await _in_time(until(look, "an action is acknowledged", seconds=seconds))

    async def all_ready(self, *, seconds: float) -> dict[str, float] | None:
        """For how many seconds which node was not ready and why, once every node is; None when that takes too long."""
        began = time.monotonic()
        why: dict[str, float] = {}

        async def look() -> bool:
            answers = await asyncio.gather(*(node.get("/readyz") for node in self.cluster.nodes.values()))
            for name, (status, text) in zip(self.cluster.nodes, answers, strict=True):
                if status != 200:
                    why[f"{name} {_NUMBERS.sub('n', text.strip()) or 'does not answer'}"] = time.monotonic() - began
            return all(status == 200 for status, _ in answers)

        ready = await _in_time(until(look, "all are ready", seconds=seconds))
        self.unready = why
        return why if ready else None

    async def flows(self) -> None:
        """Returns when every client had an answer again, or nearly."""
        acks = self.history.acknowledged
        enough = len(acks) + 10
        await until(lambda: len(acks) >= enough, "actions flow")

    async def finish(self, *, seconds: float) -> None:
        """Ends the load, lets all nodes come to one head, and takes down what is left in the end."""
        self.clients.ended.set()
        with contextlib.suppress(AssertionError):  # the checker says what is wrong then
            await until(self._is_still, "all have the same head", seconds=seconds)
        for name in self.cluster.nodes:
            self.history.ledgers[name] = await self.cluster.ledger(name)
        self.history.replayed = await self.cluster.replay(next(iter(self.cluster.nodes)))

    async def _is_still(self) -> bool:
        """True when all have one head, and nothing waits that would make another."""
        statuses = [await node.status() for node in self.cluster.nodes.values()]
        heads = {status["head"]["block_hash"] for status in statuses if status is not None}
        waiting = sum(status["mempool"]["actions"] for status in statuses if status is not None)
        return None not in statuses and len(heads) == 1 and not waiting


async def _in_time(waiting: object) -> bool:
    try:
        await waiting  # type: ignore[misc]
    except AssertionError:
        return False
    return True


@contextlib.asynccontextmanager
async def running(folder: Path, setup: Setup) -> AsyncIterator[Running]:
    """A world that runs on machines of its own, with clients that act; only inside namespaces of our own."""
    cluster = MachineCluster(folder, setup)
    clients = Clients(cluster.machines, History(), seed=setup.seed)
    try:
        for machine in cluster.machines.values():
            machine.start()
        world = Running(cluster, clients)
        if await world.all_ready(seconds=START_SECONDS) is None:
            raise RuntimeError(f"the nodes are not ready after {START_SECONDS:g} s{cluster.logs()}")
        agents, actions = registrations(setup.clients)
        for action in actions:
            await clients.settle(action)
        async with asyncio.TaskGroup() as tasks:
            started = list(_start(tasks, world, agents, setup))
            try:
                yield world
            finally:
                clients.ended.set()
                for task in started:
                    task.cancel()
    finally:
        cluster.end()


def _start(tasks: asyncio.TaskGroup, world: Running, agents: list[Agent], setup: Setup) -> Iterator[asyncio.Task[None]]:
    for agent in agents:
        yield tasks.create_task(world.clients.act(agent, pause=setup.pause))
    for name in world.cluster.nodes:
        yield tasks.create_task(world.clients.look(name))
        yield tasks.create_task(world.clients.follow(name))


def now() -> float:
    return time.monotonic()
