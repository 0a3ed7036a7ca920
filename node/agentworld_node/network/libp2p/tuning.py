"""Changes made to libp2p at run time, only when it is exactly the version they were written and measured for.

With any other version libp2p stays as it is: slower, and with queues of 32 messages per peer, but correct.

What costs in stock is turns of the trio scheduler: every uncontended lock is one, every frame takes half a dozen locks
that guard nothing (no other task can run between two awaits), every read sends a window update, and every encrypted
message is read from the socket in two pieces.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import struct

import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.pubsub import pubsub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.transport.tcp import tcp

logger = logging.getLogger(__name__)

_VERSION = "0.8.1"
_QUEUE_MESSAGES = 1024
_QUEUE_BYTES = 16 * 1024 * 1024
_READ_BYTES = 64 * 1024
_WINDOW = 1024 * 1024
_FRAME_BYTES = 65_500  # with its header it fits one noise message
_WINDOW_SECONDS = 5.0

_stock_read = YamuxStream.read


class RoomyQueue(RpcQueue):
    """What waits to be sent to one peer; stock holds 32 RPCs, however short, and any number of bytes."""

    def __init__(self) -> None:
        super().__init__(max_size=_QUEUE_MESSAGES)
        self._bytes = 0

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        size = rpc.ByteSize()
        if self._bytes + size > _QUEUE_BYTES or not super().push(rpc, priority):
            return False
        self._bytes += size
        return True

    async def pop(self) -> rpc_pb2.RPC | None:
        rpc = await super().pop()
        if rpc is not None:
            self._bytes -= rpc.ByteSize()
        return rpc


class BufferedTcpStream(TrioTCPStream):
    """Reads as much as there is and hands it out in the pieces that are asked for."""

    def __init__(self, stream: trio.SocketStream):
        super().__init__(stream)
        self._data = b""
        self._position = 0

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if self._position >= len(self._data):
            self._data, self._position = await super().read(_READ_BYTES), 0
        end = len(self._data) if n is None else self._position + n
        piece = self._data[self._position : end]
        self._position += len(piece)
        return piece


async def _write_frame(self: Yamux, data: bytes) -> None:
    async with self._write_lock:
        await self.secured_conn.write(data)


async def _write(self: YamuxStream, data: bytes) -> None:
    position = 0
    while position < len(data):
        await _wait_for_window(self)
        piece = data[position : position + min(self.send_window, _FRAME_BYTES)]
        self.send_window -= len(piece)
        position += len(piece)
        header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, len(piece))
        await _write_frame(self.conn, header + piece)


async def _wait_for_window(stream: YamuxStream) -> None:
    deadline = trio.current_time() + _WINDOW_SECONDS
    while not (stream.send_closed or stream.closed):
        if stream.send_window > 0:
            return
        if trio.current_time() > deadline:
            raise MuxedStreamError(f"the peer has read nothing for {_WINDOW_SECONDS:g} s")
        await trio.sleep(0.005)
    raise MuxedStreamError("the stream is closed for sending")


async def _read(self: YamuxStream, n: int | None = -1) -> bytes:
    buffer = self.conn.stream_buffers.get(self.stream_id)
    if not buffer or n is None or n <= 0 or self.closed or self.recv_closed:
        return await _stock_read(self, n)
    data = bytes(memoryview(buffer)[:n])
    del buffer[:n]
    await _give_credit(self, bytes_read=len(data))
    return data


async def _give_credit(self: YamuxStream, *, bytes_read: int = 0) -> None:
    """Tells the sender what has been read, half a window at a time, and widens the window the first time."""
    self._pending_recv_release += bytes_read
    credit = self._pending_recv_release
    if credit < self.target_recv_window // 2:
        return
    self._pending_recv_release = 0
    credit += _WINDOW - self.target_recv_window
    self.target_recv_window = _WINDOW
    self.recv_window += credit
    await self.send_window_update(credit)


@functools.cache
def apply() -> bool:
    """Makes the changes, once per process; False when the version is another."""
    if importlib.metadata.version("libp2p") != _VERSION:
        logger.warning("libp2p is not %s and is used as it is: slower, with shorter queues", _VERSION)
        return False
    for owner, name, replacement in (
        (pubsub, "RpcQueue", RoomyQueue),
        (tcp, "TrioTCPStream", BufferedTcpStream),
        (Yamux, "_write_frame", _write_frame),
        (YamuxStream, "write", _write),
        (YamuxStream, "read", _read),
        (YamuxStream, "_auto_tune_and_send_window_update", _give_credit),
    ):
        setattr(owner, name, replacement)
    return True
