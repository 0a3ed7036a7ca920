"""Garbage on every layer of libp2p: strangers on the port, and peers that are let in and then misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.pubsub.pb import rpc_pb2

from agentworld_core.errors import InvalidField, NotAvailable
from agentworld_node.network.libp2p import Libp2pConfig, Libp2pNetwork, channels, gossip
from agentworld_node.network.libp2p.addresses import parse_peer_id
from agentworld_node.network.libp2p.frames import PIECE, Kind
from agentworld_node.network.libp2p.session import Session
from agentworld_node.network.port import Peer
from agentworld_node.supervisor.ports import free_port
from tests.integration.network.support import (
    PATIENCE,
    TOPIC,
    Group,
    ask_until,
    eventually,
    fresh_seed,
    group,
    in_network,
    publish_until,
)

Write = Callable[[INetStream], Awaitable[None]]


@pytest.fixture
async def nets() -> AsyncIterator[Group]:
    async with group("libp2p") as networks:
        yield networks


async def mesh(nets: Group, count: int) -> list[Libp2pNetwork]:
    networks = await nets.mesh(count)
    for network in networks:
        network.subscribe(TOPIC, lambda _author, _payload: None)
    return [network for network in networks if isinstance(network, Libp2pNetwork)]


async def misbehave(evil: Libp2pNetwork, victim: Libp2pNetwork, protocol: TProtocol | None, write: Write) -> None:
    """Opens a stream from one network to the other, below everything that keeps to the rules, and writes to it."""

    async def work(session: Session) -> bool:
        target = parse_peer_id(victim.peer_id)
        try:
            if protocol is None:
                stream = await session._swarm.new_stream(target)
            else:
                stream = await session._host.new_stream(target, [protocol])
        except Exception:  # noqa: BLE001 - the victim has just closed the last connection; the next one comes soon
            return False
        with contextlib.suppress(Exception):  # the victim may have had enough before the end
            await write(stream)
        return True

    deadline = time.monotonic() + PATIENCE
    while not await in_network(evil, work):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def sender(data: bytes, *, close: bool = False) -> Write:
    async def write(stream: INetStream) -> None:
        await stream.write(data)
        if close:
            await stream.close()

    return write


async def assert_well(victim: Libp2pNetwork, friend: Libp2pNetwork) -> None:
    """The victim still answers and still hears gossip, and its host was never started again."""
    assert await ask_until(friend, victim.peer_id, b"still there?") == b"still there?"
    got: list[bytes] = []
    unsubscribe = victim.subscribe(TOPIC, lambda _author, payload: got.append(payload))
    await publish_until(friend, b"still listening?", lambda: b"still listening?" in got)
    unsubscribe()
    assert victim.counters()["host_failures"] == 0


def frame(kind: int, number: int, body: bytes, *, length: int | None = None) -> bytes:
    return (
        (len(body) if length is None else length).to_bytes(4, "big") + bytes([kind]) + number.to_bytes(8, "big") + body
    )


RNG = random.Random(7)


@pytest.mark.parametrize(
    "data",
    [
        RNG.randbytes(10_000),
        frame(Kind.REQUEST, 1, b"", length=PIECE + 1),
        frame(Kind.REQUEST, 1, b"\xff\xff"),
        frame(Kind.REQUEST, 1, b"\0\2\xff\xff"),
        frame(Kind.VALUE, 1, b"an answer to nothing"),
        frame(Kind.REQUEST | 0x80, 1, b"x" * PIECE) * 200,
    ],
    ids=["noise", "oversized", "truncated-body", "not-text", "wrong-way", "endless-pieces"],
)
async def test_garbage_on_a_request_stream_costs_the_peer_its_connection(nets: Group, data: bytes) -> None:
    victim, friend, evil = await mesh(nets, 3)
    await misbehave(evil, victim, channels.PROTOCOL, sender(data))
    await eventually(lambda: victim.counters()["malformed"] > 0 and victim.counters()["connections_aborted"] > 0)
    await assert_well(victim, friend)
    assert await ask_until(evil, victim.peer_id, b"forgiven") == b"forgiven"


async def test_request_stream_that_ends_in_the_middle_of_a_frame_is_only_an_end(nets: Group) -> None:
    victim, friend, evil = await mesh(nets, 3)
    await misbehave(evil, victim, channels.PROTOCOL, sender(frame(Kind.REQUEST, 1, b"half", length=100), close=True))
    await assert_well(victim, friend)
    assert victim.counters()["malformed"] == 0


def rpc(**fields: object) -> bytes:
    return gossip._framed(rpc_pb2.RPC(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"\x7f" + RNG.randbytes(127),
        b"\xff\xff\xff\xff\xff",
        b"\xff\xff\x7f" + bytes(1000),
        rpc(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"t{n}") for n in range(1000)]),
        rpc(control=rpc_pb2.ControlMessage(prune=[rpc_pb2.ControlPrune(topicID=f"t{n}") for n in range(1000)])),
    ],
    ids=["noise", "endless-length", "oversized", "subscription-flood", "prune-flood"],
)
async def test_garbage_on_a_gossip_stream_costs_the_peer_its_connection(nets: Group, data: bytes) -> None:
    victim, friend, evil = await mesh(nets, 3)
    await misbehave(evil, victim, gossip.PROTOCOL, sender(data))
    await eventually(lambda: victim.counters()["malformed"] > 0 and victim.counters()["connections_aborted"] > 0)
    await assert_well(victim, friend)
    assert await ask_until(evil, victim.peer_id, b"forgiven") == b"forgiven"


async def test_messages_that_are_not_what_they_claim_are_dropped_and_the_relay_stays(nets: Group) -> None:
    victim, friend, evil = await mesh(nets, 3)
    got: list[bytes] = []
    victim.subscribe(TOPIC, lambda _author, payload: got.append(payload))
    author = parse_peer_id(friend.peer_id).to_bytes()
    forged = [
        rpc_pb2.Message(from_id=author, data=b"unsigned", seqno=b"1", topicIDs=[TOPIC]),
        rpc_pb2.Message(from_id=author, data=b"forged", seqno=b"2", topicIDs=[TOPIC], signature=bytes(64), key=b"k"),
        rpc_pb2.Message(from_id=b"nobody", data=b"no author", seqno=b"3", topicIDs=[TOPIC], signature=b"s", key=b"k"),
        rpc_pb2.Message(from_id=author, data=b"two topics", seqno=b"4", topicIDs=[TOPIC, TOPIC], signature=bytes(64)),
        rpc_pb2.Message(from_id=author, data=b"long number", seqno=bytes(1000), topicIDs=[TOPIC], signature=bytes(64)),
    ]
    before = victim.counters()
    await misbehave(evil, victim, gossip.PROTOCOL, sender(rpc(publish=forged)))
    await eventually(lambda: victim.counters()["malformed"] == before["malformed"] + len(forged))
    assert victim.counters()["connections_aborted"] == before["connections_aborted"]
    await assert_well(victim, friend)
    assert set(got) == {b"still listening?"}


@pytest.mark.parametrize(
    "data",
    [
        RNG.randbytes(300),
        b"\xff" * 50,
        b"\x13/multistream/1.0.0\n\x05\xff\xfe\xfd\xfc\n",
        b"\x13/multistream/1.0.0\n\x04/no\n" * 100,
    ],
    ids=["noise", "endless-length", "not-text", "unknown-protocols"],
)
async def test_garbage_where_protocols_are_negotiated_harms_nobody(nets: Group, data: bytes) -> None:
    victim, friend, evil = await mesh(nets, 3)
    await misbehave(evil, victim, None, sender(data, close=True))
    await assert_well(victim, friend)


@pytest.mark.parametrize("protocol", ["/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"])
async def test_garbage_on_the_streams_of_libp2p_itself_harms_nobody(nets: Group, protocol: str) -> None:
    victim, friend, evil = await mesh(nets, 3)
    for size in (1, 31, 2000):
        await misbehave(evil, victim, TProtocol(protocol), sender(RNG.randbytes(size), close=True))
    await assert_well(victim, friend)


async def test_garbage_inside_an_encrypted_connection_harms_nobody(nets: Group) -> None:
    victim, friend, evil = await mesh(nets, 3)

    async def work(session: Session) -> None:
        (connection,) = session._swarm.get_connections(parse_peer_id(victim.peer_id))
        await connection.muxed_conn.secured_conn.write(RNG.randbytes(5000))  # type: ignore[attr-defined]

    before = victim.counters()["connections_closed"]
    await in_network(evil, work)
    await assert_well(victim, friend)
    await eventually(lambda: victim.counters()["connections_closed"] > before or evil.peer_id in victim.connected())


async def test_strangers_with_garbage_on_the_port_harm_nobody(nets: Group) -> None:
    victim, friend = await mesh(nets, 2)
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", RNG.randbytes(5000), b"\x13/multistream/1.0.0\n" + RNG.randbytes(99)):
        for _ in range(10):
            _reader, writer = await asyncio.open_connection("127.0.0.1", victim.port)
            writer.write(data)
            writer.close()
    _reader, silent = await asyncio.open_connection("127.0.0.1", victim.port)
    await assert_well(victim, friend)
    silent.close()


async def test_connections_that_came_and_went_do_not_use_up_the_places(nets: Group) -> None:
    victim, friend = await mesh(nets, 2)

    async def narrow(session: Session) -> None:
        session._swarm._inbound_limiter.total_tokens = session._swarm._inbound_limiter.borrowed_tokens + 2

    await in_network(victim, narrow)
    for _ in range(5):
        guest = nets.make()
        await guest.start()
        nets.introduce(victim, friend, guest)
        await eventually(lambda guest=guest: len(guest.connected()) == 2)  # type: ignore[misc]
        await guest.stop()
        await eventually(lambda guest=guest: guest.peer_id not in victim.connected())  # type: ignore[misc]
    await assert_well(victim, friend)


async def test_peer_that_dials_with_another_identity_than_listed_is_not_connected(nets: Group) -> None:
    one, two = nets.make(), nets.make()
    stranger = nets.make()
    assert isinstance(two, Libp2pNetwork)
    for network in (one, two):
        await network.start()
    one.set_peers([Peer(stranger.peer_id, (f"127.0.0.1:{two.port}",))])
    await eventually(lambda: one.counters()["dial_failures"] >= 2)
    assert one.connected() == ()


@pytest.mark.parametrize("how", ["in silence", "with an error"])
async def test_host_that_breaks_down_is_started_again_with_its_subscriptions_and_peers(nets: Group, how: str) -> None:
    victim, friend = await mesh(nets, 2)

    async def fail() -> None:
        raise ValueError("a bug")

    async def break_down(session: Session) -> None:
        if how == "in silence":
            session._router.manager.cancel()
        else:
            session._swarm.manager.run_task(fail)

    await in_network(victim, break_down)
    await eventually(lambda: victim.counters()["host_failures"] == 1)
    got: list[bytes] = []
    victim.subscribe(TOPIC, lambda _author, payload: got.append(payload))
    await publish_until(friend, b"back", lambda: b"back" in got)
    assert await ask_until(victim, friend.peer_id, b"back") == b"back"


async def test_connection_that_ends_without_a_notification_is_missed_and_made_again(nets: Group) -> None:
    victim, friend = await mesh(nets, 2)

    async def lose(session: Session) -> None:
        async def silent(conn: INetConn) -> None:
            """What remains of a notification when the task that gives it is cancelled."""

        notify, session._swarm.notify_disconnected = session._swarm.notify_disconnected, silent  # type: ignore[method-assign]
        (connection,) = session._swarm.get_connections()
        await connection.close()
        session._swarm.notify_disconnected = notify  # type: ignore[method-assign]

    await in_network(victim, lose)
    got: list[bytes] = []
    friend.subscribe(TOPIC, lambda _author, payload: got.append(payload))
    await publish_until(victim, b"found again", lambda: b"found again" in got)
    await assert_well(victim, friend)
    assert victim.connected() == (friend.peer_id,)


async def test_port_that_is_taken_is_said_at_the_start(nets: Group) -> None:
    (first,) = await mesh(nets, 1)
    second = Libp2pNetwork(Libp2pConfig(seed=fresh_seed(), listen_port=first.port))
    threads = threading.active_count()
    with pytest.raises(NotAvailable, match=str(first.port)):
        await second.start()
    assert threading.active_count() == threads


async def test_host_names_are_resolved_when_dialling() -> None:
    networks = [Libp2pNetwork(Libp2pConfig(seed=fresh_seed(), listen_port=free_port())) for _ in range(2)]
    for network in networks:
        await network.start()
    for network in networks:
        network.set_peers([Peer(other.peer_id, (f"localhost:{other.port}",)) for other in networks])
    try:
        await eventually(lambda: all(network.connected() for network in networks))
    finally:
        await asyncio.gather(*(network.stop() for network in networks))


@pytest.mark.parametrize("text", ["", "x", "12D3Koo", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "0OIl"])
async def test_peer_ids_that_are_none_are_refused(nets: Group, text: str) -> None:
    one = nets.make()
    with pytest.raises(InvalidField):
        one.set_peers([Peer(text)])
    with pytest.raises(InvalidField):
        await one.request(text, "/x", b"", timeout=1)


def test_seed_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidField):
        Libp2pNetwork(Libp2pConfig(seed=os.urandom(31)))
