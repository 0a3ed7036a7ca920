"""What every adapter of the network port must do; runs for the one in memory and for libp2p on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentworld_core.errors import Busy, NotFound, TimedOut, TooLarge
from agentworld_node.network.counters import COUNTERS
from agentworld_node.network.port import Limits, PeerUnavailable, ProtocolUnavailable, RequestFailed
from tests.integration.network.support import (
    ECHO,
    TOPIC,
    AnyNetwork,
    Group,
    ask_until,
    eventually,
    group,
    publish_until,
)

SLOW = "/aw/rr/1.0.0/slow"
FAIL = "/aw/rr/1.0.0/fail"


@pytest.fixture(params=["memory", "libp2p"])
async def nets(request: pytest.FixtureRequest) -> AsyncIterator[Group]:
    async with group(request.param) as networks:
        yield networks


def listen(network: AnyNetwork, topic: str = TOPIC) -> list[tuple[str, bytes]]:
    got: list[tuple[str, bytes]] = []
    network.subscribe(topic, lambda author, payload: got.append((author, payload)))
    return got


async def test_message_reaches_all_subscribers_but_not_its_author(nets: Group) -> None:
    one, two, three = await nets.mesh(3)
    own, second, third = listen(one), listen(two), listen(three)
    await publish_until(one, b"hello", lambda: bool(second) and bool(third))
    assert set(second) == set(third) == {(one.peer_id, b"hello")}
    await publish_until(two, b"back", lambda: (two.peer_id, b"back") in own)
    assert one.peer_id not in {author for author, _ in own}


async def test_message_is_delivered_once(nets: Group) -> None:
    networks = await nets.mesh(4)
    got = [listen(network) for network in networks]
    await publish_until(networks[0], b"warm", lambda: all(got[1:]))
    for number in range(50):
        await networks[0].publish(TOPIC, b"m%d" % number)
    await eventually(lambda: all((networks[0].peer_id, b"m49") in messages for messages in got[1:]))
    for messages in got[1:]:
        wanted = [payload for _, payload in messages if payload.startswith(b"m")]
        assert len(wanted) == len(set(wanted))


async def test_publishing_alone_or_before_the_start_is_not_an_error(nets: Group) -> None:
    alone = nets.make()
    await alone.publish(TOPIC, b"nobody runs")
    await alone.start()
    await alone.publish(TOPIC, b"nobody listens")
    assert alone.counters()["dropped_outbound"] == 1
    assert alone.counters()["published"] == 1


async def test_subscriptions_are_per_topic_and_end(nets: Group) -> None:
    one, two = await nets.mesh(2)
    wanted, others = listen(two), listen(two, "aw.w.head")
    got: list[bytes] = []
    unsubscribe = two.subscribe(TOPIC, lambda _author, payload: got.append(payload))
    await publish_until(one, b"first", lambda: bool(wanted) and bool(got))
    unsubscribe()
    before = list(got)
    await publish_until(one, b"second", lambda: (one.peer_id, b"second") in wanted)
    assert got == before
    assert others == []


async def test_subscription_after_the_last_one_ended_works_again(nets: Group) -> None:
    one, two = await nets.mesh(2)
    got: list[bytes] = []
    unsubscribe = two.subscribe(TOPIC, lambda _author, payload: got.append(payload))
    await publish_until(one, b"first", lambda: b"first" in got)
    unsubscribe()
    again = listen(two)
    await publish_until(one, b"second", lambda: (one.peer_id, b"second") in again)
    assert b"second" not in got


async def test_largest_message_arrives_and_a_larger_one_is_refused(nets: Group) -> None:
    one, two = await nets.mesh(2)
    got = listen(two)
    largest = b"x" * Limits().publish_bytes
    await publish_until(one, largest, lambda: bool(got))
    assert got[0][1] == largest
    with pytest.raises(TooLarge):
        await one.publish(TOPIC, largest + b"x")


@pytest.mark.box("S1.1", "protocols")
async def test_request_is_answered_and_names_the_requester(nets: Group) -> None:
    one, two = await nets.mesh(2)

    async def who(peer_id: str, payload: bytes) -> bytes:
        return peer_id.encode() + b"/" + payload

    two.serve("/aw/rr/1.0.0/who", who)
    assert await one.request(two.peer_id, "/aw/rr/1.0.0/who", b"x", timeout=20) == f"{one.peer_id}/x".encode()
    assert await two.request(one.peer_id, ECHO, b"", timeout=20) == b""
    assert one.counters()["requests_sent"] == 1
    assert two.counters()["requests_served"] == 1


async def test_many_requests_at_once_get_their_own_answers(nets: Group) -> None:
    one, two = await nets.mesh(2)
    payloads = [b"%d" % number * (number * 37 % 5000) for number in range(200)]
    limits = Limits().serve_per_peer
    for start in range(0, len(payloads), limits):
        batch = payloads[start : start + limits]
        assert await asyncio.gather(*(one.request(two.peer_id, ECHO, p, timeout=20) for p in batch)) == batch


async def test_large_request_and_answer(nets: Group) -> None:
    one, two = await nets.mesh(2)
    largest = bytes(range(256)) * (Limits().request_bytes // 256)
    assert await one.request(two.peer_id, ECHO, largest, timeout=60) == largest
    with pytest.raises(TooLarge):
        await one.request(two.peer_id, ECHO, largest + b"x", timeout=60)


async def test_answer_over_the_limit_fails_at_the_server(nets: Group) -> None:
    one, two = await nets.mesh(2, limits=Limits(request_bytes=1000))

    async def grow(_peer_id: str, payload: bytes) -> bytes:
        return payload * 3

    two.serve("/aw/rr/1.0.0/grow", grow)
    with pytest.raises(RequestFailed) as caught:
        await one.request(two.peer_id, "/aw/rr/1.0.0/grow", bytes(500), timeout=20)
    assert caught.value.remote_code == "too_large"
    assert await one.request(two.peer_id, ECHO, b"still here", timeout=20) == b"still here"


@pytest.mark.box("S1.3", "not-found")
async def test_errors_of_the_handler_reach_the_requester(nets: Group) -> None:
    one, two = await nets.mesh(2)

    async def fail(_peer_id: str, payload: bytes) -> bytes:
        if payload == b"known":
            raise NotFound("no block 7 here")
        raise ZeroDivisionError("private")

    two.serve(FAIL, fail)
    with pytest.raises(RequestFailed, match="no block 7 here") as known:
        await one.request(two.peer_id, FAIL, b"known", timeout=20)
    assert known.value.remote_code == "not_found"
    with pytest.raises(RequestFailed) as unknown:
        await one.request(two.peer_id, FAIL, b"", timeout=20)
    assert unknown.value.remote_code == "internal"
    assert "private" not in str(unknown.value)
    with pytest.raises(ProtocolUnavailable):
        await one.request(two.peer_id, "/aw/rr/1.0.0/unknown", b"", timeout=20)
    assert one.counters()["requests_failed"] == 3


@pytest.mark.box("S1.3", "nobody")
async def test_request_to_a_stranger_is_unavailable_at_once(nets: Group) -> None:
    one = nets.make()
    stranger = nets.make()
    await one.start()
    with pytest.raises(PeerUnavailable):
        await one.request(stranger.peer_id, ECHO, b"", timeout=60)


async def test_slow_answer_times_out_and_holds_up_nobody(nets: Group) -> None:
    one, two = await nets.mesh(2)
    given_up = asyncio.Event()

    async def slow(_peer_id: str, _payload: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return b""

    two.serve(SLOW, slow)
    waiting = asyncio.create_task(one.request(two.peer_id, SLOW, b"", timeout=1.0))
    assert await one.request(two.peer_id, ECHO, b"quick", timeout=20) == b"quick"
    assert not waiting.done()
    with pytest.raises(TimedOut):
        await waiting
    assert one.counters()["requests_timed_out"] == 1


async def test_more_requests_than_allowed_are_refused_here_and_there(nets: Group) -> None:
    one, two = await nets.mesh(2, limits=Limits(requests_per_peer=3, serve_per_peer=2))
    gate = asyncio.Event()
    running = 0

    async def slow(_peer_id: str, _payload: bytes) -> bytes:
        nonlocal running
        running += 1
        await gate.wait()
        return b"done"

    two.serve(SLOW, slow)
    first = [asyncio.create_task(one.request(two.peer_id, SLOW, b"", timeout=30)) for _ in range(2)]
    await eventually(lambda: running == 2)
    with pytest.raises(RequestFailed) as caught:
        await one.request(two.peer_id, SLOW, b"", timeout=30)
    assert caught.value.remote_code == "busy"
    assert caught.value.retryable
    gate.set()
    assert await asyncio.gather(*first) == [b"done", b"done"]
    gate.clear()
    first += [asyncio.create_task(one.request(two.peer_id, SLOW, b"", timeout=30)) for _ in range(2)]
    await eventually(lambda: running == 4)
    third = asyncio.create_task(one.request(two.peer_id, ECHO, b"", timeout=30))
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await one.request(two.peer_id, ECHO, b"", timeout=30)
    gate.set()
    await asyncio.gather(*first, third, return_exceptions=True)


async def test_cancelled_request_leaves_nothing_behind(nets: Group) -> None:
    one, two = await nets.mesh(2, limits=Limits(requests_per_peer=1))
    started = asyncio.Event()

    async def slow(_peer_id: str, _payload: bytes) -> bytes:
        started.set()
        await asyncio.Event().wait()
        return b""

    two.serve(SLOW, slow)
    waiting = asyncio.create_task(one.request(two.peer_id, SLOW, b"", timeout=60))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await one.request(two.peer_id, ECHO, b"next", timeout=20) == b"next"


async def test_unlisted_peer_is_refused_until_it_is_listed(nets: Group) -> None:
    one, guest = nets.make(), nets.make()
    await one.start()
    await guest.start()
    guest.set_peers([nets.peer(one)])
    if nets.kind == "libp2p":
        await eventually(lambda: one.counters()["refused_peers"] > 0)
    assert one.connected() == ()
    one.set_peers([nets.peer(guest)])
    await eventually(lambda: one.connected() == (guest.peer_id,) and guest.connected() == (one.peer_id,))
    assert await ask_until(guest, one.peer_id, b"in") == b"in"
    one.set_peers([])
    await eventually(lambda: one.connected() == () == guest.connected())


async def test_unlisted_peer_is_tolerated_where_allowed(nets: Group) -> None:
    open_door, guest = nets.make(allow_unknown=True), nets.make()
    await open_door.start()
    await guest.start()
    guest.set_peers([nets.peer(open_door)])
    await eventually(lambda: guest.connected() == (open_door.peer_id,))
    assert await ask_until(guest, open_door.peer_id, b"in") == b"in"


async def test_peer_that_comes_back_under_its_identity_is_heard_again(nets: Group) -> None:
    one, two, three = await nets.mesh(3)
    got = listen(one)
    await publish_until(two, b"before", lambda: (two.peer_id, b"before") in got)
    await two.stop()
    await eventually(lambda: two.peer_id not in one.connected() and two.peer_id not in three.connected())
    again = nets.make(like=two)
    heard = listen(again)
    await again.start()
    nets.introduce(one, again, three)
    await eventually(lambda: len(again.connected()) == 2)
    await publish_until(again, b"after", lambda: (two.peer_id, b"after") in got)
    await publish_until(three, b"welcome", lambda: (three.peer_id, b"welcome") in heard)
    assert await ask_until(one, two.peer_id, b"again") == b"again"


async def test_peer_that_is_down_at_first_is_dialled_until_it_comes(nets: Group) -> None:
    one, late = nets.make(), nets.make()
    await late.start()  # to learn its port
    await late.stop()
    await one.start()
    one.set_peers([nets.peer(late)])
    if nets.kind == "libp2p":
        await eventually(lambda: one.counters()["dial_failures"] >= 2)
    again = nets.make(like=late)
    again.set_peers([nets.peer(one)])
    await again.start()
    await eventually(lambda: one.connected() == (late.peer_id,))


async def test_stop_breaks_requests_and_can_be_called_again(nets: Group) -> None:
    one, two = await nets.mesh(2)
    started = asyncio.Event()

    async def slow(_peer_id: str, _payload: bytes) -> bytes:
        started.set()
        await asyncio.Event().wait()
        return b""

    two.serve(SLOW, slow)
    waiting = asyncio.create_task(one.request(two.peer_id, SLOW, b"", timeout=60))
    await started.wait()
    await one.stop()
    with pytest.raises(PeerUnavailable):
        await waiting
    await one.stop()
    assert one.connected() == ()
    with pytest.raises(PeerUnavailable):
        await one.request(two.peer_id, ECHO, b"", timeout=60)
    await one.publish(TOPIC, b"into the void")
    await eventually(lambda: two.connected() == ())


async def test_requests_break_when_the_server_stops(nets: Group) -> None:
    one, two = await nets.mesh(2)
    started = asyncio.Event()

    async def slow(_peer_id: str, _payload: bytes) -> bytes:
        started.set()
        await asyncio.Event().wait()
        return b""

    two.serve(SLOW, slow)
    waiting = asyncio.create_task(one.request(two.peer_id, SLOW, b"", timeout=60))
    await started.wait()
    await two.stop()
    with pytest.raises((PeerUnavailable, RequestFailed)) as caught:
        await waiting
    assert caught.value.retryable


async def test_stopped_network_can_be_started_again(nets: Group) -> None:
    one, two = await nets.mesh(2)
    got = listen(one)
    await one.stop()
    await one.start()
    nets.introduce(one, two)
    await eventually(lambda: one.connected() == (two.peer_id,))
    await publish_until(two, b"again", lambda: (two.peer_id, b"again") in got)


async def test_counters_have_stable_names(nets: Group) -> None:
    network = nets.make()
    assert tuple(network.counters()) == COUNTERS
