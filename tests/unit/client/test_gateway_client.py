"""The client of a gateway: what it tries again, what it believes, and how it says what went wrong."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from agentworld_client import gateway as gateway_module
from agentworld_client import submit as submit_module
from agentworld_client.errors import GatewayError, GatewayUnreachable
from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent, submit_all
from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, HashMismatch, InvalidField
from agentworld_core.hashing import content_id
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.messages import ActionEnvelope, Actions, Blocks
from tests.unit.client.scripted import hang_up, refusal, scripted
from tests.unit.core.ledger.chains import Chain, make_head
from tests.unit.core.world.agents import action, register, signer

OK = web.json_response({"status": "fine"})


def results_of(*actions: ActionEnvelope) -> web.Response:
    return web.json_response({"results": [pooled(action) for action in actions]})


def pooled(action: ActionEnvelope) -> dict[str, Any]:
    return {"action_id": action.action_id, "status": "pooled"}


def later(retry_after_ms: object) -> dict[str, Any]:
    error = {"code": "rate_limited", "message": "too fast", "retryable": True, "retry_after_ms": retry_after_ms}
    return {"error": error}


class TestRetries:
    @pytest.mark.box("S1.3", "retry")
    async def test_what_may_succeed_later_is_tried_again(self) -> None:
        busy = refusal(503, "busy", retryable=True)
        answers = (busy, hang_up, web.Response(status=502, body=b"bad gateway"), OK)
        async with scripted(*answers) as gateway, GatewayClient(gateway.url) as client:
            assert await client.status() == {"status": "fine"}
        assert len(gateway.requests) == 4

    @pytest.mark.box("S1.3", "retry")
    async def test_a_submission_that_is_tried_again_is_the_same(self) -> None:
        actions = [register("ada"), register("bob")]
        async with scripted(hang_up, results_of(*actions)) as gateway, GatewayClient(gateway.url) as client:
            assert [item["status"] for item in await client.submit(actions)] == ["pooled", "pooled"]
        bodies = [body for _, _, body in gateway.requests]
        assert bodies == [encode(Actions(tuple(actions)))] * 2

    async def test_large_bodies_are_sent_whole_again(self) -> None:
        actions = [action("ada", "object.create", {"object_id": f"o{n}", "data": "x" * 15_000}, n) for n in range(50)]
        async with scripted(hang_up, results_of(*actions)) as gateway, GatewayClient(gateway.url) as client:
            await client.submit(actions)
        assert [len(body) for _, _, body in gateway.requests] == [len(encode(Actions(tuple(actions))))] * 2

    @pytest.mark.box("S1.3", "retry")
    async def test_what_is_wrong_is_not_tried_again(self) -> None:
        wrong = refusal(400, "invalid_field", retryable=False)
        async with scripted(wrong, OK) as gateway, GatewayClient(gateway.url) as client:
            with pytest.raises(GatewayError) as caught:
                await client.status()
        error = caught.value
        assert (error.code, error.status, error.field, error.remedy, error.retryable) == (
            "invalid_field",
            400,
            "f",
            "r",
            False,
        )
        assert len(gateway.requests) == 1

    @pytest.mark.box("S1.3", "retry")
    async def test_it_comes_again_when_the_gateway_says_and_not_before(self) -> None:
        times: list[float] = []

        async def answer(_: web.Request) -> web.StreamResponse:
            times.append(asyncio.get_running_loop().time())
            return web.json_response(later(300), status=429) if len(times) == 1 else OK

        async with scripted(answer) as gateway, GatewayClient(gateway.url) as client:
            assert await client.status() == {"status": "fine"}
        assert times[1] - times[0] >= 0.3

    async def test_what_the_gateway_says_beyond_patience_is_not_waited_for(self) -> None:
        answer = web.json_response(later(60_000), status=429)
        async with scripted(answer) as gateway, GatewayClient(gateway.url, patience=30) as client:
            with pytest.raises(GatewayError, match="too fast") as caught:
                await client.status()
        assert caught.value.retry_after_ms == 60_000
        assert caught.value.as_dict()["retry_after_ms"] == 60_000
        assert len(gateway.requests) == 1

    @pytest.mark.parametrize("value", [-1, 0, True, 1.5, "1", None, {}, pytest.param(10**400, id="huge")])
    async def test_a_time_to_wait_that_makes_no_sense_is_none(self, value: object) -> None:
        results = web.json_response({"results": [later(value)]})
        async with scripted(results) as gateway, GatewayClient(gateway.url, patience=5) as client:
            assert await client.submit([register("ada")]) == [later(value)]
        refused = web.json_response(later(value), status=429)
        async with scripted(refused) as gateway, GatewayClient(gateway.url, patience=0) as client:
            with pytest.raises(GatewayError) as caught:
                await client.status()
        assert caught.value.retry_after_ms == 0

    @pytest.mark.box("S1.3", "retry")
    async def test_patience_ends(self) -> None:
        busy = refusal(503, "busy", retryable=True)
        async with scripted(busy) as gateway, GatewayClient(gateway.url, patience=0.3) as client:
            with pytest.raises(GatewayError, match="busy"):
                await client.status()
        assert len(gateway.requests) >= 2

    async def test_nobody_there_is_told_with_the_address(self) -> None:
        async with GatewayClient("http://127.0.0.1:1", patience=0) as client:
            with pytest.raises(GatewayUnreachable, match=r"127\.0\.0\.1:1") as caught:
                await client.head()
        assert caught.value.remedy
        with pytest.raises(InvalidField, match=r"'no address'.*http://127\.0\.0\.1:8080"):
            GatewayClient("no address")

    async def test_without_a_context_it_says_so(self) -> None:
        with pytest.raises(RuntimeError, match="context manager"):
            await GatewayClient("http://127.0.0.1:1").status()


class TestAnswers:
    async def ask(self, answer: web.Response, method: str, *arguments: Any) -> Any:
        async with scripted(answer) as gateway, GatewayClient(gateway.url, patience=0) as client:
            return await getattr(client, method)(*arguments)

    async def test_messages_are_decoded_and_checked(self) -> None:
        chain = Chain()
        chain.commit(register("ada"))
        head = make_head(chain.bundles[0])
        assert await self.ask(web.Response(body=encode(head)), "head") == head
        assert await self.ask(web.Response(body=encode(chain.genesis)), "genesis") == chain.genesis
        blocks = web.Response(body=encode(Blocks(tuple(chain.bundles))))
        assert await self.ask(blocks, "blocks", 1) == tuple(chain.bundles)
        assert await self.ask(web.Response(body=b"bytes"), "blob", content_id(b"bytes")) == b"bytes"
        assert await self.ask(web.Response(body=encode(chain.genesis.directory)), "directory") == (
            chain.genesis.directory
        )
        assert genesis_hash(chain.genesis)

    async def test_no_head_yet_is_none(self) -> None:
        assert await self.ask(refusal(404, "not_found", retryable=False), "head") is None

    async def test_a_state_key_that_is_not_there_is_not_found(self) -> None:
        answer = await self.ask(refusal(404, "not_found", retryable=False), "state", "agent/eve")
        assert answer == {"key": "agent/eve", "found": False}

    async def test_state_keys_are_quoted(self) -> None:
        async with scripted(OK) as gateway, GatewayClient(gateway.url) as client:
            await client.state("agent/a?proof=1#x y%2f", proof=True)
        path, _, query = gateway.requests[0][1].partition("?")
        assert (unquote(path), query) == ("/v1/state/agent/a?proof=1#x y%2f", "proof=1")

    @pytest.mark.box("S7.3", "checked")
    async def test_other_bytes_than_asked_for_are_refused(self) -> None:
        with pytest.raises(HashMismatch):
            await self.ask(web.Response(body=b"other"), "blob", content_id(b"bytes"))

    @pytest.mark.parametrize("method", ["head", "genesis", "blocks", "directory"])
    async def test_garbage_is_a_typed_error(self, method: str) -> None:
        with pytest.raises(AgentWorldError):
            await self.ask(web.Response(body=b"garbage"), method, *([1] if method == "blocks" else []))

    @pytest.mark.parametrize("body", [b"", b"garbage", b"[1, 2]", b"3", b"\xff"])
    async def test_json_that_is_none_is_a_typed_error(self, body: bytes) -> None:
        for method in ("status", "receipt"):
            with pytest.raises(GatewayError, match="cannot be understood"):
                await self.ask(web.Response(body=body), method, *(["a" * 64] if method == "receipt" else []))

    @pytest.mark.parametrize("body", [b"{}", b'{"results": 3}', b'{"results": []}'])
    async def test_receipts_must_be_as_many_as_actions(self, body: bytes) -> None:
        with pytest.raises(GatewayError, match="1 results expected"):
            await self.ask(web.Response(body=body), "submit", [register("ada")])

    async def test_receipts_must_be_objects(self) -> None:
        with pytest.raises(GatewayError, match="results are objects"):
            await self.ask(web.Response(body=b'{"results": [3]}'), "submit", [register("ada")])

    @pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": 3}', b'{"error": {}}', b"[]"])
    async def test_errors_of_others_are_errors_too(self, body: bytes) -> None:
        with pytest.raises(GatewayError) as caught:
            await self.ask(web.Response(status=418, body=body), "status")
        assert caught.value.status == 418

    async def test_an_answer_without_end_is_not_read_to_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gateway_module, "MAX_ANSWER_BYTES", 1000)
        with pytest.raises(GatewayError, match="more than 1000 bytes"):
            await self.ask(web.Response(body=bytes(100_000)), "blob", "a" * 64)


class TestEvents:
    async def follow(self, body: bytes, *, status: int = 200) -> list[dict[str, Any]]:
        answer = web.Response(status=status, body=body)
        async with scripted(answer) as gateway, GatewayClient(gateway.url) as client:
            return [document async for document in client.events(3)]

    async def test_documents_of_any_length_are_yielded_until_the_node_goes_away(self) -> None:
        long = {"height": 4, "events": ["x" * 2_000_000]}
        body = b": alive\n\nid: 3\nevent: block\ndata: " + json.dumps({"height": 3}).encode() + b"\n\n"
        body += b"data: " + json.dumps(long).encode() + b"\n\ndata: {"
        assert await self.follow(body) == [{"height": 3}, long]

    async def test_what_is_no_document_or_has_no_end_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(GatewayError):
            await self.follow(b"data: garbage\n")
        with pytest.raises(GatewayError):
            await self.follow(json.dumps({"error": {"code": "busy", "message": "busy"}}).encode(), status=503)
        monkeypatch.setattr(gateway_module, "MAX_ANSWER_BYTES", 1000)
        with pytest.raises(GatewayError, match="in one line"):
            await self.follow(b"data: " + b"x" * 100_000)


class TestSubmitting:
    async def test_an_agent_never_uses_a_nonce_twice_also_after_a_restart(self) -> None:
        clock = 1_700_000_000_000_000_000

        def agent() -> Agent:
            return Agent(signer("ada"), world_id="aurora", actor_id="ada", clock=lambda: clock)

        first, second = agent(), agent()
        nonces = [first.act("agent.move", {"to": [n, n]}).nonce for n in range(100)]
        assert nonces == sorted(set(nonces))
        clock += 1_000_000
        second = agent()
        assert second.act("agent.move", {"to": [0, 0]}).nonce > nonces[-1]

    async def test_many_actions_go_in_requests_that_a_gateway_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(submit_module, "SUBMIT_CHUNK", 10)

        async def answer(request: web.Request) -> web.StreamResponse:
            actions = decode(Actions, await request.read()).actions
            return results_of(*actions)

        small = [action("ada", "agent.move", {"to": [n, n]}, n) for n in range(25)]
        large = [action("bob", "object.create", {"object_id": f"o{n}", "data": "x" * 16_000}, n) for n in range(5)]
        async with scripted(answer) as gateway, GatewayClient(gateway.url) as client:
            receipts = await submit_all(client, small)
            assert [receipt["action_id"] for receipt in receipts] == [one.action_id for one in small]
            assert len(gateway.requests) == 3
            monkeypatch.setattr(submit_module, "SUBMIT_BYTES", 40_000)
            await submit_all(client, large)
            assert len(gateway.requests) == 6
            assert await submit_all(client, []) == []

    async def test_receipts_are_not_lost_when_a_later_request_gets_no_answer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(submit_module, "SUBMIT_CHUNK", 2)
        answers = (results_of(*ACTIONS[:2]), hang_up)
        async with scripted(*answers) as gateway, GatewayClient(gateway.url, patience=0) as client:
            receipts = await submit_all(client, ACTIONS)
        assert receipts[:2] == [pooled(one) for one in ACTIONS[:2]]
        assert [(one["action_id"], one["error"]["code"]) for one in receipts[2:]] == [
            (one.action_id, "gateway_unreachable") for one in ACTIONS[2:]
        ]
        assert len(gateway.requests) == 2, "nothing more is sent to who does not answer"

    async def test_without_any_receipt_of_many_no_answer_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(submit_module, "SUBMIT_CHUNK", 2)
        async with scripted(hang_up) as gateway, GatewayClient(gateway.url, patience=0) as client:
            with pytest.raises(GatewayUnreachable):
                await submit_all(client, ACTIONS)


ACTIONS = [register(name) for name in ("ada", "bob", "cyd", "dan", "eve")]


class TestRateLimit:
    """A gateway takes some actions of each request, and wants the others later, as one with a rate limit does."""

    async def submit(self, *, takes: int, patience: float, wait_ms: int = 1) -> tuple[list[dict[str, Any]], list[int]]:
        """Returns the receipts, and how many actions each request had."""
        sizes: list[int] = []

        async def answer(request: web.Request) -> web.StreamResponse:
            actions = decode(Actions, await request.read()).actions
            sizes.append(len(actions))
            rows = [pooled(action) for action in actions[:takes]]
            return web.json_response({"results": rows + [later(wait_ms)] * (len(actions) - len(rows))})

        async with scripted(answer) as gateway, GatewayClient(gateway.url, patience=patience) as client:
            return await client.submit(ACTIONS), sizes

    @pytest.mark.box("S7.1", "rate")
    async def test_what_was_refused_goes_again_and_nothing_else_while_some_of_it_is_taken(self) -> None:
        receipts, sizes = await self.submit(takes=2, patience=10)
        assert receipts == [pooled(action) for action in ACTIONS]
        assert sizes == [5, 3, 1]

    async def test_patience_begins_anew_with_every_action_that_is_taken(self) -> None:
        receipts, sizes = await self.submit(takes=1, patience=0.35, wait_ms=200)
        assert receipts == [pooled(action) for action in ACTIONS]
        assert sizes == [5, 4, 3, 2, 1]

    async def test_who_waited_for_a_commit_in_vain_does_not_wait_anew_for_each_of_the_others(self) -> None:
        rows = [pooled(action) for action in ACTIONS[:3]]
        answers = [
            web.json_response({"results": found}) for found in ([rows[0], later(1), later(1)], [rows[1], later(1)])
        ]
        last = web.json_response({"results": [rows[2]]})
        async with scripted(*answers, last) as gateway, GatewayClient(gateway.url) as client:
            assert await client.submit(ACTIONS[:3], wait=True) == rows
        assert ["wait=committed" in path for _, path, _ in gateway.requests] == [True, False, False]

    async def test_when_nothing_is_taken_patience_ends_and_says_why(self) -> None:
        receipts, sizes = await self.submit(takes=0, patience=0.35)
        assert receipts == [later(1)] * 5
        assert 2 <= len(sizes) <= 4, "a gateway that says 1 ms is not asked a thousand times a second"

    async def test_without_patience_the_refusals_come_back_at_once(self) -> None:
        receipts, sizes = await self.submit(takes=2, patience=0)
        assert receipts == [pooled(action) for action in ACTIONS[:2]] + [later(1)] * 3
        assert sizes == [5]

    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (hang_up, "gateway_unreachable"),
            (refusal(429, "rate_limited", retryable=True), "rate_limited"),
            (web.json_response(later(60_000), status=429), "rate_limited"),
            (web.json_response({"results": []}), "bad_answer"),
        ],
    )
    async def test_receipts_are_not_lost_when_the_rest_gets_no_answer(self, answer: Any, code: str) -> None:
        first = web.json_response({"results": [pooled(ACTIONS[0]), later(1), later(1)]})
        async with scripted(first, answer) as gateway, GatewayClient(gateway.url, patience=0.3) as client:
            taken, *others = await client.submit(ACTIONS[:3])
        assert taken == pooled(ACTIONS[0])
        assert [other["error"]["code"] for other in others] == [code] * 2
        assert [other["action_id"] for other in others] == [one.action_id for one in ACTIONS[1:3]]

    async def test_without_any_receipt_no_answer_is_an_error(self) -> None:
        first = web.json_response({"results": [later(1)]})
        async with scripted(first, hang_up) as gateway, GatewayClient(gateway.url, patience=0.3) as client:
            with pytest.raises(GatewayUnreachable):
                await client.submit(ACTIONS[:1])
