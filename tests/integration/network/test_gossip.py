"""How gossip spreads over libp2p: to all who subscribe, through those in between, and no more often than it must."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from agentworld_node.network.libp2p.session import Session
from tests.integration.network.support import (
    PATIENCE,
    TOPIC,
    AnyNetwork,
    Group,
    eventually,
    group,
    in_network,
    publish_until,
)


@pytest.fixture
async def nets() -> AsyncIterator[Group]:
    async with group("libp2p") as networks:
        yield networks


def listen(network: AnyNetwork) -> list[tuple[str, bytes]]:
    got: list[tuple[str, bytes]] = []
    network.subscribe(TOPIC, lambda author, payload: got.append((author, payload)))
    return got


async def test_topic_subscribed_while_a_peer_is_being_greeted_reaches_that_peer(
    nets: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = nets.make(), nets.make()
    greeting = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def greet_slowly(session: Session) -> None:
        pubsub, new_stream = session._pubsub, session._host.new_stream

        async def slowly(peer_id: ID, protocols: Sequence[TProtocol]) -> INetStream:
            stream = await new_stream(peer_id, protocols)
            if list(protocols) == list(pubsub.protocols):
                write = stream.write

                async def late(data: bytes) -> None:
                    loop.call_soon_threadsafe(greeting.set)
                    while TOPIC not in pubsub.topic_ids:
                        await trio.lowlevel.checkpoint()
                    await write(data)

                monkeypatch.setattr(stream, "write", late)
            return stream

        monkeypatch.setattr(session._host, "new_stream", slowly)

    await one.start()
    await two.start()
    await in_network(one, greet_slowly)
    nets.introduce(one, two)
    async with asyncio.timeout(PATIENCE):
        await greeting.wait()
    got: list[bytes] = []
    one.subscribe(TOPIC, lambda _author, payload: got.append(payload))
    await publish_until(two, b"heard", lambda: b"heard" in got)


def heard_by_others(author: AnyNetwork, got: list[list[tuple[str, bytes]]]) -> bool:
    return sum(author.peer_id in dict(heard) for heard in got) == len(got) - 1


async def test_where_all_are_connected_each_message_is_sent_to_each_once(nets: Group) -> None:
    networks = await nets.mesh(4)
    got = [listen(network) for network in networks]
    for network in networks:
        await publish_until(network, b"warm", functools.partial(heard_by_others, network, got))
    before = sum(network.counters()["duplicates"] for network in networks)
    for number in range(50):
        for network in networks:
            await network.publish(TOPIC, b"m%d" % number)
    await eventually(lambda: all(sum(payload[:1] == b"m" for _, payload in heard) == 150 for heard in got))
    assert sum(network.counters()["duplicates"] for network in networks) - before <= 100  # were they relayed: 1,200


async def test_who_is_not_connected_with_an_author_hears_of_it_from_those_in_between(nets: Group) -> None:
    one, between, three = nets.make(), nets.make(), nets.make()
    for network in (one, between, three):
        await network.start()
    one.set_peers([nets.peer(between)])
    between.set_peers([nets.peer(one), nets.peer(three)])
    three.set_peers([nets.peer(between)])
    await eventually(lambda: len(between.connected()) == 2)
    got, _ = listen(three), listen(between)
    await publish_until(one, b"warm", lambda: (one.peer_id, b"warm") in got)
    for number in range(200):
        await one.publish(TOPIC, b"m%d" % number)
    await eventually(lambda: sum(payload[:1] == b"m" for _, payload in got) == 200)
    assert one.peer_id not in three.connected()
