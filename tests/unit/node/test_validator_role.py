"""Deciding blocks among nodes of which one does what the test says."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.drafts import draft_vote
from agentworld_core.consensus.events import Timeouts
from agentworld_core.messages import PREVOTE, ProposalBody, Round, Vote, WorldHeadAnnounce
from agentworld_core.names import topic
from agentworld_core.signing import sign
from agentworld_node.network.memory import MemoryNetwork
from agentworld_node.roles import executor as executor_module
from agentworld_node.roles import validator as validator_module
from agentworld_node.roles.intake import ConsensusMessage
from tests.unit.node.material import Material, agent, member, next_epoch, registrations, revocation, signer
from tests.unit.node.running import MemoryWorld, RunningNode, eventually, memory_world

VOTES, PROPOSALS = topic("aurora", "consensus.vote"), topic("aurora", "consensus.proposal")
HONEST = ("v0", "v1", "v2")


def refused(node: RunningNode, kind: str) -> dict[str, int]:
    series = node.node.metrics._counters.get("agentworld_messages_refused_total", {})
    return {dict(labels)["code"]: count for labels, count in series.items() if dict(labels)["topic"] == kind}


def hurry(world: MemoryWorld) -> None:
    """Lets rounds without a decision pass quickly."""
    quick = Timeouts(propose_ms=300, propose_step_ms=50, vote_ms=100, vote_step_ms=50)
    for one in world.nodes.values():
        engine = one.node.validator._engine
        engine.settings = dataclasses.replace(engine.settings, timeouts=quick)


class Fourth:
    """The fourth validator, in the hands of the test."""

    def __init__(self, world: MemoryWorld, network: MemoryNetwork):
        self.world = world
        self.network = network
        self.proposals: list[ProposalBody] = []
        network.subscribe(PROPOSALS, lambda _peer, data: self.proposals.append(decode(ProposalBody, data)))

    def vote(self, *, height: int = 1, block: str | None = None, name: str = "v3", **changes: Any) -> Vote:
        draft = draft_vote(
            self.world.material.genesis.directory,
            validator_id=name,
            height=height,
            round_=changes.pop("round_", Round(1, 0)),
            phase=PREVOTE,
            block_hash=block,
        )
        return sign(dataclasses.replace(draft, **changes), signer("v3"))

    async def send(self, *votes: Vote) -> None:
        for vote in votes:
            await self.network.publish(VOTES, encode(vote))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MemoryWorld]:
    async with memory_world(Material(tmp_path), start=False) as made:
        await made.start(*HONEST)
        await eventually(made.writer, what="a writer")
        yield made


@pytest.fixture
async def fourth(world: MemoryWorld) -> AsyncIterator[Fourth]:
    network = world.network("v3")
    await network.start()
    yield Fourth(world, network)
    await network.stop()


class TestMessages:
    async def test_a_pair_of_votes_that_contradict_each_other_is_evidence(
        self, world: MemoryWorld, fourth: Fourth
    ) -> None:
        await fourth.send(fourth.vote(block="a" * 64), fourth.vote(block="b" * 64))
        await eventually(lambda: all(len(one.node.ledger.evidence) for one in world.nodes.values()))
        node = world.nodes["v0"]
        ((key, evidence),) = node.node.ledger.evidence.items()
        assert {evidence.first.block_hash, evidence.second.block_hash} == {"a" * 64, "b" * 64}
        async with node.client() as client:
            status = await client.status()
        assert status["evidence"] == [
            {
                "hash": key,
                "validator_id": "v3",
                "height": 1,
                "term": 1,
                "attempt": 0,
                "phase": PREVOTE,
                "first_block_hash": "a" * 64,
                "second_block_hash": "b" * 64,
            }
        ]
        assert "agentworld_evidence_total 1\n" in node.node.metrics.page()
        for _ in range(20):
            await fourth.send(fourth.vote(block="a" * 64), fourth.vote(block="b" * 64))
        await world.commit("v0", registrations(3)[1])
        assert len(node.node.ledger.evidence) == 1

    @pytest.mark.box("S25.1", "forged-vote", "other-world-or-epoch", "oversized")
    async def test_wrong_votes_are_counted_and_refused(self, world: MemoryWorld, fourth: Fourth) -> None:
        good = fourth.vote()
        for vote in (
            dataclasses.replace(good, signature=bytes(64)),
            fourth.vote(directory_epoch=9),
            fourth.vote(world_id="mars"),
            fourth.vote(name="v2"),
            fourth.vote(phase=7),
        ):
            await fourth.send(vote)
        await fourth.network.publish(VOTES, b"garbage" * 10)
        await fourth.network.publish(VOTES, bytes(100_000))
        await fourth.network.publish(PROPOSALS, b"garbage")
        expected = {
            "invalid_signature": 1,
            "state_mismatch": 1,
            "wrong_world": 1,
            "unauthorized": 1,
            "invalid_field": 1,
            "malformed_encoding": 1,
            "too_large": 1,
        }
        await eventually(lambda: refused(world.nodes["v0"], "vote") == expected, what="all refusals")
        await eventually(lambda: refused(world.nodes["v0"], "proposal") == {"malformed_encoding": 1})
        await world.commit("v1", registrations(3)[1])

    @pytest.mark.box("S25.1", "non-member")
    async def test_who_is_no_member_is_not_heard_on_the_topics_of_consensus(
        self, world: MemoryWorld, fourth: Fourth
    ) -> None:
        stranger = world.hub.network("stranger", allow_unknown=True)
        stranger.set_peers([])
        await stranger.start()
        for node in world.nodes.values():
            node.network._peers |= {"stranger"}
        await stranger.publish(VOTES, encode(fourth.vote()))
        await stranger.publish(PROPOSALS, bytes(900_000))
        await eventually(lambda: refused(world.nodes["v0"], "vote") == {"unauthorized": 1})
        await eventually(lambda: refused(world.nodes["v0"], "proposal") == {"unauthorized": 1})
        await stranger.stop()

    @pytest.mark.box("S25.1", "oversized")
    async def test_a_flood_of_a_member_holds_nobody_up(self, world: MemoryWorld, fourth: Fourth) -> None:
        flooding = True

        async def flood() -> None:
            number = 0
            while flooding:
                number += 1
                await fourth.send(*(fourth.vote(round_=Round(1, number * 100 + n)) for n in range(50)))
                await fourth.network.publish(PROPOSALS, bytes(500_000))
                await asyncio.sleep(0)

        task = asyncio.create_task(flood())
        try:
            await world.commit("v0", registrations(20)[1])
        finally:
            flooding = False
            await task
        for node in world.nodes.values():
            assert len(node.node.validator._intake) <= 300

    @pytest.mark.box("S25.1", "oversized")
    @pytest.mark.parametrize("kind", ["vote", "proposal", "offer"])
    async def test_a_queue_that_a_member_has_filled_keeps_no_other_task_waiting(
        self, world: MemoryWorld, fourth: Fourth, kind: str
    ) -> None:
        intake = world.nodes["v0"].node.validator._intake
        await eventually(lambda: len(intake) == 0)
        for _ in range(200):
            intake.put_message(ConsensusMessage(kind, fourth.network.peer_id, bytes(2_000)))
        turns = 0
        while len(intake) > 0:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 200

    @pytest.mark.box("S25.1", "future-height")
    async def test_what_is_said_of_the_height_after_next_is_kept_for_it_in_bounds(
        self, world: MemoryWorld, fourth: Fourth
    ) -> None:
        node = world.nodes["v0"]
        for attempt in range(50):
            await fourth.send(fourth.vote(height=2, round_=Round(1, attempt)))
        await eventually(lambda: node.node.validator._early)
        assert all(len(kept) <= 8 for kept in node.node.validator._early.values())
        assert refused(node, "vote") == {}
        await world.commit("v0", registrations(1)[1])
        await eventually(lambda: not node.node.validator._early)

    @pytest.mark.box("S25.1", "forged-proposal")
    async def test_a_proposal_with_another_batch_is_refused_and_the_right_one_decided(
        self, world: MemoryWorld, fourth: Fourth
    ) -> None:
        await world.commit("v0", registrations(1)[1])
        await eventually(lambda: fourth.proposals)
        body = fourth.proposals[0]
        poisoned = ProposalBody(body.proposal, body.block, dataclasses.replace(body.batch, timestamp_ms=1))
        node = world.nodes["v0"]
        chain = node.node.ledger.chain
        assert chain.height == 1
        await fourth.network.publish(PROPOSALS, encode(poisoned))
        await world.commit("v1", [agent("a0").act("agent.move", {"to": [1, 1]})])
        assert refused(node, "proposal").get("hash_mismatch", 0) <= 1


class TestRepeatedProposals:
    @pytest.fixture
    async def two(self, tmp_path: Path) -> AsyncIterator[MemoryWorld]:
        """Two of four validators: nothing is decided, and what is proposed is repeated."""
        async with memory_world(Material(tmp_path), start=False) as made:
            await made.start("v0", "v1")
            await eventually(made.writer, what="a writer")
            yield made

    async def test_one_is_decoded_once_and_counts_no_more_once_its_key_is_revoked(
        self, two: MemoryWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decoded: list[bytes] = []

        def counting(cls: type[Any], data: bytes, **options: Any) -> Any:
            if cls is ProposalBody:
                decoded.append(data)
            return decode(cls, data, **options)

        monkeypatch.setattr(validator_module, "decode", counting)
        writer = two.writer() or ""
        (other,) = (one for name, one in two.nodes.items() if name != writer)
        heard: list[bytes] = []
        other.network.subscribe(PROPOSALS, lambda _peer, data: heard.append(data))
        async with two.nodes[writer].client() as client:
            await client.submit(registrations(3)[1])
        await eventually(lambda: len(heard) >= 3 and len(set(heard)) < len(heard), what="a proposal that is repeated")
        assert len(decoded) == len(set(decoded))
        async with other.client() as client:
            await client.publish_revocation(revocation(signer(writer).key_id))
        await eventually(lambda: signer(writer).key_id in other.node.keyring.revoked_key_ids())
        third = two.network("v3")
        await third.start()
        await third.publish(PROPOSALS, heard[0])
        await eventually(lambda: refused(other, "proposal").get("key_revoked"), what="a refused repetition")
        assert len(decoded) == len(set(decoded))
        await third.stop()


class TestKeys:
    @pytest.mark.box("S25.1", "revoked-member")
    async def test_a_revoked_key_is_refused_at_once_and_after_the_rotation_it_votes_again(
        self, world: MemoryWorld, fourth: Fourth
    ) -> None:
        node = world.nodes["v0"]
        async with node.client() as client:
            await client.publish_revocation(revocation(signer("v3").key_id))
        await eventually(
            lambda: all(signer("v3").key_id in one.node.keyring.revoked_key_ids() for one in world.nodes.values())
        )
        await fourth.send(fourth.vote())
        await eventually(lambda: refused(node, "vote") == {"key_revoked": 1})
        await world.commit("v0", registrations(3)[1])

    async def test_the_world_goes_on_through_a_rotation(self, world: MemoryWorld, fourth: Fourth) -> None:
        material = world.material
        await world.commit("v0", registrations(1)[1])
        writer = world.nodes[world.writer() or "v0"]
        name = writer.node.config.node_id
        material.write_keys(name, generations=(1, 2), active=2)
        first = writer.node.ledger.directory(None)
        assert first is not None
        members = [member(one.member_id, generations=(2,)) if one.member_id == name else one for one in first.members]
        async with writer.client() as client:
            await client.publish_directory(next_epoch(first, members=members))
        await eventually(
            lambda: all(one.node.ledger.directory_at(one.height + 1).epoch == 2 for one in world.nodes.values())
        )
        await world.commit("v0", [agent("a0").act("agent.move", {"to": [1, 1]})])
        async with writer.client() as client:
            assert (await client.status())["signing"]["active_key_id"] == signer(name, 2).key_id

    @pytest.mark.box("S27.3", "no-key-no-lease")
    async def test_a_validator_without_a_key_waits_for_one(self, tmp_path: Path) -> None:
        material = Material(tmp_path, validators=("v0",))
        (material.node_folder("v0") / "keys" / "g1.pem").unlink()
        async with memory_world(material) as world:
            node = world.nodes["v0"]
            async with node.client() as client:
                assert (await client.status())["signing"]["voting"] is False
                assert node.node._unfit() == "it has no key that counts"
                receipts = await client.submit(registrations(1)[1])
                material.write_keys("v0")
                await eventually(lambda: node.height == 1)
                assert (await client.receipt(receipts[0]["action_id"]))["status"] == "committed"


class TestTime:
    @pytest.mark.box("S5.3", "clock-off")
    async def test_a_writer_whose_clock_is_ahead_gives_way_to_another(
        self, world: MemoryWorld, fourth: Fourth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By an hour: its blocks get no verdict, so the round ends without one and it yields the lease."""
        hurry(world)
        name = world.writer() or ""
        ahead = world.nodes[name]
        real = executor_module._now_ms

        build = ahead.node.executor._build

        def late(chain: Any, header: Any, *rest: Any) -> Any:
            return build(chain, dataclasses.replace(header, timestamp_ms=real() + 3_600_000), *rest)

        monkeypatch.setattr(ahead.node.executor, "_build", late)
        other = next(one for one in HONEST if one != name)
        async with world.nodes[other].client() as client:
            await client.submit(registrations(1)[1])
        await world.height(1, *HONEST, seconds=60)
        bundle = ahead.node.ledger.bundle(1)
        assert bundle is not None
        assert bundle.block.proposer_id != name
        assert bundle.block.timestamp_ms < real() + 60_000


