"""Frames of a request stream: any cut, any interleaving, strict limits, and garbage."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentworld_node.network.libp2p.frames import (
    PIECE,
    FrameError,
    FrameReader,
    FrameWriter,
    Kind,
    Message,
    parse_request,
    request_body,
)

BODY_KINDS = [Kind.REQUEST, Kind.VALUE, Kind.ERROR]


def reader(message_bytes: int = 1_000_000, open_messages: int = 8) -> FrameReader:
    return FrameReader(message_bytes=message_bytes, open_messages=open_messages)


def drain(writer: FrameWriter) -> list[bytes]:
    out = []
    while data := writer.take():
        out.append(data)
    return out


@given(
    st.lists(st.tuples(st.sampled_from(BODY_KINDS), st.integers(0, 3 * PIECE)), max_size=6),
    st.integers(min_value=1, max_value=100_000),
    st.randoms(use_true_random=False),
)
def test_messages_come_out_whole_however_the_bytes_are_cut(
    shapes: list[tuple[Kind, int]], chunk: int, rng: random.Random
) -> None:
    messages = [Message(kind, number, rng.randbytes(size)) for number, (kind, size) in enumerate(shapes)]
    writer = FrameWriter(queue_bytes=10**9)
    for message in messages:
        assert writer.put(message)
    stream = b"".join(drain(writer))
    frames = reader()
    got = [message for at in range(0, len(stream), chunk) for message in frames.feed(stream[at : at + chunk])]
    assert sorted(got, key=lambda message: message.number) == messages


def test_small_message_passes_between_the_pieces_of_a_large_one() -> None:
    writer = FrameWriter(queue_bytes=10**9)
    writer.put(Message(Kind.VALUE, 1, bytes(10 * PIECE)))
    first = writer.take()
    writer.put(Message(Kind.VALUE, 2, b"small"))
    frames = reader()
    got: list[int] = [message.number for message in frames.feed(first)]
    for data in drain(writer):
        got += [message.number for message in frames.feed(data)]
    assert got == [2, 1]


def test_small_messages_share_a_write() -> None:
    writer = FrameWriter(queue_bytes=10**9)
    for number in range(20):
        writer.put(Message(Kind.VALUE, number, b"x" * 100))
    assert len(drain(writer)) == 1


def test_writer_refuses_what_does_not_fit() -> None:
    writer = FrameWriter(queue_bytes=100_000)
    assert writer.put(Message(Kind.VALUE, 1, bytes(90_000)))
    assert not writer.put(Message(Kind.VALUE, 2, bytes(20_000)))
    assert writer.put(Message(Kind.ERROR, 2, b"busy"))
    drain(writer)
    assert writer.put(Message(Kind.VALUE, 3, bytes(20_000)))


def test_writer_refuses_even_short_messages_when_the_peer_never_reads() -> None:
    writer = FrameWriter(queue_bytes=10**9)
    sent = 0
    while writer.put(Message(Kind.PONG, sent)):
        sent += 1
        assert sent < 10_000


def frame(kind: int, number: int = 1, body: bytes = b"", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return size.to_bytes(4, "big") + bytes([kind]) + number.to_bytes(8, "big") + body


MORE = 0x80


@pytest.mark.parametrize(
    "data",
    [
        frame(0),
        frame(7),
        frame(MORE),
        frame(1, length=PIECE + 1),
        frame(1, length=0xFFFFFFFF),
        frame(Kind.PING, body=b"x"),
        frame(Kind.CANCEL | MORE),
        frame(Kind.VALUE | MORE),
        frame(Kind.VALUE, body=bytes(1001)),
        frame(Kind.VALUE | MORE, body=bytes(600)) + frame(Kind.VALUE, body=bytes(600)),
        b"".join(frame(Kind.VALUE | MORE, number, b"x") for number in range(9)),
        b"".join(frame(Kind.VALUE | MORE, number, bytes(999)) for number in range(5)),
    ],
)
def test_frames_against_the_rules_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        list(reader(message_bytes=1000).feed(data))


@given(st.binary(max_size=2000))
def test_garbage_is_refused_or_waits_for_more_but_nothing_else(data: bytes) -> None:
    frames = reader(message_bytes=1000)
    try:
        for message in frames.feed(data):
            assert len(message.body) <= 1000
    except FrameError:
        pass


@given(st.text(max_size=100), st.binary(max_size=1000))
def test_request_round_trip(protocol: str, payload: bytes) -> None:
    assert parse_request(request_body(protocol, payload)) == (protocol, payload)


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\2a", b"\0\2\xff\xff"])
def test_request_without_a_protocol_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        parse_request(body)
