"""The frames of a request stream: encoding, fragments and strict, bounded reassembly; no I/O.

A frame is a 13-byte header (length of the rest, kind, request id) and a piece of a body. A body longer than one frame
is sent in pieces, all but the last with ``MORE`` set in the kind, so that small frames may pass between the pieces of
large ones. The body of a request is the length of the protocol id in two bytes, the protocol id, and the payload.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("!IBQ")
_MORE = 0x80
# A piece, its header and yamux's fit one noise message of 65,519 bytes; a larger piece would cost two of each.
PIECE = 65_000
_SHORT = 4 * 1024
_MOST_QUEUED = 4096


class FrameError(Exception):
    """The peer's bytes are not frames, or would need more memory than one peer may have."""


class Kind(enum.IntEnum):
    """What a frame is about."""

    REQUEST = 1
    VALUE = 2
    ERROR = 3
    CANCEL = 4
    PING = 5
    PONG = 6


_WITH_BODY = (Kind.REQUEST, Kind.VALUE, Kind.ERROR)


@dataclass(frozen=True)
class Message:
    """One whole message; CANCEL, PING and PONG have no body."""

    kind: Kind
    number: int
    body: bytes = b""


class FrameReader:
    """Turns a byte stream into messages; holds at most ``message_bytes`` for one and four times that in all."""

    def __init__(self, *, message_bytes: int, open_messages: int):
        self._message_bytes = message_bytes
        self._open_messages = open_messages
        self._buffer = bytearray()
        self._pieces: dict[tuple[Kind, int], bytearray] = {}
        self._held = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yields the messages that are complete with these bytes; raises FrameError and is of no use after that."""
        self._buffer += data
        position = 0
        try:
            while len(self._buffer) - position >= _HEADER.size:
                length, kind, number = _HEADER.unpack_from(self._buffer, position)
                if length > PIECE:
                    raise FrameError(f"a frame of {length} bytes")
                end = position + _HEADER.size + length
                if len(self._buffer) < end:
                    break
                body = bytes(memoryview(self._buffer)[position + _HEADER.size : end])
                position = end
                message = self._take(kind, number, body)
                if message is not None:
                    yield message
        finally:
            del self._buffer[:position]

    def _take(self, kind_byte: int, number: int, body: bytes) -> Message | None:
        try:
            kind = Kind(kind_byte & ~_MORE)
        except ValueError:
            raise FrameError(f"a frame of kind {kind_byte}") from None
        more = bool(kind_byte & _MORE)
        key = (kind, number)
        if kind not in _WITH_BODY:
            if more or body:
                raise FrameError(f"a {kind.name} with a body")
            return Message(kind, number)
        if more and not body:
            raise FrameError("an empty piece")
        if not more and key not in self._pieces:
            self._check(len(body))
            return Message(kind, number, body)
        if key not in self._pieces and len(self._pieces) >= self._open_messages:
            raise FrameError(f"more than {self._open_messages} messages in pieces")
        pieces = self._pieces.setdefault(key, bytearray())
        pieces += body
        self._held += len(body)
        self._check(len(pieces))
        if self._held > 4 * self._message_bytes:
            raise FrameError(f"{self._held} bytes in pieces")
        if more:
            return None
        del self._pieces[key]
        self._held -= len(pieces)
        return Message(kind, number, bytes(pieces))

    def _check(self, size: int) -> None:
        if size > self._message_bytes:
            raise FrameError(f"a message of more than {self._message_bytes} bytes")


class FrameWriter:
    """Queues messages and hands out bytes to send, the pieces of large messages in turn, small messages together."""

    def __init__(self, *, queue_bytes: int):
        self._queue_bytes = queue_bytes
        self._queue: deque[tuple[Message, int]] = deque()
        self._held = 0

    def put(self, message: Message) -> bool:
        """Queues a message; False when the queue is full. Short messages find room where long ones do not."""
        crowded = self._held + len(message.body) > self._queue_bytes and len(message.body) > _SHORT
        if (crowded and self._queue) or len(self._queue) >= _MOST_QUEUED:
            return False
        self._queue.append((message, 0))
        self._held += len(message.body)
        return True

    def take(self) -> bytes:
        """The next bytes to send, at most about one piece; empty when nothing is queued."""
        out = bytearray()
        while self._queue and len(out) < PIECE:
            message, start = self._queue[0]
            piece = message.body[start : start + PIECE]
            if out and len(out) + len(piece) > PIECE:
                break
            self._queue.popleft()
            self._held -= len(piece)
            more = start + len(piece) < len(message.body)
            out += _HEADER.pack(len(piece), message.kind | (_MORE if more else 0), message.number)
            out += piece
            if more:
                self._queue.append((message, start + len(piece)))
        return bytes(out)


def request_body(protocol: str, payload: bytes) -> bytes:
    """Encodes a request."""
    name = protocol.encode()
    return len(name).to_bytes(2, "big") + name + payload


def parse_request(body: bytes) -> tuple[str, bytes]:
    """Returns the protocol id and the payload; raises FrameError."""
    length = int.from_bytes(body[:2], "big")
    if len(body) < 2 + length:
        raise FrameError("a request without a protocol id")
    try:
        return body[2 : 2 + length].decode(), body[2 + length :]
    except UnicodeDecodeError:
        raise FrameError("a protocol id that is not text") from None
