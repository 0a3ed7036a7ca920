"""The bytes of libp2p streams: frames of requests, and RPCs of gossip with their signatures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google.protobuf.message import DecodeError
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from agentworld_node.network.libp2p import gossip
from agentworld_node.network.libp2p.frames import (
    FrameError,
    FrameReader,
    FrameWriter,
    Kind,
    Message,
    parse_request,
    request_body,
)

Taken = tuple[str, tuple[bytes, ...], Callable[[bytes], bytes | None], tuple[type[Exception], ...]]


def frame_decoders(payload: bytes) -> Iterator[Taken]:
    """Yields (name, seeds, what to do with bytes, errors that are meant) for each."""
    body = request_body("/aw/rr/1.0.0/get_blocks", payload)
    yield "frames of a request stream", _frames(body), _take_frames, (FrameError,)
    yield "body of a request", (body, request_body("/ключ", b"")), _take_request, (FrameError,)
    message = _signed_message(payload)
    original = (message.from_id, message.data, message.seqno, tuple(message.topicIDs))

    def take_rpc(data: bytes) -> None:
        """Cuts a stream into RPCs and believes only signatures that were made."""
        buffer, position = bytearray(data), 0
        while (frame := gossip._frame_at(buffer, position)) is not None:
            start, position = frame
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(bytes(buffer[start:position]))
            for found in rpc.publish:
                if gossip._is_signed(found):
                    assert (found.from_id, found.data, found.seqno, tuple(found.topicIDs)) == original
                    gossip._author(found.from_id)

    rpc = gossip._framed(rpc_pb2.RPC(publish=[message], subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True)]))
    yield "gossip", (rpc, rpc + rpc), take_rpc, (gossip.MalformedRpc, DecodeError)


def _frames(body: bytes) -> tuple[bytes, ...]:
    writer = FrameWriter(queue_bytes=10**6)
    for message in (
        Message(Kind.REQUEST, 1, body),
        Message(Kind.VALUE, 7, bytes(70_000)),
        Message(Kind.ERROR, 2**64 - 1, b"x"),
        Message(Kind.PING, 3),
        Message(Kind.CANCEL, 1),
    ):
        writer.put(message)
    pieces = []
    while data := writer.take():
        pieces.append(data)
    return (b"".join(pieces), b"".join(piece for piece in pieces if len(piece) < 5000) or pieces[0])


def _take_frames(data: bytes) -> None:
    """The messages are the same however the bytes are cut, also up to an error."""
    outcomes = []
    for cut in (len(data) or 1, max(1, len(data) // 3)):
        reader = FrameReader(message_bytes=80_000, open_messages=4)
        messages: list[Message] = []
        error = None
        try:
            for start in range(0, len(data), cut):
                messages.extend(reader.feed(data[start : start + cut]))
        except FrameError as found:
            error = found
        outcomes.append((messages, str(error)))
    assert outcomes[0] == outcomes[1]


def _take_request(body: bytes) -> bytes:
    return request_body(*parse_request(body))


def _signed_message(payload: bytes) -> rpc_pb2.Message:
    pair = create_new_key_pair(bytes(32))
    message = rpc_pb2.Message(
        from_id=ID.from_pubkey(pair.public_key).to_bytes(), data=payload, seqno=bytes(8), topicIDs=["aw.aurora.head"]
    )
    message.signature = pair.private_key.sign(b"libp2p-pubsub:" + message.SerializeToString())
    message.key = pair.public_key.serialize()
    assert gossip._is_signed(message)
    return message
