"""The exchange of parts between peers in one process, and nodes that are offered what is wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentworld_core.codec import encode
from agentworld_core.consensus.parts import (
    LARGE_BYTES,
    OFFER_BYTES,
    PART_BYTES,
    Batch,
    GetPart,
    Part,
    ProposalOffer,
    batch_of,
)
from agentworld_core.errors import NotFound
from agentworld_core.hashing import content_id
from agentworld_core.messages import Round
from agentworld_core.names import topic
from agentworld_core.signing import sign
from agentworld_node.metrics import Metrics
from agentworld_node.network.memory import MemoryHub, MemoryNetwork
from agentworld_node.network.port import Peer, RequestFailed, RequestHandler
from agentworld_node.roles import parts as parts_module
from agentworld_node.roles.parts import GET_PART, PartExchange
from tests.unit.core.consensus.bench import R, proposal
from tests.unit.core.membership.worlds import WORLD
from tests.unit.node.material import Material, signer
from tests.unit.node.running import MemoryWorld, eventually, memory_world
from tests.unit.node.test_validator_role import Fourth, refused

OFFERS = topic("aurora", "consensus.offer")
NAMES = ("me", "pa", "pb", "stranger")
DATA = random.Random(3).randbytes(3 * PART_BYTES + 5)


def large() -> tuple[ProposalOffer, Batch]:
    body = proposal("a", R(1, 0))
    block = dataclasses.replace(body.block, action_root=content_id(DATA))
    batch = batch_of(block, DATA)
    return ProposalOffer(body.proposal, block, batch.size, batch.ids), batch


class Exchange:
    """One exchange under test, and peers that answer as the test says; the stranger is no member."""

    def __init__(self, tasks: asyncio.TaskGroup):
        hub = MemoryHub()
        self.networks: dict[str, MemoryNetwork] = {name: hub.network(name, allow_unknown=True) for name in NAMES}
        self.metrics = Metrics()
        self.whole: list[tuple[str, bytes]] = []
        self.asked: list[str] = []
        self.exchange = PartExchange(
            world_id=WORLD,
            network=self.networks["me"],
            metrics=self.metrics,
            admits=lambda peer_id: peer_id != "stranger",
            take=lambda peer_id, data: self.whole.append((peer_id, data)),
        )
        self.exchange.start(tasks)

    def answer(self, name: str, handler: RequestHandler) -> None:
        async def noted(peer_id: str, payload: bytes) -> bytes:
            self.asked.append(name)
            return await handler(peer_id, payload)

        self.networks[name].serve(GET_PART, noted)

    def outcomes(self) -> dict[str, int]:
        series = self.metrics._counters.get("agentworld_parts_total", {})
        return {dict(labels)["outcome"]: count for labels, count in series.items()}


@pytest.fixture
async def it() -> AsyncIterator[Exchange]:
    async with asyncio.TaskGroup() as tasks:
        made = Exchange(tasks)
        for network in made.networks.values():
            network.set_peers([Peer("me")])
            await network.start()
        yield made
        for network in made.networks.values():
            await network.stop()


async def right(_peer_id: str, payload: bytes) -> bytes:
    _, batch = large()
    found = next(part for part, name in zip(batch.parts, batch.ids, strict=True) if name.encode() in payload)
    return encode(Part(found))


async def refusing(_peer_id: str, _payload: bytes) -> bytes:
    raise NotFound("is not here")


async def silent(_peer_id: str, _payload: bytes) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def too_much(_peer_id: str, _payload: bytes) -> bytes:
    return bytes(1_000_000)


async def another(_peer_id: str, _payload: bytes) -> bytes:
    return encode(Part(bytes(PART_BYTES)))


class TestExchange:
    async def test_what_was_offered_is_fetched_and_handed_on_whole(self, it: Exchange) -> None:
        offer, batch = large()
        it.answer("pa", right)
        it.exchange.offered("pa", offer)
        await eventually(lambda: it.whole)
        assert [(peer, data[-len(DATA) :]) for peer, data in it.whole] == [("pa", DATA)]
        assert it.outcomes() == {"fetched": 4}
        it.exchange.offered("pb", offer)
        assert len(it.whole) == 2, "what is known is not fetched again"
        assert it.outcomes() == {"fetched": 4}
        question = encode(GetPart(WORLD, batch.ids[3]))
        answer = await it.networks["pb"].request("me", GET_PART, question, timeout=5)
        assert answer == encode(Part(batch.parts[3])), "and who has it serves it"

    @pytest.mark.parametrize(
        ("handler", "outcome"), [(refusing, "refused"), (silent, "refused"), (too_much, "wrong"), (another, "wrong")]
    )
    async def test_another_member_is_asked_when_who_offered_does_not_give(
        self, it: Exchange, monkeypatch: pytest.MonkeyPatch, handler: RequestHandler, outcome: str
    ) -> None:
        monkeypatch.setattr(parts_module, "PART_SECONDS", 0.1)
        offer, _ = large()
        it.answer("pa", handler)
        it.answer("pb", right)
        it.answer("stranger", right)
        it.exchange.offered("pa", offer)
        if outcome == "wrong":
            # What a liar has offered counts for nothing: somebody else must have offered it as well.
            it.exchange.offered("pb", offer)
        await eventually(lambda: it.whole)
        counts = it.outcomes()
        assert counts["fetched"] == 4
        assert counts[outcome] >= 1
        assert "stranger" not in it.asked

    async def test_when_nobody_gives_it_rests_until_it_is_offered_again(self, it: Exchange) -> None:
        offer, _ = large()
        it.answer("pa", refusing)
        it.answer("pb", refusing)
        it.exchange.offered("pa", offer)
        await eventually(lambda: it.outcomes().get("refused") == 5)
        with pytest.raises(RequestFailed):  # a round trip, in which a further request would have been sent
            await it.networks["pa"].request("me", GET_PART, encode(GetPart(WORLD, "a" * 64)), timeout=5)
        assert it.asked == ["pa"] * 4 + ["pb"]
        it.answer("pa", right)
        it.exchange.offered("pa", offer)
        await eventually(lambda: it.whole)

    async def test_a_question_that_is_wrong_is_refused_with_the_reason(self, it: Exchange) -> None:
        for question, code in (
            (b"", "malformed_encoding"),
            (bytes(5000), "too_large"),
            (encode(GetPart("mars", "a" * 64)), "wrong_world"),
            (encode(GetPart(WORLD, "a" * 64)), "not_found"),
        ):
            with pytest.raises(RequestFailed) as caught:
                await it.networks["pa"].request("me", GET_PART, question, timeout=5)
            assert caught.value.remote_code == code

    def test_what_is_small_or_cannot_be_offered_is_sent_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        exchange = PartExchange(
            world_id=WORLD,
            network=MemoryHub().network("me"),
            metrics=Metrics(),
            admits=lambda _peer_id: True,
            take=lambda _peer_id, _data: None,
        )
        body = proposal("a", R(1, 0))
        assert exchange.offer_of(body, size=LARGE_BYTES) is None
        assert exchange.offer_of(body, size=LARGE_BYTES + 1) is not None
        monkeypatch.setattr(parts_module, "MAX_PARTS", 0)
        assert exchange.offer_of(body, size=LARGE_BYTES + 1) is None
        monkeypatch.setattr(parts_module, "MAX_PARTS", 16)
        monkeypatch.setattr(parts_module, "OFFER_BYTES", 100)
        assert exchange.offer_of(body, size=LARGE_BYTES + 1) is None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MemoryWorld]:
    async with memory_world(Material(tmp_path), start=False) as made:
        await made.start("v0", "v1", "v2")
        await eventually(made.writer, what="a writer")
        yield made


class TestOffersToNodes:
    @pytest.mark.box("S25.1", "forged-proposal", "non-member")
    async def test_wrong_offers_are_counted_and_nothing_is_fetched(self, world: MemoryWorld) -> None:
        network = world.network("v3")
        await network.start()
        fourth = Fourth(world, network)
        vote = fourth.vote(block="a" * 64)
        good, batch = large()
        directory = world.material.genesis.directory
        block = dataclasses.replace(
            good.block, world_id="aurora", proposer_id="v3", term=1, attempt=0, directory_epoch=directory.epoch
        )
        block = sign(block, signer("v3"))
        draft = proposal("a", Round(1, 0)).proposal
        signed = sign(
            dataclasses.replace(
                draft, world_id="aurora", proposer_id="v3", block_hash=content_id(encode(block)), height=1
            ),
            signer("v3"),
        )
        offer = ProposalOffer(signed, block, batch.size, batch.ids)
        for wrong in (
            dataclasses.replace(offer, proposal=dataclasses.replace(signed, signature=bytes(64))),
            dataclasses.replace(offer, block=dataclasses.replace(block, timestamp_ms=8)),
            dataclasses.replace(offer, batch_bytes=batch.size + PART_BYTES),
        ):
            await network.publish(OFFERS, encode(wrong))
        await network.publish(OFFERS, encode(vote))
        await network.publish(OFFERS, bytes(OFFER_BYTES + 1))
        expected = {
            "invalid_signature": 1,
            "hash_mismatch": 1,
            "invalid_field": 1,
            "malformed_encoding": 1,
            "too_large": 1,
        }
        node = world.nodes["v0"]
        await eventually(lambda: refused(node, "offer") == expected, what="all refusals")
        assert node.node.metrics.total("agentworld_parts_total") == 0
        stranger = world.hub.network("stranger", allow_unknown=True)
        await stranger.start()
        for one in world.nodes.values():
            one.network._peers |= {"stranger"}
        await stranger.publish(OFFERS, encode(offer))
        await eventually(lambda: refused(node, "offer") == {**expected, "unauthorized": 1})
        assert node.node.metrics.total("agentworld_parts_total") == 0
        await network.publish(OFFERS, encode(offer))
        await eventually(lambda: node.node.metrics.total("agentworld_parts_total"), what="the right one is fetched")
        await network.stop()
        await stranger.stop()
