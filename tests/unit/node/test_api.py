"""The HTTP API of a node: every endpoint, and what wrong requests get."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from agentworld_client.documents import document
from agentworld_client.gateway import GatewayClient
from agentworld_core.codec import decode, encode
from agentworld_core.hashing import content_id
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.messages import (
    ActionEnvelope,
    Actions,
    BlockBundle,
    Blocks,
    Directory,
    Genesis,
    Revocations,
    WorldHeadAnnounce,
)
from agentworld_core.ordering import mempool
from agentworld_core.ordering.mempool import RETRY_AFTER_MS
from agentworld_core.signing import sign
from agentworld_core.world.actions import sign_action
from agentworld_node.api import limits
from agentworld_node.api.openapi import openapi_document
from agentworld_node.api.server import build_app
from tests.unit.node.material import agent, make_genesis, next_epoch, registrations, revocation, signer
from tests.unit.node.running import MemoryWorld, RunningNode, eventually

CBOR = "application/cbor"


class Http:
    """A client that shows what is on the wire."""

    def __init__(self, session: aiohttp.ClientSession, url: str):
        self.session = session
        self.url = url

    async def get(self, path: str, *, accept: str = "application/json") -> tuple[int, Any]:
        async with self.session.get(self.url + path, headers={"Accept": accept}) as response:
            body = await response.read()
            return response.status, body if accept == CBOR and response.status == 200 else json.loads(body)

    async def post(self, path: str, body: bytes | dict[str, Any], *, kind: str = "") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = kind or (CBOR if isinstance(body, bytes) else "application/json")
        async with self.session.post(self.url + path, data=data, headers={"Content-Type": kind}) as response:
            return response.status, json.loads(await response.read())


@pytest.fixture
async def http(node: RunningNode) -> AsyncIterator[Http]:
    async with aiohttp.ClientSession() as session:
        yield Http(session, node.url)


def error_of(answer: tuple[int, Any]) -> tuple[int, str, str | None]:
    status, body = answer
    assert set(body) == {"error"}, body
    assert {"code", "message", "retryable"} <= set(body["error"])
    return status, body["error"]["code"], body["error"].get("field")


async def committed(http: Http, *actions: ActionEnvelope) -> list[dict[str, Any]]:
    status, body = await http.post("/v1/actions?wait=committed", encode(Actions(tuple(actions))))
    assert status == 200
    assert [item["status"] for item in body["results"]] == ["committed"] * len(actions), body
    return list(body["results"])


class TestSubmit:
    @pytest.mark.box("S7.1", "receipt")
    async def test_one_action_as_cbor_is_pooled_and_then_committed(self, http: Http) -> None:
        action = agent("ada").act("agent.register", {"position": [0, 0]})
        status, body = await http.post("/v1/actions", encode(action))
        assert (status, body) in (
            (202, {"action_id": action.action_id, "status": "pooled", "accepted_at_ms": body.get("accepted_at_ms")}),
            (200, {**body, "status": "committed"}),
        )
        status, body = await http.post("/v1/actions?wait=committed", encode(action))
        assert (status, body["status"], body["duplicate"]) == (200, "committed", True)
        status, body = await http.get(f"/v1/actions/{action.action_id}")
        assert (status, body["status"], body["height"], body["ok"]) == (200, "committed", 1, True)

    async def test_json_is_as_good_as_cbor(self, http: Http) -> None:
        ada, bob = agent("ada"), agent("bob")
        one = ada.act("agent.register", {"position": [0, 0]})
        status, body = await http.post("/v1/actions?wait=committed", document(one))
        assert (status, body["status"], body["ok"]) == (200, "committed", True)
        two = bob.act("agent.register", {"position": [1, 1]})
        status, body = await http.post("/v1/actions?wait=committed", {"actions": [document(one), document(two)]})
        assert status == 200
        assert [item["action_id"] for item in body["results"]] == [one.action_id, two.action_id]
        assert [item.get("duplicate", False) for item in body["results"]] == [True, False]

    @pytest.mark.box("S5.1", "duplicate")
    async def test_a_duplicate_gets_the_first_receipt_for_ever(self, http: Http, node: RunningNode) -> None:
        ada = agent("ada")
        register, move = ada.act("agent.register", {"position": [0, 0]}), ada.act("agent.move", {"to": [3, 4]})
        first = await committed(http, register, move)
        await committed(http, ada.act("agent.move", {"to": [5, 5]}))
        height = node.height
        again = await committed(http, move, register)
        assert again == [{**first[1], "duplicate": True}, {**first[0], "duplicate": True}]
        assert node.height == height, "duplicates make no block"

    async def test_a_batch_answers_for_each_action(self, http: Http) -> None:
        ada = agent("ada")
        good = ada.act("agent.register", {"position": [0, 0]})
        broken = dataclasses.replace(ada.act("agent.move", {"to": [1, 1]}), signature=bytes(64))
        stranger = agent("eve").act("agent.move", {"to": [1, 1]})
        status, body = await http.post("/v1/actions?wait=committed", encode(Actions((good, broken, stranger, good))))
        assert status == 200
        results = body["results"]
        assert results[0]["status"] == "committed"
        assert results[1]["error"]["code"] == "invalid_signature"
        assert results[2]["error"]["code"] == "unauthorized"
        assert results[3]["duplicate"] is True

    async def test_an_action_that_fails_is_committed_with_its_reason(self, http: Http) -> None:
        ada = agent("ada")
        receipts = await committed(
            http,
            ada.act("agent.register", {"position": [0, 0]}),
            ada.act("message.send", {"to": "nobody", "body": "hello"}),
        )
        assert receipts[1]["ok"] is False
        assert receipts[1]["code"]

    @pytest.mark.box("S7.1", "verified")
    @pytest.mark.parametrize(
        ("change", "status", "code", "field"),
        [
            ({"signature": bytes(64)}, 401, "invalid_signature", "signature"),
            ({"payload_hash": "a" * 64}, 400, "hash_mismatch", "payload_hash"),
            ({"action_id": "a" * 64}, 400, "hash_mismatch", "action_id"),
            ({"nonce": 3}, 400, "hash_mismatch", "action_id"),
        ],
    )
    async def test_what_was_changed_on_the_way_is_refused(
        self, http: Http, change: dict[str, Any], status: int, code: str, field: str
    ) -> None:
        action = dataclasses.replace(agent("ada").act("agent.register", {"position": [0, 0]}), **change)
        assert error_of(await http.post("/v1/actions", encode(action))) == (status, code, field)

    @pytest.mark.box("S7.1", "verified", "other-world")
    @pytest.mark.parametrize(
        ("change", "status", "code", "field"),
        [
            ({"world_id": "other"}, 400, "wrong_world", "world_id"),
            ({"nonce": 2**63}, 400, "invalid_field", "nonce"),
            ({"timestamp_ms": 2**53}, 400, "invalid_field", "timestamp_ms"),
            ({"actor_id": "stranger", "action_kind": "agent.move"}, 403, "unauthorized", "actor_id"),
            ({"actor_id": "bob", "action_kind": "agent.fly"}, 400, "unsupported", "payload_cbor"),
            ({"payload_cbor": b"\xa0", "payload_hash": content_id(b"\xa0")}, 400, "invalid_field", "payload_cbor"),
            ({"payload_cbor": b"\xff", "payload_hash": content_id(b"\xff")}, 400, "invalid_field", "payload_cbor"),
        ],
    )
    async def test_what_is_signed_and_wrong_is_refused_with_the_field(
        self, http: Http, change: dict[str, Any], status: int, code: str, field: str
    ) -> None:
        await committed(http, agent("bob").act("agent.register", {"position": [0, 0]}))
        actor = change.get("actor_id", "ada")
        action = dataclasses.replace(agent(actor).act("agent.register", {"position": [0, 0]}), **change)
        answer = await http.post("/v1/actions", encode(sign_action(action, signer(actor))))
        assert error_of(answer) == (status, code, field)

    @pytest.mark.box("S7.1", "verified")
    async def test_another_key_and_a_spent_nonce_are_refused(self, http: Http) -> None:
        ada = agent("ada")
        register = ada.act("agent.register", {"position": [0, 0]})
        await committed(http, register)
        forged = sign_action(ada.act("agent.move", {"to": [1, 1]}), signer("eve"))
        assert error_of(await http.post("/v1/actions", encode(forged))) == (403, "unauthorized", "public_key")
        reused = dataclasses.replace(ada.act("agent.move", {"to": [1, 1]}), nonce=register.nonce)
        answer = await http.post("/v1/actions", encode(sign_action(reused, signer("ada"))))
        assert error_of(answer) == (409, "nonce_used", "nonce")

    @pytest.mark.box("S7.1", "malformed")
    @pytest.mark.parametrize(
        ("body", "kind", "status", "code"),
        [
            (b"", CBOR, 400, "malformed_encoding"),
            (b"\x81", CBOR, 400, "malformed_encoding"),
            (b"\xff" * 100, CBOR, 400, "malformed_encoding"),
            (encode(Actions(())) + b"\x00", CBOR, 400, "malformed_encoding"),
            (b"\x9f" * 5000, CBOR, 400, "malformed_encoding"),
            (b"{", "application/json", 400, "invalid_field"),
            (b"\xff\xfe", "application/json", 400, "invalid_field"),
            (b"[" * 100_000, "application/json", 400, "invalid_field"),
            (b"[]", "application/json", 400, "invalid_field"),
            (b"3", "application/json", 400, "invalid_field"),
            (b"1" * 10_000, "application/json", 400, "invalid_field"),
            (b'{"actions": {}}', "application/json", 400, "invalid_field"),
            (b'{"actions": [3]}', "application/json", 400, "invalid_field"),
            (b'{"actions": [{"world_id": "w"}]}', "application/json", 400, "invalid_field"),
            (b'{"wrold_id": "w"}', "application/json", 400, "invalid_field"),
            (b"x", "text/plain", 415, "unsupported"),
            (b"x", "application/octet-stream", 415, "unsupported"),
        ],
    )
    async def test_bodies_that_are_no_action_are_refused(
        self, http: Http, body: bytes, kind: str, status: int, code: str
    ) -> None:
        assert error_of(await http.post("/v1/actions", body, kind=kind))[:2] == (status, code)

    async def test_json_names_the_field_that_is_wrong(self, http: Http) -> None:
        good = document(agent("ada").act("agent.register", {"position": [0, 0]}))
        for field, value in (("signature", "zz"), ("nonce", "7"), ("nonce", -1), ("nonce", 1.5), ("payload_cbor", 7)):
            answer = await http.post("/v1/actions", {"actions": [{**good, field: value}]})
            status, _, named = error_of(answer)
            assert status == 400
            assert named is not None
            assert named.endswith(field), named

    async def test_a_list_of_nothing_is_answered_with_nothing(self, http: Http) -> None:
        assert await http.post("/v1/actions", encode(Actions(()))) == (200, {"results": []})

    @pytest.mark.parametrize(
        "query",
        ["wait=soon", "timeout_s=0", "timeout_s=121", "timeout_s=x", "timeout_s=-1", "timeout_s=1e3", "timeout_s="],
    )
    async def test_wrong_queries_are_refused(self, http: Http, query: str) -> None:
        action = agent("ada").act("agent.register", {"position": [0, 0]})
        status, code, field = error_of(await http.post(f"/v1/actions?{query}", encode(action)))
        assert (status, code, field) == (400, "invalid_field", query.split("=", maxsplit=1)[0])

    @pytest.mark.box("S7.1", "oversized")
    async def test_a_body_that_is_too_large_is_refused(self, http: Http) -> None:
        for path in ("/v1/actions", "/control/v1/directories"):
            data = io.BytesIO(bytes(limits.MAX_BODY_BYTES + 1))
            async with http.session.post(http.url + path, data=data, headers={"Content-Type": CBOR}) as response:
                assert error_of((response.status, await response.json()))[:2] == (413, "too_large")

    async def test_a_body_that_does_not_come_is_given_up(self, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)

        async def never() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

        request = http.session.post(f"{http.url}/v1/actions", data=never(), headers={"Content-Type": CBOR})
        async with request as response:
            assert error_of((response.status, await response.json()))[:2] == (504, "timed_out")

    @pytest.mark.box("S7.1", "load")
    async def test_only_so_many_bodies_are_read_at_once(self, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "BODIES_AT_ONCE", 0)
        answer = await http.post("/v1/actions", b"x")
        assert error_of(answer)[:2] == (503, "busy")
        assert answer[1]["error"]["retryable"] is True

    @pytest.mark.box("S7.1", "load")
    async def test_who_never_ends_its_bodies_holds_up_nobody_but_itself(
        self, http: Http, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "BODIES_AT_ONCE", 4)
        server = urlsplit(http.url)
        slow = [await asyncio.open_connection(server.hostname, server.port) for _ in range(2)]
        try:
            for _, writer in slow:
                writer.write(b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/cbor\r\n")
                writer.write(b"Content-Length: 9\r\n\r\n")
            async with asyncio.timeout(10):
                while error_of(await http.post("/v1/actions", b"x"))[:2] != (503, "busy"):
                    pass  # until both are being read
            elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
            async with aiohttp.ClientSession(connector=elsewhere) as session:
                answer = await Http(session, http.url).post("/v1/actions", b"x")
            assert error_of(answer)[:2] == (400, "malformed_encoding")
        finally:
            for _, writer in slow:
                writer.close()


class TestWaiting:
    @pytest.fixture
    async def stuck(self, alone: MemoryWorld) -> RunningNode:
        """A gateway without its validator: nothing that it takes is ever committed."""
        return (await alone.start("g0"))[0]

    async def test_what_is_not_committed_in_time_gets_504_and_stays_pooled(self, stuck: RunningNode) -> None:
        action = agent("ada").act("agent.register", {"position": [0, 0]})
        async with aiohttp.ClientSession() as session:
            http = Http(session, stuck.url)
            status, body = await http.post("/v1/actions?wait=committed&timeout_s=1", encode(action))
            assert (status, body["action_id"], body["status"]) == (504, action.action_id, "pooled")
            assert body["accepted_at_ms"] > action.timestamp_ms - 60_000
            first = body
            status, body = await http.post("/v1/actions?wait=committed&timeout_s=1", encode(Actions((action,))))
            assert (status, body["results"][0]["status"]) == (200, "pooled")
            assert await http.get(f"/v1/actions/{action.action_id}") == (200, first)
        assert len(stuck.node.gateway._waiters) == 0

    async def test_clients_that_go_away_leave_nothing_behind(self, stuck: RunningNode) -> None:
        action = agent("ada").act("agent.register", {"position": [0, 0]})
        async with aiohttp.ClientSession() as session:
            requests = [
                asyncio.create_task(
                    session.post(
                        f"{stuck.url}/v1/actions?wait=committed&timeout_s=1",
                        data=encode(action),
                        headers={"Content-Type": CBOR},
                    )
                )
                for _ in range(20)
            ]
            await eventually(lambda: len(stuck.node.gateway._waiters) == 20)
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
        await eventually(lambda: len(stuck.node.gateway._waiters) == 0)
        assert stuck.node.gateway._waiters._groups == {}

    async def test_who_waits_when_the_node_is_stopped_is_answered_and_not_cut_off(self, stuck: RunningNode) -> None:
        action = agent("ada").act("agent.register", {"position": [0, 0]})
        async with aiohttp.ClientSession() as session:
            http = Http(session, stuck.url)
            answer = asyncio.create_task(http.post("/v1/actions?wait=committed&timeout_s=60", encode(action)))
            await eventually(lambda: len(stuck.node.gateway._waiters) == 1)
            await stuck.stop()
            status, body = await answer
        assert (status, body["action_id"], body["status"]) == (504, action.action_id, "pooled")
        assert len(stuck.node.gateway._waiters) == 0

    @pytest.mark.box("S7.1", "load")
    async def test_a_node_that_is_full_or_stopping_takes_nothing(self, stuck: RunningNode) -> None:
        action = agent("ada").act("agent.register", {"position": [0, 0]})
        async with aiohttp.ClientSession() as session:
            http = Http(session, stuck.url)
            stuck.node.ledger.full = True
            assert error_of(await http.post("/v1/actions", encode(action)))[:2] == (503, "busy")
            stuck.node.ledger.full = False
            assert (await http.post("/v1/actions", encode(action)))[0] == 202

    @pytest.mark.box("S7.1", "load")
    @pytest.mark.box("S5.1", "actor-limit", "full", "room")
    async def test_a_full_mempool_says_when_to_try_again(self, alone: MemoryWorld) -> None:
        (stuck,) = await alone.start("g0", mempool_max_actions=2, mempool_max_per_actor=1)
        agents, actions = registrations(3)
        async with aiohttp.ClientSession() as session:
            http = Http(session, stuck.url)
            _, body = await http.post("/v1/actions", encode(Actions(tuple(actions))))
            assert [item.get("status") or item["error"]["code"] for item in body["results"]] == [
                "pooled",
                "pooled",
                "busy",
            ]
            assert body["results"][2]["error"]["retry_after_ms"] == RETRY_AFTER_MS
            second = agents[0].act("agent.move", {"to": [1, 1]})
            for action, refusal in ((actions[2], (503, "busy")), (second, (429, "actor_limit"))):
                request = session.post(f"{stuck.url}/v1/actions", data=encode(action), headers={"Content-Type": CBOR})
                async with request as response:
                    assert response.headers["Retry-After"] == str(RETRY_AFTER_MS // 1000)
                    answer = (response.status, await response.json())
                assert error_of(answer)[:2] == refusal
                assert answer[1]["error"]["retry_after_ms"] == RETRY_AFTER_MS

    @pytest.mark.box("S5.1", "room")
    @pytest.mark.parametrize("limit", ["mempool_max_actions", "mempool_max_per_actor", "mempool_max_per_source"])
    async def test_a_client_of_ours_comes_again_when_there_is_room(
        self, alone: MemoryWorld, monkeypatch: pytest.MonkeyPatch, limit: str
    ) -> None:
        monkeypatch.setattr(mempool, "RETRY_AFTER_MS", 100)
        (node,) = await alone.start("v0", **{limit: 2})
        ada = agent("ada")
        actions = [ada.act("agent.register", {"position": [0, 0]})]
        actions += [ada.act("agent.move", {"to": [n, n]}) for n in range(4)]
        async with node.client() as client:
            receipts = await client.submit(actions, wait=True)
        assert [(receipt["action_id"], receipt["ok"]) for receipt in receipts] == [
            (one.action_id, True) for one in actions
        ]
        assert node.node.metrics.total("agentworld_actions_refused_total") == 3 + 1


class TestReading:
    @pytest.mark.box("S19.1", "no-head")
    @pytest.mark.box("S25.3", "head-at-the-commit")
    @pytest.mark.box("S25.2", "no-head-before-a-commit")
    async def test_before_the_first_block(self, http: Http, node: RunningNode) -> None:
        assert error_of(await http.get("/v1/head")) == (404, "not_found", None)
        status, body = await http.get("/v1/genesis")
        assert (status, body["genesis_hash"]) == (200, genesis_hash(node.node.ledger.genesis))
        status, raw = await http.get("/v1/genesis", accept=CBOR)
        assert decode(Genesis, raw) == node.node.ledger.genesis
        status, body = await http.get("/v1/status")
        assert (status, body["head"]["height"], body["sync"]["state"]) == (200, 0, "in_sync")

    @pytest.mark.box("S25.3", "head-at-the-commit")
    @pytest.mark.box("S25.2", "no-head-before-a-commit")
    async def test_blocks_and_head(self, http: Http, node: RunningNode) -> None:
        _, actions = registrations(2)
        await committed(http, actions[0])
        await committed(http, actions[1])
        status, raw = await http.get("/v1/head", accept=CBOR)
        head = decode(WorldHeadAnnounce, raw)
        status, body = await http.get("/v1/head")
        assert (status, body["height"], body["block_hash"]) == (200, 2, head.block_hash)
        status, raw = await http.get("/v1/blocks?from=1&limit=5", accept=CBOR)
        bundles = decode(Blocks, raw).bundles
        assert [bundle.block.height for bundle in bundles] == [1, 2]
        for name in ("2", head.block_hash):
            status, raw = await http.get(f"/v1/blocks/{name}", accept=CBOR)
            assert decode(BlockBundle, raw) == bundles[1]
            status, body = await http.get(f"/v1/blocks/{name}")
            assert (status, body["block"]["height"]) == (200, 2)
        assert decode(Blocks, (await http.get("/v1/blocks?from=3", accept=CBOR))[1]).bundles == ()

    @pytest.mark.parametrize(
        ("path", "status", "code"),
        [
            ("/v1/blocks/7", 404, "not_found"),
            ("/v1/blocks/" + "a" * 64, 404, "not_found"),
            ("/v1/blocks/latest", 400, "invalid_field"),
            ("/v1/blocks/-1", 400, "invalid_field"),
            ("/v1/blocks/99999999999999999999", 400, "invalid_field"),
            ("/v1/blocks?from=0", 400, "invalid_field"),
            ("/v1/blocks?from=x", 400, "invalid_field"),
            ("/v1/blocks?limit=0", 400, "invalid_field"),
            ("/v1/blocks?limit=1000000", 400, "invalid_field"),
            ("/v1/directories/2", 404, "not_found"),
            ("/v1/directories/newest", 400, "invalid_field"),
            ("/v1/actions/" + "a" * 64, 404, "not_found"),
            ("/v1/actions/xyz", 400, "invalid_field"),
            ("/v1/state/agent/nobody", 404, "not_found"),
            ("/v1/state/agent/nobody?proof=maybe", 400, "invalid_field"),
            ("/v1/state/%ff%fe", 404, "not_found"),
            ("/v1/blobs/" + "a" * 64, 404, "blob_not_found"),
            ("/v1/blobs/../../etc/passwd", 404, "not_found"),
            ("/v1/blobs/" + "A" * 64, 400, "invalid_field"),
            ("/v1/events?from=x", 400, "invalid_field"),
            ("/v2/anything", 404, "not_found"),
            ("/", 404, "not_found"),
        ],
    )
    async def test_wrong_questions_get_typed_errors(self, http: Http, path: str, status: int, code: str) -> None:
        assert error_of(await http.get(path))[:2] == (status, code)

    async def test_a_wrong_method_says_which_are_right(self, http: Http) -> None:
        async with http.session.delete(f"{http.url}/v1/head") as response:
            assert error_of((response.status, await response.json()))[:2] == (405, "unsupported")
            assert "GET" in response.headers["Allow"]

    async def test_state_with_proof_and_blobs(self, http: Http, node: RunningNode) -> None:
        ada = agent("ada")
        await committed(http, ada.act("agent.register", {"position": [3, 4]}))
        status, body = await http.get("/v1/state/agent/ada?proof=1")
        assert (status, body["found"]) == (200, True)
        assert body["value"]["position"] == [3, 4]
        status, body = await http.get("/v1/state/agent/nobody?proof=1")
        assert (status, body["found"]) == (200, False)
        bundle = node.node.ledger.bundle(1)
        assert bundle is not None
        async with http.session.get(f"{http.url}/v1/blobs/{bundle.block.action_root}") as response:
            assert content_id(await response.read()) == bundle.block.action_root

    async def test_state_is_listed_by_prefix_in_pages(self, http: Http) -> None:
        ada = agent("ada")
        register = ada.act("agent.register", {"position": [0, 0]})
        create = [ada.act("object.create", {"object_id": f"box-{n}", "data": n}) for n in range(5)]
        await committed(http, register, *create)
        found: list[Any] = []
        after = ""
        while True:
            status, page = await http.get(f"/v1/state?prefix=object/&after={after}&limit=2")
            assert (status, page["height"], len(page["entries"]) <= 2) == (200, 1, True)
            found += page["entries"]
            after = page["next"]
            if after is None:
                break
        assert [(item["key"], item["value"]["data"]) for item in found] == [(f"object/box-{n}", n) for n in range(5)]
        async with GatewayClient(http.url) as client:
            assert await client.state_entries("object/") == found
            assert await client.state_entries("object/", most=3) == found[:3]
            assert await client.state_entries("nothing/") == []

    async def test_everything_an_agent_may_store_can_be_read_as_json(self, http: Http) -> None:
        ada = agent("ada")
        data: Any = {"": None, "ключ": [True, -(2**63), 2**64 - 1, b"\x00\xff", "\u2028<>"], "nested": {"a": {"b": []}}}
        register = ada.act("agent.register", {"position": [0, 0]})
        receipts = await committed(http, register, ada.act("object.create", {"object_id": "box", "data": data}))
        assert all(receipt["ok"] for receipt in receipts), receipts
        status, body = await http.get("/v1/state/object/box")
        assert status == 200
        assert body["value"]["data"]["ключ"][1] == -(2**63)

    async def test_directories_and_revocations(self, http: Http, node: RunningNode) -> None:
        for name in ("latest", "1"):
            _, raw = await http.get(f"/v1/directories/{name}", accept=CBOR)
            assert decode(Directory, raw) == node.node.ledger.genesis.directory
        assert (await http.get("/v1/directories/latest"))[1]["epoch"] == 1
        _, raw = await http.get("/v1/revocations", accept=CBOR)
        assert decode(Revocations, raw).statements == ()
        assert (await http.get("/v1/revocations"))[1]["statements"] == []

    async def test_status_probes_and_metrics(self, http: Http, node: RunningNode) -> None:
        await committed(http, *registrations(2)[1])
        _, status = await http.get("/v1/status")
        assert status["signing"]["voting"] is True
        assert status["head"]["signers"] == 1
        assert status["writer"]["holder"] == "v0"
        for path in ("/livez", "/readyz"):
            async with http.session.get(http.url + path) as response:
                assert (response.status, await response.text()) == (200, "ok\n")
        async with http.session.get(f"{http.url}/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            page = await response.text()
        assert f"agentworld_head_height {node.height}\n" in page
        assert "agentworld_actions_committed_total 2\n" in page


class TestFollowing:
    async def read(self, response: aiohttp.ClientResponse, count: int) -> list[tuple[int, dict[str, Any]]]:
        found: list[tuple[int, dict[str, Any]]] = []
        number = 0
        async for line in response.content:
            if line.startswith(b"id: "):
                number = int(line[4:])
            if line.startswith(b"data: "):
                found.append((number, json.loads(line[6:])))
                if len(found) == count:
                    break
        return found

    async def test_blocks_are_followed_from_the_past_into_the_future_and_resumed(self, http: Http) -> None:
        agents, actions = registrations(2)
        await committed(http, actions[0])
        async with http.session.get(f"{http.url}/v1/events?from=1") as response:
            reading = asyncio.create_task(self.read(response, 2))
            await committed(http, actions[1])
            found = await reading
        assert [(number, item["height"]) for number, item in found] == [(1, 1), (2, 2)]
        assert actions[0].action_id in [event["caused_by"] for event in found[0][1]["events"]]
        await committed(http, agents[0].act("agent.move", {"to": [9, 9]}))
        headers = {"Last-Event-ID": "2"}
        async with http.session.get(f"{http.url}/v1/events", headers=headers) as response:
            assert [number for number, _ in await self.read(response, 1)] == [3]

    async def test_without_a_start_it_begins_with_the_next_block(self, http: Http) -> None:
        _, actions = registrations(2)
        await committed(http, actions[0])
        async with http.session.get(f"{http.url}/v1/events") as response:
            assert response.content_type == "text/event-stream"
            await committed(http, actions[1])
            assert [number for number, _ in await self.read(response, 1)] == [2]

    async def test_streams_are_counted_and_end_when_the_node_stops(
        self, http: Http, node: RunningNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "STREAMS_AT_ONCE", 1)
        async with http.session.get(f"{http.url}/v1/events") as response:
            assert error_of(await http.get("/v1/events"))[:2] == (503, "busy")
            node.node.stop()
            assert await response.content.read() == b""

    async def test_a_block_that_cannot_be_read_ends_the_stream(self, http: Http, node: RunningNode) -> None:
        _, actions = registrations(1)
        await committed(http, *actions)
        bundle = node.node.ledger.bundle(1)
        assert bundle is not None
        for segment in bundle.block.segments:
            node.node.ledger._stores.blobs.delete(segment.content_hash)
        async with http.session.get(f"{http.url}/v1/events?from=1") as response:
            assert response.status == 200
            assert await response.content.read() == b""


class TestControl:
    @pytest.mark.box("S27.1", "open-proposals")
    async def test_the_next_directory_is_taken_and_then_committed(self, http: Http, node: RunningNode) -> None:
        directory = next_epoch(node.node.ledger.genesis.directory)
        status, body = await http.post("/control/v1/directories", encode(directory))
        assert (status, body["epoch"], body["status"]) == (200, 2, "waiting")
        await eventually(lambda: node.node.ledger.chain.directory_at(node.height + 1).epoch == 2)
        status, body = await http.post("/control/v1/directories", encode(directory))
        assert (status, body["status"]) == (200, "committed")

    @pytest.mark.box("S27.1", "lower-or-forked")
    @pytest.mark.parametrize(
        ("make", "status", "code"),
        [
            (lambda first: dataclasses.replace(next_epoch(first), signatures=()), 403, "unauthorized"),
            (lambda first: dataclasses.replace(next_epoch(first), reason="other"), 401, "invalid_signature"),
            (lambda first: next_epoch(next_epoch(first)), 409, "state_mismatch"),
            (lambda first: dataclasses.replace(first, reason="other"), 409, "state_mismatch"),
            (lambda first: next_epoch(first, members=()), 400, "invalid_field"),
            (
                lambda _first: next_epoch(dataclasses.replace(make_genesis().directory, world_id="b")),
                400,
                "wrong_world",
            ),
        ],
    )
    async def test_a_directory_that_does_not_follow_is_refused(
        self, http: Http, node: RunningNode, make: Any, status: int, code: str
    ) -> None:
        answer = await http.post("/control/v1/directories", encode(make(node.node.ledger.genesis.directory)))
        assert error_of(answer)[:2] == (status, code)
        assert node.node.membership.waiting_directory() is None

    async def test_a_revocation_counts_when_it_is_answered(self, http: Http, node: RunningNode) -> None:
        statement = revocation(signer("eve").key_id)
        for _ in range(2):
            status, body = await http.post("/control/v1/revocations", encode(statement))
            assert (status, body["status"], body["key_id"]) == (200, "revoked", statement.key_id)
        assert (await http.get("/v1/status"))[1]["revocations"]["key_ids"] == [statement.key_id]
        assert decode(Revocations, (await http.get("/v1/revocations", accept=CBOR))[1]).statements == (statement,)

    async def test_revocations_need_governance_and_leave_it_able_to_act(self, http: Http) -> None:
        forged = revocation(signer("eve").key_id, by="eve")
        assert error_of(await http.post("/control/v1/revocations", encode(forged)))[0] == 403
        last = encode(revocation(signer("gov").key_id))
        assert error_of(await http.post("/control/v1/revocations", last))[:2] == (409, "state_mismatch")
        assert error_of(await http.post("/control/v1/revocations?force=perhaps", last))[:2] == (400, "invalid_field")
        assert (await http.post("/control/v1/revocations?force=1", last))[0] == 200

    async def test_a_directory_signed_by_a_revoked_governance_key_is_refused(
        self, http: Http, node: RunningNode
    ) -> None:
        directory = next_epoch(node.node.ledger.genesis.directory)
        await http.post("/control/v1/revocations?force=1", encode(revocation(signer("gov").key_id)))
        answer = await http.post("/control/v1/directories", encode(directory))
        assert error_of(answer)[:2] == (403, "key_revoked")

    async def test_garbage_is_refused(self, http: Http) -> None:
        for path in ("/control/v1/directories", "/control/v1/revocations"):
            for body in (b"", b"garbage", encode(agent("ada").act("agent.register", {"position": [0, 0]}))):
                assert error_of(await http.post(path, body))[:2] == (400, "malformed_encoding")


class TestDocument:
    async def test_the_openapi_document_describes_exactly_the_routes(self, http: Http, node: RunningNode) -> None:
        status, body = await http.get("/openapi.json")
        assert (status, body) == (200, json.loads(json.dumps(openapi_document())))
        described = {(method.upper(), path) for path, methods in body["paths"].items() for method in methods}
        app = build_app(node.node._services())
        served = {
            (route.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.resource.canonical))
            for route in app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
        assert described == served - {("GET", "/openapi.json")}
        ids = [operation["operationId"] for methods in body["paths"].values() for operation in methods.values()]
        assert len(set(ids)) == len(ids)

    async def test_what_nobody_expected_is_logged_and_told_without_details(
        self, http: Http, node: RunningNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(node.node.ledger, "directory", lambda _epoch: 1 // 0)
        with caplog.at_level(logging.ERROR):
            status, body = await http.get("/v1/directories/latest")
        assert (status, body["error"]["code"]) == (500, "internal")
        assert "division" not in body["error"]["message"]
        assert "ZeroDivisionError" in caplog.text

    async def test_an_action_can_be_signed_with_what_the_documents_say(self) -> None:
        """The JSON form of an action decodes to the very action."""
        action = agent("ada").act("agent.register", {"position": [0, 0]})
        assert sign(action, signer("ada")).signature == action.signature
