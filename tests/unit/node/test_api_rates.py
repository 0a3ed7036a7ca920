"""The rate limit of a client, over HTTP: what is counted, what is refused and how, and what is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from agentworld_core.codec import encode
from agentworld_core.messages import ActionEnvelope, Actions
from agentworld_node.api import rates
from tests.unit.node.material import registrations, revocation, signer
from tests.unit.node.running import MemoryWorld, RunningNode, get

CBOR = "application/cbor"
SLOW = {"rate_limit_per_second": 4, "rate_limit_burst": 3}

pytestmark = pytest.mark.box("S7.1", "rate")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time of the limit in ms, which stands still until a test changes it."""
    now = [1_000_000]
    monkeypatch.setattr(rates, "_now_ms", lambda: now[0])
    return now


@asynccontextmanager
async def posted(
    node: RunningNode, body: bytes | AsyncIterator[bytes], *, path: str = "/v1/actions", **headers: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"Content-Type": CBOR, **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(node.url + path, data=body, headers=headers) as response,
    ):
        yield response


async def status(node: RunningNode, action: ActionEnvelope, **headers: str) -> int:
    async with posted(node, encode(action), **headers) as response:
        return response.status


async def several(node: RunningNode, actions: Sequence[ActionEnvelope]) -> list[dict[str, Any]]:
    async with posted(node, encode(Actions(tuple(actions)))) as response:
        assert response.status == 200
        return list((await response.json())["results"])


def refused(node: RunningNode) -> str:
    name = "agentworld_actions_refused_total"
    return next((line for line in node.node.metrics.page().splitlines() if line.startswith(f"{name}{{")), "")


async def test_who_is_too_fast_is_told_when_to_come_again_and_then_is_served(
    alone: MemoryWorld, clock: list[int]
) -> None:
    (node,) = await alone.start("g0", **SLOW)
    _, actions = registrations(5)
    assert [await status(node, action) for action in actions[:3]] == [202] * 3
    async with posted(node, encode(actions[3])) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        error = (await response.json())["error"]
    assert (error["code"], error["retryable"], error["retry_after_ms"]) == ("rate_limited", True, 250)
    assert error["message"] == "this address may submit 4 actions a second, and 3 at once"
    assert refused(node) == 'agentworld_actions_refused_total{code="rate_limited"} 1'
    clock[0] += 249
    assert await status(node, actions[3]) == 429
    clock[0] += 1
    assert [await status(node, action) for action in actions[3:]] == [202, 429]
    assert actions[4].action_id not in node.node.mempool


async def test_the_body_of_who_is_too_fast_is_not_waited_for(alone: MemoryWorld, clock: list[int]) -> None:
    (node,) = await alone.start("g0", rate_limit_per_second=1)
    _, (one,) = registrations(1)
    assert await status(node, one) == 202

    async def never() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with posted(node, never()) as response:
        assert response.status == 429


async def test_every_action_of_a_request_counts_and_the_first_ones_are_taken(
    alone: MemoryWorld, clock: list[int]
) -> None:
    (node,) = await alone.start("g0", **SLOW)
    _, actions = registrations(9)
    results = await several(node, actions)
    codes = [result.get("status") or result["error"]["code"] for result in results]
    assert codes == ["pooled"] * 3 + ["rate_limited"] * 6
    # No more than a burst ever goes together, so that nobody need wait for longer than until there is one.
    waits = [result["error"]["retry_after_ms"] for result in results[3:]]
    assert waits == [250, 500, 750, 750, 750, 750]
    assert node.node.mempool.actions() == actions[:3], "and nothing else is passed on"
    assert refused(node) == 'agentworld_actions_refused_total{code="rate_limited"} 6'
    clock[0] += 750
    results = await several(node, actions[3:])
    assert ["error" in result for result in results] == [False] * 3 + [True] * 3


async def test_what_is_no_action_or_was_taken_before_counts_as_well(alone: MemoryWorld, clock: list[int]) -> None:
    (node,) = await alone.start("g0", **SLOW)
    _, (one, other) = registrations(2)
    assert [await status(node, one), await status(node, one)] == [202, 202]
    async with posted(node, b"garbage") as response:
        assert response.status == 400
    assert await status(node, other) == 429


async def test_an_empty_request_counts_as_one(alone: MemoryWorld, clock: list[int]) -> None:
    (node,) = await alone.start("g0", rate_limit_per_second=1)
    _, (one,) = registrations(1)
    assert await several(node, []) == []
    assert await status(node, one) == 429


async def test_a_client_cannot_claim_to_be_another(alone: MemoryWorld, clock: list[int]) -> None:
    (node,) = await alone.start("g0", rate_limit_per_second=1)
    _, actions = registrations(2)
    forwarded = [{"X-Forwarded-For": f"192.0.2.{n}", "Forwarded": f"for=192.0.2.{n}"} for n in range(2)]
    answers = [await status(node, action, **headers) for action, headers in zip(actions, forwarded, strict=True)]
    assert answers == [202, 429]


async def test_reading_and_what_governance_has_signed_are_not_held_up(alone: MemoryWorld, clock: list[int]) -> None:
    (node,) = await alone.start("v0", rate_limit_per_second=1)
    _, actions = registrations(2)
    assert [await status(node, action) for action in actions][1:] == [429]
    for path in ("/v1/status", "/v1/genesis", f"/v1/actions/{actions[0].action_id}", "/metrics", "/readyz"):
        assert (await get(node.url, path))[0] == 200
    statement = revocation(signer("v0").key_id)
    async with posted(node, encode(statement), path="/control/v1/revocations?force=1") as response:
        assert response.status == 200, await response.text()


async def test_without_a_limit_there_is_none(alone: MemoryWorld, clock: list[int]) -> None:
    (node,) = await alone.start("g0")
    _, actions = registrations(300)
    assert [result["status"] for result in await several(node, actions)] == ["pooled"] * 300


async def test_a_client_of_ours_keeps_to_the_rate_by_itself(alone: MemoryWorld) -> None:
    (node,) = await alone.start("v0", rate_limit_per_second=100, rate_limit_burst=8)
    _, actions = registrations(30)
    async with node.client() as client:
        receipts = await client.submit(actions, wait=True)
    assert [(receipt["action_id"], receipt["ok"]) for receipt in receipts] == [(one.action_id, True) for one in actions]
    assert node.node.metrics.total("agentworld_actions_refused_total") > 0
