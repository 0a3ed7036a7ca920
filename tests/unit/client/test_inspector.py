"""Whatever an inspector returns has been proved; what does not prove itself is refused with its height."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from aiohttp import web

from agentworld_client.errors import VerificationFailed
from agentworld_client.gateway import GatewayClient
from agentworld_client.inspector import Inspector
from agentworld_core.codec import encode
from agentworld_core.errors import InvalidField, NotFound
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import block_hash_of
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.membership.builder import Changes
from agentworld_core.messages import EventSegment
from agentworld_core.world.tree import Tree
from tests.unit.client.chain_source import ChainSource, a_chain
from tests.unit.client.scripted import scripted
from tests.unit.core.ledger.chains import Chain, make_certificate, resign, with_fields
from tests.unit.core.membership.worlds import successor


@pytest.fixture(scope="module")
def chain() -> Chain:
    return a_chain()


@pytest.fixture
def source(chain: Chain) -> ChainSource:
    return ChainSource(chain)


async def inspector(source: ChainSource) -> Inspector:
    return await Inspector.open(source)


class TestWhatIsThere:
    async def test_a_block_by_height_and_by_hash(self, chain: Chain, source: ChainSource) -> None:
        it = await Inspector.open(source, trusted_genesis=genesis_hash(chain.genesis))
        bundle = chain.bundles[7]
        by_height = await it.block("8")
        assert by_height == await it.block(block_hash_of(bundle.block))
        assert (by_height["height"], by_height["state_root"]) == (8, chain.state.state_root)
        assert [item["actor_id"] for item in by_height["actions"]] == ["ada", "bob"]
        assert len(by_height["certificate"]["votes"]) == 4
        assert "epoch 2" in by_height["proof"][0]

    async def test_state_is_rebuilt_at_any_height(self, chain: Chain, source: ChainSource) -> None:
        it = await inspector(source)
        for height, expected in ((4, {"lit": False}), (5, {"lit": False}), (6, {"lit": True}), (8, {"lit": True})):
            found = await it.state("object/lamp", height=height)
            assert (found["value"]["data"], found["height"]) == (expected, height)
            assert found["state_root"] == chain.bundles[height - 1].block.state_root
        assert (await it.state("agent/bob"))["value"]["position"] == [5, 5]
        assert (await it.state("meta", height=0))["value"]["tick"] == 0
        with pytest.raises(NotFound, match="height 3 has no such key"):
            await it.state("object/lamp", height=3)

    async def test_a_receipt_with_its_action(self, chain: Chain, source: ChainSource) -> None:
        refused = chain.bundles[6].batch.actions[0]
        found = await (await inspector(source)).receipt(refused.action_id)
        assert (found["height"], found["ok"], found["code"]) == (7, False, "unauthorized")
        assert found["action"]["action_kind"] == "object.update"
        source.pooled.add("a" * 64)
        assert (await (await inspector(source)).receipt("a" * 64))["proof"] == []

    async def test_a_snapshot_by_height_and_by_hash(self, chain: Chain, source: ChainSource) -> None:
        it = await inspector(source)
        found = await it.snapshot("6")
        assert found == await it.snapshot(chain.bundles[5].block.snapshot_ref or "")
        assert (found["epoch"], found["state_root"]) == (6, chain.bundles[5].block.state_root)
        with pytest.raises(NotFound, match="names no such snapshot"):
            await it.snapshot("5")

    async def test_a_segment_with_the_block_that_names_it(self, chain: Chain, source: ChainSource) -> None:
        segment = chain.bundles[7].block.segments[1]
        found = await (await inspector(source)).segment(segment.content_hash)
        assert (found["height"], found["events"][0]["event_id"]) == (8, segment.from_event_id)
        stray = encode(EventSegment(chain.executions[0].events[1:2]))
        source.blobs[content_id(stray)] = stray
        found = await (await inspector(source)).segment(content_id(stray))
        assert (found["height"], len(found["proof"])) == (None, 1)
        with pytest.raises(NotFound, match="no journal segment"):
            await (await inspector(source)).segment(chain.bundles[7].block.receipts_root)


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        ("block", "9"), ("block", "a" * 64), ("receipt", "a" * 64), ("snapshot", "9"), ("snapshot", "a" * 64),
        ("segment", "a" * 64), ("state", "agent/eve"),
    ],
)  # fmt: skip
async def test_what_is_not_there_is_told(source: ChainSource, ask: str, name: str) -> None:
    with pytest.raises(NotFound):
        await getattr(await inspector(source), ask)(name)


@pytest.mark.parametrize(
    ("ask", "name"),
    [("block", "-1"), ("block", "x"), ("block", "A" * 64), ("block", "1" * 20), ("receipt", "9"), ("receipt", ""),
     ("snapshot", "latest"), ("segment", "../x"), ("state", ""), ("state", "k" * 257)],
)  # fmt: skip
async def test_what_is_no_id_is_told(source: ChainSource, ask: str, name: str) -> None:
    with pytest.raises(InvalidField):
        await getattr(await inspector(source), ask)(name)


class TestLies:
    async def failure(self, source: ChainSource, ask: str, name: str) -> VerificationFailed:
        with pytest.raises(VerificationFailed) as caught:
            await getattr(await inspector(source), ask)(name)
        return caught.value

    @pytest.mark.parametrize(
        ("part", "fields"),
        [
            ("block", {"state_root": "1" * 64}), ("block", {"directory_epoch": 1}), ("block", {"directory_epoch": 7}),
            ("batch", {"actions": ()}), ("certificate", {"votes": ()}), ("certificate", {"height": 3}),
        ],
    )  # fmt: skip
    async def test_a_changed_block(self, source: ChainSource, part: str, fields: dict[str, Any]) -> None:
        source.bundles[7] = with_fields(source.bundles[7], part, **fields)
        if fields == {"directory_epoch": 7}:
            with pytest.raises(NotFound):
                await (await inspector(source)).block("8")
            return
        assert (await self.failure(source, "block", "8")).height == 8

    @pytest.mark.box("S3.3", "by-hash")
    async def test_another_block_than_the_one_asked_for(self, source: ChainSource) -> None:
        wanted = block_hash_of(source.bundles[7].block)

        async def other(block: object) -> Any:
            return source.bundles[6]

        source.block = other  # type: ignore[method-assign]
        assert "another block" in str(await self.failure(source, "block", wanted))
        assert "another block" in str(await self.failure(source, "block", "8"))

    async def test_a_directory_that_governance_has_not_signed(self, chain: Chain, source: ChainSource) -> None:
        unsigned = dataclasses.replace(successor(chain.genesis.directory, Changes()), signatures=())
        source.bundles[1] = with_fields(source.bundles[1], "batch", directory=unsigned)
        assert (await self.failure(source, "block", "8")).cause_code in ("unauthorized", "invalid_signature")

    async def test_receipts_and_manifests_of_another_block(self, chain: Chain, source: ChainSource) -> None:
        action_id = chain.bundles[7].batch.actions[0].action_id
        source.blobs[chain.bundles[7].block.receipts_root] = chain.executions[6].blobs[
            chain.bundles[6].block.receipts_root
        ]
        assert "no such action" in str(await self.failure(source, "receipt", action_id))
        first, second = (chain.bundles[height - 1].block.snapshot_ref or "" for height in (3, 6))
        source.blobs[second] = source.blobs[first]
        assert (await self.failure(source, "snapshot", "6")).cause_code == "hash_mismatch"

    async def test_a_journal_that_does_not_lead_to_the_signed_root(self, chain: Chain, source: ChainSource) -> None:
        block = resign(dataclasses.replace(chain.bundles[7].block, state_root="1" * 64), "a")
        source.bundles[7] = dataclasses.replace(source.bundles[7], block=block, certificate=make_certificate(block))
        error = await self.failure(source, "state", "agent/ada")
        assert (error.height, error.place) == (8, "block.state_root")

    async def test_another_genesis(self, source: ChainSource) -> None:
        with pytest.raises(VerificationFailed):
            await Inspector.open(source, trusted_genesis="a" * 64)
        source.world = dataclasses.replace(source.world, created_at_ms=5)
        with pytest.raises(VerificationFailed):
            await inspector(source)


class TestProofsOfANode:
    """A gateway proves the values of its head; nothing it says beside the proof counts."""

    async def ask(self, chain: Chain, key: str, **lies: Any) -> dict[str, Any]:
        tree = chain.state.tree
        head = {"height": 8, "block_hash": chain.state.block_hash, "state_root": tree.root}
        found = {"key": key, "found": True, **head, "proof": encode(tree.prove(key.encode())).hex(), **lies}

        async def answer(request: web.Request) -> web.StreamResponse:
            if request.path == "/v1/genesis":
                return web.Response(body=encode(chain.genesis))
            if request.path.startswith("/v1/blocks/"):
                return web.Response(body=encode(chain.bundles[int(request.path.rsplit("/", 1)[1]) - 1]))
            if request.path.startswith("/v1/directories/"):
                directories = [chain.genesis.directory, chain.bundles[1].batch.directory]
                return web.Response(body=encode(directories[int(request.path.rsplit("/", 1)[1]) - 1]))
            return web.json_response(found)

        async with scripted(answer) as gateway, GatewayClient(gateway.url, patience=0) as client:
            return await (await Inspector.open(client)).state(key)

    async def test_the_value_comes_from_the_proof(self, chain: Chain) -> None:
        found = await self.ask(chain, "agent/bob", value={"position": [0, 0]})
        assert (found["value"]["position"], found["height"]) == ([5, 5], 8)
        assert len(found["proof"]) == 3
        with pytest.raises(NotFound, match="its root"):
            await self.ask(chain, "agent/eve", value={"position": [0, 0]})

    @pytest.mark.parametrize(
        "lies",
        [
            {"state_root": "1" * 64}, {"height": 7}, {"height": 0}, {"proof": ""}, {"proof": "zz"}, {"proof": None},
            {"proof": encode(a_chain().state.tree.prove(b"agent/ada")).hex()[:-2]}, {"height": "x"},
            {"proof": encode(Tree.of({b"agent/bob": b"\x01"}).prove(b"agent/bob")).hex()},
            {
                "proof": encode(Tree.of({b"agent/bob": b"\x01"}).prove(b"agent/bob")).hex(),
                "state_root": Tree.of({b"agent/bob": b"\x01"}).root,
            },
        ],
    )  # fmt: skip
    async def test_a_lie_is_refused(self, chain: Chain, lies: dict[str, Any]) -> None:
        with pytest.raises(VerificationFailed):
            await self.ask(chain, "agent/bob", **lies)
