"""The bounded helpers behind gossip, and the outbox."""

import pytest

from agentworld_node.network.libp2p import gossip
from agentworld_node.network.libp2p.gossip import MalformedRpc, RecentIds
from agentworld_node.network.libp2p.outbox import Outbox
from agentworld_node.network.port import Limits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_recent_ids_are_kept_for_their_time_and_forgotten_after_twice_that() -> None:
    clock = Clock()
    ids = RecentIds(seconds=10, limit=1000, clock=clock)
    assert ids.add(b"a")
    assert not ids.add(b"a")
    clock.now = 11
    ids.add(b"b")
    assert ids.has(b"a")
    clock.now = 22
    ids.add(b"c")
    assert not ids.has(b"a")
    assert ids.has(b"b")


def test_recent_ids_are_bounded() -> None:
    ids = RecentIds(seconds=10, limit=100, clock=Clock())
    for number in range(10_000):
        ids.add(number.to_bytes(4, "big"))
    assert sum(ids.has(number.to_bytes(4, "big")) for number in range(10_000)) <= 200
    assert ids.has((9_999).to_bytes(4, "big"))


def test_rpc_frames_are_cut_out_of_a_buffer() -> None:
    buffer = bytearray(b"\x03abc\x00\x82\x01" + bytes(130) + b"\x05ab")
    frames = []
    position = 0
    while (frame := gossip._frame_at(buffer, position)) is not None:
        frames.append(frame)
        position = frame[1]
    assert frames == [(1, 4), (5, 5), (7, 137)]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff\x01", b"\x80\x80\x80\x80", b"\xff\xff\xff\x7f"])
def test_rpc_that_is_announced_too_long_is_refused_before_it_comes(data: bytes) -> None:
    with pytest.raises(MalformedRpc):
        gossip._frame_at(bytearray(data), 0)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**20])
def test_length_prefix_round_trip(number: int) -> None:
    prefix = gossip._varint(number)
    assert gossip._frame_at(bytearray(prefix + bytes(number)), 0) == (len(prefix), len(prefix) + number)


def test_outbox_is_bounded_in_messages_and_bytes() -> None:
    outbox = Outbox(Limits(queue_messages=2, queue_bytes=100))
    assert outbox.offer("t", bytes(60))
    assert not outbox.offer("t", bytes(60))
    assert outbox.offer("t", b"")
    assert not outbox.offer("t", b"")
    assert outbox.take() == ("t", bytes(60))
    assert outbox.offer("t", bytes(100))
    outbox.clear()
    assert outbox.take() is None
    assert outbox.offer("t", bytes(100))
