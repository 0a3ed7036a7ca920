"""Validators of ours as processes on loopback, with libp2p, HTTP and fsync, and a client that loads them.

The writer's lease is a file, as on one machine. A request carries ``chunk`` actions and is answered when all of them
are committed; so many requests are under way at each validator.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp

from agentworld_client.gateway import CBOR, GatewayClient
from agentworld_core.codec import encode
from agentworld_core.messages import ActionEnvelope, Actions, Parameters
from agentworld_core.topology.node_config import LeaseConfig
from agentworld_core.world.actions import make_action, sign_action
from tests.bench.material import agent_signer
from tests.bench.processes import LoadRun, cpu_seconds, end_all, free_ports, wait_for
from tests.unit.node.material import WORLD, Material

ACTORS = 64
PARAMETERS = Parameters(
    block_interval_ms=0,
    max_batch_actions=4_096,
    max_batch_bytes=4 * 1024 * 1024,
    journal_events_per_segment=4_096,
    snapshot_interval=64,
    leaseless=False,
)
_PATIENCE = 300.0


class Validators:
    """A world of validators that runs; ended on exit."""

    def __init__(self, folder: Path, *, count: int, parameters: Parameters = PARAMETERS):
        folder.mkdir()
        self.names = [f"v{number}" for number in range(count)]
        self.material = Material(folder, validators=self.names, parameters=parameters, lease=LeaseConfig())
        self._traffic = _traffic()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sent: list[str] = []
        ports = free_ports(2 * count)
        self._p2p = dict(zip(self.names, ports[:count], strict=True))
        self._http = dict(zip(self.names, ports[count:], strict=True))
        self.urls = [f"http://127.0.0.1:{port}" for port in self._http.values()]

    def __enter__(self) -> Self:
        self.material.write_peers(self._p2p)
        for name in self.names:
            config = self.material.config(
                name,
                p2p_port=self._p2p[name],
                http_port=self._http[name],
                mempool_max_per_actor=10_000,
                mempool_max_per_source=0,
            )
            with (self.material.folder / f"{name}.log").open("wb") as log:
                command = [sys.executable, "-m", "agentworld_node", "node", "--log-level", "warning", "--config"]
                self._processes.append(
                    subprocess.Popen(
                        [*command, str(self.material.write_config(config))],
                        stdout=log,
                        stderr=log,
                        stdin=subprocess.DEVNULL,
                    )
                )
        try:
            wait_for(lambda: asyncio.run(self._are_ready()), "the validators are ready", seconds=_PATIENCE)
            self.load(ACTORS, chunk=16, in_flight=1)
        except BaseException:
            end_all(self._processes)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end_all(self._processes)

    def load(
        self, count: int, *, chunk: int, in_flight: int, rate: float | None = None, at: int | None = None
    ) -> LoadRun:
        """Has so many new actions committed, at most ``rate`` a second, and measures; each must be acknowledged.

        Requests go to all validators in turn, or to the first ``at`` of them.
        """
        actions = list(itertools.islice(self._traffic, count))
        bodies = [encode(Actions(tuple(actions[start : start + chunk]))) for start in range(0, count, chunk)]
        self._sent += [action.action_id for action in actions]
        pids = [process.pid for process in self._processes]
        before, started = cpu_seconds(pids), time.perf_counter()
        latencies = asyncio.run(_send(self.urls[:at], bodies, in_flight=in_flight, pause=rate and chunk / rate))
        seconds = time.perf_counter() - started
        wait_for(lambda: len({head["height"] for head in asyncio.run(self.heads())}) == 1, "all have the same head")
        # Whoever is behind still works on it.
        return LoadRun(committed=count, seconds=seconds, cpu=cpu_seconds(pids) - before, latencies=tuple(latencies))

    async def heads(self) -> list[dict[str, Any]]:
        """Returns what every validator says of its head."""
        async with aiohttp.ClientSession() as session:
            return [(await _json(session, f"{url}/v1/status"))["head"] for url in self.urls]

    def counted(self, name: str) -> float:
        """Returns the sum of a metric of all validators."""
        return sum(asyncio.run(self._metric(name)))

    def wrong(self) -> str | None:
        """Looks for acknowledged actions that are not in the ledger exactly once, and for validators that differ."""
        heads = asyncio.run(self.heads())
        if len({(head["block_hash"], head["state_root"]) for head in heads}) != 1:
            return f"the validators differ: {heads}"
        found = asyncio.run(self._committed(heads[0]["height"]))
        if sorted(found) != sorted(self._sent):
            return f"{len(found)} actions are in the ledger, {len(self._sent)} were acknowledged"
        return None

    async def _committed(self, height: int) -> list[str]:
        found: list[str] = []
        async with GatewayClient(self.urls[-1]) as client:
            at = 1
            while at <= height:
                bundles = await client.blocks(at)
                found += [action.action_id for bundle in bundles for action in bundle.batch.actions]
                at += len(bundles)
        return found

    async def _metric(self, name: str) -> list[float]:
        values = []
        async with aiohttp.ClientSession() as session:
            for url in self.urls:
                async with session.get(f"{url}/metrics") as response:
                    lines = (await response.text()).splitlines()
                values.append(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)))
        return values

    async def _are_ready(self) -> bool:
        async with aiohttp.ClientSession() as session:
            for url in self.urls:
                try:
                    async with session.get(f"{url}/readyz") as response:
                        if response.status != 200:
                            return False
                except aiohttp.ClientError:
                    return False
        return True


async def _send(urls: Sequence[str], bodies: Sequence[bytes], *, in_flight: int, pause: float | None) -> list[float]:
    """Sends the requests in turn to all and returns how long each took to be answered, once for every action."""
    waiting = [deque(bodies[number :: len(urls)]) for number in range(len(urls))]
    latencies: list[float] = []
    begun = time.perf_counter()
    due = itertools.count()

    async def work(session: aiohttp.ClientSession, url: str, mine: deque[bytes]) -> None:
        while mine:
            body = mine.popleft()
            if pause is not None:
                await asyncio.sleep(begun + next(due) * pause - time.perf_counter())
            started = time.perf_counter()
            address = f"{url}/v1/actions?wait=committed&timeout_s=120"
            async with session.post(address, data=body, headers={"Content-Type": CBOR}) as response:
                results = (await response.json())["results"]
            took = time.perf_counter() - started
            wrong = [result for result in results if result.get("status") != "committed" or not result["ok"]]
            if wrong:
                raise AssertionError(f"not committed: {wrong[0]}")
            latencies.extend([took] * len(results))

    timeout = aiohttp.ClientTimeout(total=_PATIENCE)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session, asyncio.TaskGroup() as tasks:
        for url, mine in zip(urls, waiting, strict=True):
            for _ in range(in_flight):
                tasks.create_task(work(session, url, mine))
    return latencies


async def _json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url) as response:
        return dict(await response.json())


def _traffic() -> Iterator[ActionEnvelope]:
    """Signed actions without end: every actor's registration, then moves; some 280 bytes each."""
    signers = [agent_signer(f"agent-{number}") for number in range(ACTORS)]
    for number in itertools.count():
        first = number < ACTORS
        action = make_action(
            world_id=WORLD,
            actor_id=f"agent-{number % ACTORS}",
            kind="agent.register" if first else "agent.move",
            payload={"position": [0, 0]} if first else {"to": [number, -number]},
            nonce=1 + number // ACTORS,
            timestamp_ms=1_700_000_000_000 + number,
        )
        yield sign_action(action, signers[number % ACTORS])