class TestRestart:
    @pytest.mark.box("S8.2", "every-role")
    @pytest.mark.box("S5.1", "dedup-in-state")
    async def test_all_killed_and_started_again_they_go_on_from_the_same_head(self, tmp_path: Path) -> None:
        async with memory_world(Material(tmp_path)) as world:
            await eventually(world.writer, what="a writer")
            agents, actions = registrations(10)
            receipts = await world.commit("v0", actions)
            await world.height(receipts[-1]["height"])
            head = world.nodes["v0"].node.ledger.chain.block_hash
            await asyncio.gather(*(one.kill() for one in world.nodes.values()))
            await world.start()
            assert {one.node.ledger.chain.block_hash for one in world.nodes.values()} == {head}
            again = await world.commit("v2", [agents[0].act("agent.move", {"to": [9, 9]}), *actions[:2]])
            assert [item.get("duplicate", False) for item in again] == [False, True, True]

    @pytest.mark.box("S19.1", "restart")
    @pytest.mark.box("S25.1", "on-the-wire")
    async def test_a_validator_that_was_down_catches_up_and_votes(self, tmp_path: Path) -> None:
        async with memory_world(Material(tmp_path), start=False) as world:
            await world.start("v0", "v1", "v2")
            await eventually(world.writer, what="a writer")
            agents, actions = registrations(1)
            await world.commit("v0", actions)
            for number in range(12):
                await world.commit("v0", [agents[0].act("agent.move", {"to": [number, 0]})])
            await world.start("v3")
            await world.height(13, "v3")
            await world.nodes["v0"].stop()
            await eventually(lambda: world.writer() not in (None, "v0"), what="another writer")
            await world.commit("v3", [agents[0].act("agent.move", {"to": [0, 7]})])

    @pytest.mark.box("S1.2", "announcement")
    @pytest.mark.box("S25.2", "certified")
    async def test_the_head_that_a_node_tells_is_signed_and_certified(self, world: MemoryWorld) -> None:
        await world.commit("v0", registrations(1)[1])
        async with world.nodes["v0"].client() as client:
            head = await client.head()
        assert isinstance(head, WorldHeadAnnounce)
        assert head.announcer_id == "v0"
        assert len(head.certificate.votes) >= 3
