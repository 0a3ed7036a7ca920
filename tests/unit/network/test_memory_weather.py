"""The hub's weather: losses, delays and partitions that depend on nothing but the seed, in virtual time."""

import asyncio
import random

import pytest

from agentworld_core.errors import AgentWorldError, TimedOut
from agentworld_node.network.memory import MemoryHub, MemoryNetwork, Weather
from agentworld_node.network.port import Peer, PeerUnavailable


async def mesh(hub: MemoryHub, *names: str) -> list[MemoryNetwork]:
    networks = [hub.network(name) for name in names]
    for network in networks:
        network.set_peers([Peer(name) for name in names])
        await network.start()
    return networks


async def history(seed: int) -> list[tuple[float, str, bytes]]:
    hub = MemoryHub(Weather(random.Random(seed), loss=0.3, latency=(0.01, 0.5)))
    networks = await mesh(hub, "a", "b", "c")
    seen: list[tuple[float, str, bytes]] = []
    for network in networks:
        network.subscribe("t", lambda _author, payload, name=network.peer_id: seen.append((hub.now, name, payload)))  # type: ignore[misc]
    for number in range(50):
        await networks[number % 3].publish("t", bytes([number]))
        await hub.advance(0.05)
    await hub.advance(1)
    for network in networks:
        await network.stop()
    return seen


async def test_same_seed_same_history() -> None:
    first, second, other = await history(1), await history(1), await history(2)
    assert first == second != other
    assert 30 < len(first) < 90  # 100 deliveries, some lost
    assert [payload for _, _, payload in first] != sorted(payload for _, _, payload in first)  # and reordered


async def test_nothing_arrives_before_its_delay() -> None:
    hub = MemoryHub(Weather(random.Random(1), latency=(1.0, 1.0)))
    one, two = await mesh(hub, "a", "b")
    got: list[bytes] = []
    two.subscribe("t", lambda _author, payload: got.append(payload))
    await one.publish("t", b"x")
    await hub.advance(0.9)
    assert got == []
    await hub.advance(0.2)
    assert got == [b"x"]


async def settle(hub: MemoryHub, request: "asyncio.Task[bytes]", seconds: float) -> bytes | AgentWorldError | None:
    await hub.advance(seconds)
    if not request.done():
        return None
    error = request.exception()
    return request.result() if error is None else error  # type: ignore[return-value]


async def test_request_takes_both_ways_and_times_out_in_virtual_time() -> None:
    weather = Weather(random.Random(1), latency=(1.0, 1.0))
    hub = MemoryHub(weather)
    one, two = await mesh(hub, "a", "b")
    two.serve("/x", lambda _peer_id, payload: asyncio.sleep(0, result=payload.upper()))
    request = asyncio.create_task(one.request("b", "/x", b"hi", timeout=5))
    assert await settle(hub, request, 1.5) is None
    assert await settle(hub, request, 1.0) == b"HI"
    late = asyncio.create_task(one.request("b", "/x", b"hi", timeout=1.5))
    assert isinstance(await settle(hub, late, 1.6), TimedOut)
    await hub.advance(5)
    assert one.counters()["requests_timed_out"] == 1


async def test_lost_request_times_out() -> None:
    hub = MemoryHub(Weather(random.Random(1), loss=1.0))
    one, two = await mesh(hub, "a", "b")
    two.serve("/x", lambda _peer_id, payload: asyncio.sleep(0, result=payload))
    request = asyncio.create_task(one.request("b", "/x", b"hi", timeout=3))
    assert isinstance(await settle(hub, request, 3.1), TimedOut)


async def test_partition_cuts_gossip_connections_and_requests_until_it_heals() -> None:
    hub = MemoryHub(Weather(random.Random(1), latency=(0.1, 0.1)))
    one, two, three = await mesh(hub, "a", "b", "c")
    got: list[bytes] = []
    three.subscribe("t", lambda _author, payload: got.append(payload))
    three.serve("/x", lambda _peer_id, payload: asyncio.sleep(0, result=payload))
    on_the_way = asyncio.create_task(one.request("c", "/x", b"", timeout=9))
    await hub.advance(0.05)
    await one.publish("t", b"also on the way")
    hub.partition({"a", "b"}, {"c"})
    assert isinstance(await settle(hub, on_the_way, 0), PeerUnavailable)
    assert (one.connected(), two.connected(), three.connected()) == (("b",), ("a",), ())
    with pytest.raises(PeerUnavailable):
        await one.request("c", "/x", b"", timeout=9)
    await hub.advance(1)
    hub.heal()
    await one.publish("t", b"healed")
    await hub.advance(1)
    assert got == [b"healed"]


async def test_gossip_is_relayed_by_subscribers_only() -> None:
    hub = MemoryHub()
    chain = [hub.network(name, allow_unknown=True) for name in "abc"]
    for network, peer in zip(chain, "bc", strict=False):
        network.set_peers([Peer(peer)])
    got: list[str] = []
    for network in chain:
        await network.start()
    chain[2].subscribe("t", lambda author, _payload: got.append(author))
    await chain[0].publish("t", b"")
    await asyncio.sleep(0)
    assert got == []
    chain[1].subscribe("t", lambda _author, _payload: None)
    await chain[0].publish("t", b"")
    for _ in range(5):
        await asyncio.sleep(0)
    assert got == ["a"]


async def test_two_running_networks_of_one_identity_are_refused() -> None:
    hub = MemoryHub()
    first, second = hub.network("a"), hub.network("a")
    await first.start()
    with pytest.raises(PeerUnavailable):
        await second.start()
    await first.stop()
    await second.start()
