"""Served handlers: one reply each, bounded concurrency, errors as codes, cancellation and shutdown."""

import asyncio

import pytest

from agentworld_core.errors import NotFound
from agentworld_node.network.counters import Counters
from agentworld_node.network.port import Limits, ProtocolUnavailable, RequestFailed
from agentworld_node.network.serving import Reply, Server


class Calls:
    """A server, and the replies that its requests got."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.counters = Counters()
        self.server = Server(limits=limits or Limits(), counters=self.counters)

    def start(self, peer_id: str = "p", protocol: str = "/x", payload: bytes = b"") -> "asyncio.Future[Reply]":
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.give_up = self.server.dispatch(peer_id, protocol, payload, reply=future.set_result)
        return future

    async def outcome(self, peer_id: str = "p", protocol: str = "/x", payload: bytes = b"") -> str:
        try:
            return (await self.start(peer_id, protocol, payload)).value().decode()
        except RequestFailed as error:
            return error.remote_code


@pytest.mark.box("S1.3", "nobody")
async def test_value_error_and_unknown_protocol() -> None:
    calls = Calls()

    async def handler(peer_id: str, payload: bytes) -> bytes:
        if payload:
            raise NotFound("nothing here")
        return peer_id.encode()

    calls.server.serve("/x", handler)
    assert await calls.outcome(peer_id="q") == "q"
    assert await calls.outcome(payload=b"1") == "not_found"
    with pytest.raises(ProtocolUnavailable) as caught:
        (await calls.start(protocol="/y")).value()
    assert (caught.value.remote_wire, caught.value.retryable) == ("ERR_UNSUPPORTED", False)


@pytest.mark.box("S1.3", "internal")
async def test_unmeant_exception_is_reported_without_its_words() -> None:
    calls = Calls()

    async def handler(_peer_id: str, _payload: bytes) -> bytes:
        raise KeyError("secret")

    calls.server.serve("/x", handler)
    reply = await calls.start()
    assert b"secret" not in reply.body
    assert calls.counters.snapshot()["handler_errors"] == 1


async def test_answer_over_the_limit_is_refused_here() -> None:
    calls = Calls(Limits(request_bytes=10))

    async def handler(_peer_id: str, _payload: bytes) -> bytes:
        return bytes(11)

    calls.server.serve("/x", handler)
    assert await calls.outcome() == "too_large"


async def test_handler_that_hangs_is_ended() -> None:
    calls = Calls(Limits(serve_seconds=0.01))

    async def handler(_peer_id: str, _payload: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    calls.server.serve("/x", handler)
    assert await calls.outcome() == "timed_out"


async def test_one_peer_cannot_take_all_places() -> None:
    calls = Calls(Limits(serve_per_peer=2, serve_at_once=3))
    gate = asyncio.Event()

    async def handler(_peer_id: str, _payload: bytes) -> bytes:
        await gate.wait()
        return b"done"

    calls.server.serve("/x", handler)
    running = [calls.start("p"), calls.start("p")]
    assert await calls.outcome(peer_id="p") == "busy"
    running.append(calls.start("q"))
    assert await calls.outcome(peer_id="r") == "busy"
    gate.set()
    assert [reply.value() for reply in await asyncio.gather(*running)] == [b"done"] * 3
    assert await calls.outcome(peer_id="p") == "done"
    assert calls.counters.snapshot()["requests_refused"] == 2


async def test_request_given_up_before_its_first_step_frees_its_place() -> None:
    calls = Calls(Limits(serve_per_peer=1))

    async def handler(_peer_id: str, _payload: bytes) -> bytes:
        return b"done"

    calls.server.serve("/x", handler)
    given_up = calls.start()
    calls.give_up()
    assert not (await given_up).ok
    assert await calls.outcome() == "done"


async def test_close_cancels_what_runs_and_refuses_the_rest() -> None:
    calls = Calls()
    cancelled = asyncio.Event()

    async def handler(_peer_id: str, _payload: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    calls.server.serve("/x", handler)
    running = calls.start()
    await asyncio.sleep(0)
    await calls.server.close()
    assert cancelled.is_set()
    assert not (await running).ok
    assert await calls.outcome() == "not_available"
    calls.server.open()
    calls.server.serve("/x", lambda _peer_id, payload: asyncio.sleep(0, result=payload))
    assert await calls.outcome() == ""
