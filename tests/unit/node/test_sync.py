"""Following heads: who is behind catches up from whoever has the blocks, and who lies makes nobody wait."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.errors import NotAvailable
from agentworld_core.ledger.block import Execution
from agentworld_core.ledger.validate import check_block
from agentworld_core.membership.builder import Changes
from agentworld_core.messages import BlockBundle, Blocks, GetBlocks, WorldBlock, WorldHeadAnnounce
from agentworld_core.names import topic
from agentworld_node import ledger as ledger_module
from agentworld_node.network.memory import MemoryNetwork
from agentworld_node.network.port import RequestFailed
from agentworld_node.roles import sync as sync_module
from agentworld_node.roles.sync import GET_BLOCKS, Synchronizer
from agentworld_node.storage.errors import StorageFailed
from agentworld_node.storage.index import Index
from tests.unit.core.ledger.chains import Chain, make_certificate, make_head, resign
from tests.unit.core.membership.worlds import successor
from tests.unit.core.world.agents import register
from tests.unit.node.rig import ME, Rig, rig
from tests.unit.node.running import eventually
from tests.unit.node.test_ledger import fail

HEADS = topic("aurora", "head")


def grown(height: int, *, name: str = "ada") -> Chain:
    chain = Chain()
    chain.commit(register(name))
    while chain.state.height < height:
        chain.commit()
    return chain


def start(it: Rig, *, own: WorldHeadAnnounce | None = None) -> Synchronizer:
    role = Synchronizer(ledger=it.ledger, network=it.network, head=lambda: own, metrics=it.metrics)
    role.start(it.tasks)
    return role


class Server:
    """A peer that serves blocks, or whatever else it is told to."""

    def __init__(self, network: MemoryNetwork, bundles: Sequence[BlockBundle]):
        self.network = network
        self.bundles = list(bundles)
        self.asked: list[int] = []
        network.serve(GET_BLOCKS, self.serve)

    async def serve(self, _peer: str, payload: bytes) -> bytes:
        question = decode(GetBlocks, payload)
        self.asked.append(question.from_height)
        return encode(Blocks(tuple(self.answer(question.from_height, question.limit))))

    def answer(self, start: int, limit: int) -> Sequence[BlockBundle]:
        return self.bundles[start - 1 : start - 1 + limit]

    async def announce(self, head: WorldHeadAnnounce | None = None) -> None:
        await self.network.publish(HEADS, encode(head or make_head(self.bundles[-1])))


class TestCatchingUp:
    @pytest.mark.box("S19.1", "cold")
    @pytest.mark.box("S25.1", "on-the-wire")
    async def test_a_node_that_was_away_gets_everything_and_is_behind_until_then(self, tmp_path: Path) -> None:
        chain = grown(150)
        async with rig(tmp_path) as it:
            server = Server(await it.peer("peer-a"), chain.bundles)
            role = start(it)
            assert not role.in_touch
            await server.announce()
            await eventually(lambda: role.behind() is not None)
            await eventually(lambda: it.ledger.height == 150)
            await eventually(lambda: role.behind() is None)
            assert role.in_touch
            assert it.ledger.chain.state_root == chain.state.state_root
            assert server.asked[:3] == [1, 65, 129]

    async def test_a_block_that_was_judged_as_a_proposal_is_not_executed_again_but_its_certificate_is_checked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = Chain()
        parent = chain.state
        chain.commit(register("ada"))
        (bundle,) = chain.bundles
        execution = check_block(parent, bundle.block, bundle.batch)
        async with rig(tmp_path, Chain()) as it:
            role = start(it)

            async def judged(_block: WorldBlock) -> Execution:
                return execution

            def never(*_given: object, **_options: object) -> None:
                raise AssertionError("the block was executed again")

            role.execution_of = judged
            monkeypatch.setattr(ledger_module, "replay_bundle", never)
            few = dataclasses.replace(bundle.certificate, votes=bundle.certificate.votes[:1])
            assert not await role._apply("peer-a", (dataclasses.replace(bundle, certificate=few),))
            other = dataclasses.replace(bundle.batch, timestamp_ms=bundle.batch.timestamp_ms + 1)
            assert not await role._apply("peer-a", (dataclasses.replace(bundle, batch=other),))
            assert it.ledger.height == 0
            assert await role._apply("peer-a", (bundle,))
            assert it.ledger.chain.block_hash == chain.state.block_hash

    @pytest.mark.box("S19.1", "no-head")
    async def test_a_world_that_stands_still_is_asked_outright(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            server = Server(await it.peer("peer-a"), [])
            role = start(it)
            await eventually(lambda: role.in_touch)
            assert (server.asked, role.behind(), role.network_height) == ([1], None, 0)

    async def test_a_first_answer_that_is_full_is_not_taken_for_the_whole_chain(self, tmp_path: Path) -> None:
        chain = grown(100)
        async with rig(tmp_path) as it:
            Server(await it.peer("peer-a"), chain.bundles)
            role = start(it)
            await eventually(lambda: role.in_touch)
            assert it.ledger.height == 100

    async def test_heads_from_beyond_a_change_of_the_directory_are_followed_as_well(self, tmp_path: Path) -> None:
        chain = Chain()
        chain.commit(directory=successor(chain.genesis.directory, Changes()))
        for _ in range(9):
            chain.commit()
        async with rig(tmp_path) as it:
            server = Server(await it.peer("peer-a"), chain.bundles)
            role = start(it)
            await server.announce()
            await eventually(lambda: it.ledger.height == 10)
            await server.announce()
            await eventually(lambda: role.network_height == 10 and role.behind() is None)

    async def test_it_tells_its_own_head_and_serves_its_blocks(self, tmp_path: Path) -> None:
        chain = grown(5)
        async with rig(tmp_path, chain) as it:
            await it.apply(*chain.bundles)
            peer = await it.peer("peer-a")
            heard: list[WorldHeadAnnounce] = []
            peer.subscribe(HEADS, lambda _peer, data: heard.append(decode(WorldHeadAnnounce, data)))
            start(it, own=make_head(chain.bundles[-1]))
            await eventually(lambda: heard)
            assert heard[0].height == 5

            async def ask(world: str, first: int, limit: int) -> tuple[BlockBundle, ...]:
                question = encode(GetBlocks(world, first, limit))
                return decode(Blocks, await peer.request(ME, GET_BLOCKS, question, timeout=5)).bundles

            assert await ask("aurora", 2, 2) == tuple(chain.bundles[1:3])
            assert await ask("aurora", 2, 10**9) == tuple(chain.bundles[1:])
            assert await ask("aurora", 2**63, 1) == ()
            with pytest.raises(RequestFailed):
                await ask("mars", 1, 1)
            with pytest.raises(RequestFailed):
                await peer.request(ME, GET_BLOCKS, b"garbage", timeout=5)


class TestWrongPeers:
    @pytest.mark.box("S19.1", "validated")
    @pytest.mark.box("S3.3", "kept", "liar")
    @pytest.mark.parametrize("how", ["other world's block", "broken certificate", "another height", "garbage", "error"])
    async def test_who_serves_something_wrong_is_left_for_another(self, tmp_path: Path, how: str) -> None:
        chain = grown(4)
        async with rig(tmp_path) as it:
            bad = Server(await it.peer("peer-a"), chain.bundles)
            good = Server(await it.peer("peer-b"), chain.bundles)
            wrong = {
                "other world's block": [grown(4, name="eve").bundles[0]],
                "broken certificate": [
                    dataclasses.replace(
                        chain.bundles[0],
                        certificate=dataclasses.replace(
                            chain.bundles[0].certificate, votes=chain.bundles[0].certificate.votes[:1]
                        ),
                    )
                ],
                "another height": chain.bundles[2:3],
            }.get(how)
            if how == "other world's block":
                assert wrong is not None
                wrong[0] = dataclasses.replace(wrong[0], certificate=chain.bundles[0].certificate)
            if wrong is not None:
                bad.answer = lambda _start, _limit: wrong  # type: ignore[method-assign,assignment]
            else:

                async def serve(_peer: str, _payload: bytes) -> bytes:
                    bad.asked.append(1)
                    if how == "error":
                        raise NotAvailable("broken")
                    return b"garbage"

                bad.network.serve(GET_BLOCKS, serve)
            start(it)
            await bad.announce()
            await good.announce()
            await eventually(lambda: it.ledger.height == 4)
            assert it.ledger.chain.state_root == chain.state.state_root
            assert bad.asked, "it was asked first"
            assert len(bad.asked) <= 2
            assert it.ledger.failure is None

    async def test_part_of_what_a_peer_serves_may_be_right(self, tmp_path: Path) -> None:
        chain = grown(4)
        async with rig(tmp_path) as it:
            bad = Server(await it.peer("peer-a"), chain.bundles)
            third = dataclasses.replace(chain.bundles[2], certificate=chain.bundles[1].certificate)
            bad.bundles[2] = third
            good = Server(await it.peer("peer-b"), chain.bundles)
            start(it)
            await good.announce()
            await eventually(lambda: it.ledger.height == 4)

    async def test_when_everybody_was_left_alone_they_are_asked_again_while_blocks_are_missing(
        self, tmp_path: Path
    ) -> None:
        chain = grown(4)
        async with rig(tmp_path) as it:
            server = Server(await it.peer("peer-a"), [])
            start(it)
            await server.announce(make_head(chain.bundles[3]))
            await eventually(lambda: len(server.asked) >= 1)
            server.bundles = list(chain.bundles)
            await eventually(lambda: it.ledger.height == 4)

    async def test_a_failure_of_this_node_is_not_the_peers_fault(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = grown(2)

        async def run() -> None:
            async with rig(tmp_path) as it:
                server = Server(await it.peer("peer-a"), chain.bundles)
                start(it)
                await server.announce()
                await asyncio.Event().wait()

        fail(monkeypatch, Index, "put_block", StorageFailed("broken"))
        with pytest.raises(ExceptionGroup) as caught:
            await run()
        assert caught.group_contains(StorageFailed)


class TestHeads:
    @pytest.mark.box("29.7", "best", "known", "others")
    @pytest.mark.box("S25.2", "never-lower")
    async def test_of_many_heads_the_best_is_followed_and_known_and_older_ones_are_nothing(
        self, tmp_path: Path
    ) -> None:
        chain = grown(6)
        heads = [make_head(bundle) for bundle in chain.bundles]
        async with rig(tmp_path, chain) as it:
            await it.apply(*chain.bundles[:5])
            role = start(it)
            server = Server(await it.peer("peer-a"), chain.bundles)
            await eventually(lambda: server.asked)
            await eventually(lambda: it.ledger.height == 6)
            server.asked.clear()
            chain.commit()
            server.bundles.append(chain.bundles[-1])
            for head in (*heads[3:], dataclasses.replace(heads[5], world_id="mars"), make_head(chain.bundles[-1])):
                await server.announce(head)
            await eventually(lambda: it.ledger.height == 7)
            for head in (*heads[3:], make_head(chain.bundles[-1])):
                await server.announce(head)
            await eventually(lambda: it.network.counters()["delivered"] >= 9)
            assert set(server.asked) <= {7, 8}
            assert it.refused("head") == {"wrong_world": 1}
            assert (it.ledger.height, role.conflict) == (7, None)

    @pytest.mark.box("29.7", "conflict", "ties")
    @pytest.mark.box("S8.2", "no-way-back")
    @pytest.mark.box("S3.3", "fork")
    @pytest.mark.box("S25.2", "two-heads")
    async def test_of_two_certified_blocks_of_one_height_one_is_followed_and_the_other_told(
        self, tmp_path: Path
    ) -> None:
        chain = grown(5)
        first, second = chain.propose(), chain.propose(proposer="b")
        async with rig(tmp_path, chain) as it:
            await it.apply(*chain.bundles)
            role = start(it)
            server = Server(await it.peer("peer-a"), [*chain.bundles, first])
            for bundle in (first, second):
                await server.announce(make_head(bundle))
            await eventually(lambda: it.ledger.height == 6)
            assert role.conflict is None
            await server.announce(make_head(second, timestamp_ms=1))
            await eventually(lambda: role.conflict is not None)
            assert it.ledger.chain.block_hash == make_head(first).block_hash
            assert it.metrics.total("agentworld_evidence_total") == 1


class TestLiars:
    def forged(self, chain: Chain, **changes: object) -> WorldHeadAnnounce:
        return dataclasses.replace(make_head(chain.bundles[-1]), **changes)  # type: ignore[arg-type]

    @pytest.mark.box("S25.2", "forged-head")
    async def test_a_height_that_nobody_certified_makes_nobody_wait(self, tmp_path: Path) -> None:
        chain = grown(3)
        async with rig(tmp_path, chain) as it:
            await it.apply(*chain.bundles)
            role = start(it)
            liar, honest = Server(await it.peer("peer-l"), []), Server(await it.peer("peer-h"), chain.bundles)
            await honest.announce()
            await eventually(lambda: role.in_touch)
            for epoch in (1, 7):
                await liar.announce(self.forged(chain, height=2**63, directory_epoch=epoch))
            await eventually(lambda: it.refused("head").get("state_mismatch") == 1)
            assert (role.network_height, role.behind()) == (3, None)
            await honest.announce()
            assert role.behind() is None

    @pytest.mark.box("S25.2", "certificate-short")
    async def test_a_certificate_of_too_few_proves_nothing(self, tmp_path: Path) -> None:
        chain = grown(9)
        async with rig(tmp_path) as it:
            role = start(it)
            liar = Server(await it.peer("peer-l"), chain.bundles)
            thin = make_certificate(chain.bundles[-1].block, voters="ab")
            await liar.announce(self.forged(chain, certificate=thin))
            await eventually(lambda: it.refused("head") == {"unauthorized": 1})
            assert role.network_height == 0

    @pytest.mark.parametrize("epoch", [1, 7])
    async def test_spam_is_cheap_and_leaves_nothing(self, tmp_path: Path, epoch: int) -> None:
        chain = grown(3)
        async with rig(tmp_path, chain) as it:
            await it.apply(*chain.bundles)
            role = start(it)
            liar = Server(await it.peer("peer-l"), [])
            for number in range(500):
                await liar.announce(self.forged(chain, height=1000 + number, directory_epoch=epoch))
            await eventually(lambda: it.network.counters()["delivered"] >= 500)
            assert role.behind() is None
            assert len(role._claims) <= 1
            assert len(liar.asked) <= 3
            assert sum(it.refused("head").values()) <= 2

    async def test_claims_of_who_is_gone_are_forgotten(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sync_module, "ANNOUNCE_SECONDS", 0.01)
        async with rig(tmp_path) as it:
            role = start(it)
            peer = await it.peer("peer-a")
            peer.serve(GET_BLOCKS, lambda _peer, _payload: asyncio.Event().wait())  # type: ignore[arg-type,return-value]
            role.notice("peer-a", 10)
            role.notice("peer-nobody", 10)
            assert role._claims == {"peer-a": 10}
            await peer.stop()
            await eventually(lambda: not role._claims)

    @pytest.mark.box("S25.2", "two-heads")
    async def test_two_certified_blocks_of_one_height_are_told_and_not_overlooked(self, tmp_path: Path) -> None:
        ours, theirs = grown(2), grown(2, name="eve")
        async with rig(tmp_path, ours) as it:
            await it.apply(*ours.bundles)
            role = start(it)
            peer = Server(await it.peer("peer-a"), theirs.bundles)
            await peer.announce(self.forged(theirs, certificate=make_certificate(theirs.bundles[1].block, voters="a")))
            await eventually(lambda: sum(it.refused("head").values()) == 1)
            assert role.conflict is None
            other = Server(await it.peer("peer-b"), theirs.bundles)
            await other.announce()
            await eventually(lambda: role.conflict is not None)
            assert it.metrics.total("agentworld_evidence_total") == 1
            assert it.ledger.chain.block_hash == ours.state.block_hash

    async def test_heads_of_other_worlds_and_garbage_are_counted(self, tmp_path: Path) -> None:
        chain = grown(1)
        async with rig(tmp_path) as it:
            start(it)
            peer = Server(await it.peer("peer-a"), chain.bundles)
            await peer.announce(self.forged(chain, world_id="mars"))
            await eventually(lambda: it.refused("head") == {"wrong_world": 1})
            await peer.network.publish(HEADS, b"garbage")
            await eventually(lambda: it.refused("head").get("malformed_encoding") == 1)

    async def test_the_word_of_enough_validators_is_believed(self, tmp_path: Path) -> None:
        chain = grown(5)
        async with rig(tmp_path) as it:
            server = Server(await it.peer("peer-a"), chain.bundles)
            role = start(it)
            await eventually(lambda: role.in_touch)
            role.notice_decided(5)
            await eventually(lambda: it.ledger.height == 5)
            assert server.asked


def test_the_blocks_of_the_tests_are_signed() -> None:
    bundle = grown(1).bundles[0]
    assert resign(bundle.block, "a") == bundle.block


async def test_a_role_that_is_cancelled_at_the_moment_in_which_it_has_something_to_do_ends(tmp_path: Path) -> None:
    async with rig(tmp_path) as it:
        role = Synchronizer(ledger=it.ledger, network=it.network, head=lambda: None, metrics=it.metrics)
        fetching = asyncio.create_task(role._fetch_forever())
        for turns in range(5):  # in one of the turns of the loop the wait is over and the role does not know it yet
            await asyncio.sleep(0)
            role._wake.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            fetching.cancel()
            done, _ = await asyncio.wait([fetching], timeout=1)
            assert done, f"it goes on after {turns} turns"
            fetching = asyncio.create_task(role._fetch_forever())
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
