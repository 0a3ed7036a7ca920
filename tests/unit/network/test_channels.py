"""Request streams that break as they are given up: that is the end of the stream, not of the host."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from libp2p.abc import IHost, INetStream
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF

from agentworld_node.network.counters import Counters
from agentworld_node.network.libp2p.channels import Channels, Service
from agentworld_node.network.port import Limits

PEER = ID(b"peer")


class Connection:
    peer_id = PEER


class BreakingStream:
    """A stream whose read had failed already when it was cancelled, so that both come together."""

    def __init__(self) -> None:
        self.muxed_conn = Connection()
        self.reading = trio.Event()

    async def read(self, _n: int) -> bytes:
        self.reading.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise MuxedStreamEOF("Stream closed") from None
        raise AssertionError("nothing ends it but cancellation")

    async def write(self, _data: bytes) -> None: ...


class Host:
    def __init__(self, stream: BreakingStream):
        self.stream = stream

    async def new_stream(self, *_: object) -> BreakingStream:
        return self.stream


def make(stream: BreakingStream, nursery: trio.Nursery) -> Channels:
    return Channels(
        cast("IHost", Host(stream)),
        nursery=nursery,
        limits=Limits(),
        counters=Counters(),
        service=Service(begin=lambda _call: None, abandon=lambda _call: None),
        abort=lambda _connection: None,
    )


async def outbound(stream: BreakingStream, nursery: trio.Nursery) -> None:
    channels = make(stream, nursery)
    channels.opened(PEER, cast("Any", stream.muxed_conn))
    await stream.reading.wait()
    channels.closed(PEER)


async def inbound_of_a_host_that_ends(stream: BreakingStream, nursery: trio.Nursery) -> None:
    nursery.start_soon(make(stream, nursery).accept, cast("INetStream", stream))
    await stream.reading.wait()
    nursery.cancel_scope.cancel()


async def outbound_of_a_host_that_ends(stream: BreakingStream, nursery: trio.Nursery) -> None:
    make(stream, nursery).opened(PEER, cast("Any", stream.muxed_conn))
    await stream.reading.wait()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("case", [outbound, inbound_of_a_host_that_ends, outbound_of_a_host_that_ends])
def test_a_stream_that_breaks_as_it_is_given_up_breaks_nothing_else(case: Any) -> None:
    async def main() -> None:
        stream = BreakingStream()
        async with trio.open_nursery() as nursery:
            await case(stream, nursery)

    trio.run(main)
