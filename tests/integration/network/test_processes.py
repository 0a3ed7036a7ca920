"""Nodes in real processes that are killed, started again and frozen."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from agentworld_core.errors import TimedOut
from agentworld_node.network.libp2p import Libp2pConfig, Libp2pNetwork
from agentworld_node.network.port import Limits, PeerUnavailable
from tests.integration.network.support import (
    ECHO,
    PATIENCE,
    TOPIC,
    Group,
    NodeProcess,
    ask_until,
    eventually,
    fresh_seed,
    group,
    make_process,
    publish_until,
)


@asynccontextmanager
async def node_and_processes(count: int) -> AsyncIterator[tuple[Group, Libp2pNetwork, list[NodeProcess]]]:
    """A network here, and nodes in processes that are all connected with it and with each other."""
    async with group("libp2p") as networks:
        here = networks.make()
        assert isinstance(here, Libp2pNetwork)
        processes = [make_process() for _ in range(count)]
        try:
            await here.start()
            peers = [networks.peer(here), *(process.peer for process in processes)]
            await asyncio.gather(*(process.start(peers) for process in processes))
            here.set_peers(peers)
            await eventually(lambda: len(here.connected()) == count)
            yield networks, here, processes
        finally:
            await asyncio.gather(*(process.kill() for process in processes))


async def test_killed_process_is_heard_again_after_its_restart_under_the_same_identity() -> None:
    async with node_and_processes(2) as (networks, here, (first, second)):
        got: list[tuple[str, bytes]] = []
        here.subscribe(TOPIC, lambda author, payload: got.append((author, payload)))
        await here.publish(TOPIC, b"warm")
        for life in range(2):
            payload = b"from life %d" % life
            await _say_until(second, payload, Heard(got, (second.peer_id, payload)))
            await publish_until(here, payload, Heard(second.received, (here.peer_id, payload)))
            await publish_until(here, payload, Heard(first.received, (here.peer_id, payload)))
            await second.kill()
            await eventually(lambda: here.connected() == (first.peer_id,))
            with pytest.raises(PeerUnavailable):
                await here.request(second.peer_id, ECHO, b"", timeout=20)
            await second.start([networks.peer(here), first.peer])
            assert await ask_until(here, second.peer_id, b"back") == b"back"
        assert here.counters()["host_failures"] == 0


@dataclass(frozen=True)
class Heard:
    """True once the message is among the messages."""

    messages: list[tuple[str, bytes]]
    message: tuple[str, bytes]

    def __call__(self) -> bool:
        return self.message in self.messages


async def _say_until(process: NodeProcess, payload: bytes, condition: Heard) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await process.ask("publish", payload=payload.hex())
        await asyncio.sleep(0.1)


async def test_frozen_peer_times_out_and_holds_up_nobody_until_it_thaws() -> None:
    async with node_and_processes(2) as (_networks, here, (frozen, well)):
        assert await ask_until(here, frozen.peer_id, b"awake") == b"awake"
        assert await ask_until(here, well.peer_id, b"awake") == b"awake"
        frozen.signal(signal.SIGSTOP)
        waiting = [asyncio.create_task(here.request(frozen.peer_id, ECHO, bytes(10_000), timeout=2)) for _ in range(50)]
        for number in range(20):
            assert await here.request(well.peer_id, ECHO, b"%d" % number, timeout=20) == b"%d" % number
        await publish_until(here, b"gossip flows", lambda: (here.peer_id, b"gossip flows") in well.received)
        assert not any(task.done() for task in waiting)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, TimedOut) for outcome in outcomes)
        frozen.signal(signal.SIGCONT)
        assert await ask_until(here, frozen.peer_id, b"thawed") == b"thawed"
        await publish_until(here, b"again", lambda: (here.peer_id, b"again") in frozen.received)


async def test_peer_frozen_for_long_under_a_flood_loses_its_connection_and_comes_back() -> None:
    async with node_and_processes(2) as (_networks, here, (frozen, well)):
        await publish_until(here, b"warm", lambda: all((here.peer_id, b"warm") in p.received for p in (frozen, well)))
        frozen.signal(signal.SIGSTOP)
        # More than fits into the peer's window and socket: only then is it seen that it does not read.
        deadline = time.monotonic() + PATIENCE
        while frozen.peer_id in here.connected():
            assert time.monotonic() < deadline
            await here.publish(TOPIC, bytes(200_000))
            await asyncio.sleep(0.05)
        await publish_until(here, b"well", lambda: (here.peer_id, b"well") in well.received)
        frozen.signal(signal.SIGCONT)
        await publish_until(here, b"thawed", lambda: (here.peer_id, b"thawed") in frozen.received)
        assert here.counters()["host_failures"] == 0


async def test_stop_is_quick_and_clean_with_a_frozen_peer_and_a_full_socket() -> None:
    async with node_and_processes(1) as (_networks, here, (frozen,)):
        await publish_until(here, b"warm", lambda: (here.peer_id, b"warm") in frozen.received)
        frozen.signal(signal.SIGSTOP)
        for _ in range(40):
            await here.publish(TOPIC, bytes(Limits().publish_bytes))
            await asyncio.sleep(0)
        sent = here.counters()["requests_sent"]
        large = asyncio.create_task(here.request(frozen.peer_id, ECHO, bytes(8_000_000), timeout=60))
        await eventually(lambda: here.counters()["requests_sent"] > sent)
        # The thread check of the group sees whether anything stays behind.
        await here.stop()
        with pytest.raises(PeerUnavailable):
            await large


async def test_two_networks_of_one_process_do_not_share_anything() -> None:
    one, two = (Libp2pNetwork(Libp2pConfig(seed=fresh_seed())) for _ in range(2))
    await one.start()
    await two.start()
    await one.stop()
    assert two.counters()["host_failures"] == 0
    await two.stop()
