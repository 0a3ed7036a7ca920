"""Two sources that part at a known place: height and action are found wherever it is, with few probes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest

from agentworld_client.divergence import Comparison, compare
from agentworld_client.errors import VerificationFailed
from agentworld_core.errors import NotAvailable
from agentworld_core.ledger.block import execute
from agentworld_core.ledger.difference import Difference
from agentworld_core.messages import ActionEnvelope, BlockBundle, Receipt, WorldEvent
from tests.unit.client.chain_source import ChainSource, forged
from tests.unit.core.ledger.chains import Chain, header, make_batch, make_certificate, make_genesis, resign
from tests.unit.core.membership.worlds import first_directory
from tests.unit.core.world.agents import action, register

HEIGHT = 17
PEOPLE = ("ada", "bob", "cyn")


def moves(height: int, *, by: int = 0) -> list[ActionEnvelope]:
    """One move of everybody; ``by`` makes it another one."""
    return [action(name, "agent.move", {"to": [height + by, place]}, height + by) for place, name in enumerate(PEOPLE)]


def a_chain(heights: int, *, other_from: int | None = None) -> Chain:
    """Blocks of three moves each, after one of registrations; from a height on the moves are others."""
    made = Chain()
    made.commit(*[register(name) for name in PEOPLE])
    for height in range(2, heights + 1):
        made.commit(*moves(height, by=0 if other_from is None or height < other_from else 100))
    return made


@pytest.fixture(scope="module")
def chain() -> Chain:
    return a_chain(HEIGHT)


def with_wrong(
    chain: Chain, height: int, *, event: int | None = None, receipt: int | None = None
) -> tuple[ChainSource, WorldEvent | None, Receipt | None]:
    """A source whose block of a height, its last one, has a forged event or receipt under a quorum's signatures."""
    before = a_chain(height - 1)
    right = execute(before.state, make_batch(before.state, moves(height)), header(before.state))
    assert right.block == dataclasses.replace(chain.bundles[height - 1].block, signature=b"")
    wrong_event = wrong_receipt = None
    if event is not None:
        wrong_event = dataclasses.replace(right.events[event], kind="agent.moved_elsewhere")
    if receipt is not None:
        wrong_receipt = dataclasses.replace(right.receipts[receipt], message="another one")
    bundle, blobs = forged(before, moves(height), event=wrong_event, receipt=wrong_receipt)
    source = ChainSource(before)
    source.bundles.append(bundle)
    source.blobs.update(blobs)
    return source, wrong_event, wrong_receipt


def probed(source: ChainSource) -> int:
    return len(set(source.asked))


class TestHeights:
    @pytest.mark.parametrize("parted", range(2, HEIGHT + 1))
    async def test_every_height_is_found_in_few_probes(self, chain: Chain, parted: int) -> None:
        one, other = ChainSource(chain), ChainSource(a_chain(HEIGHT, other_from=parted))
        found = await compare(one, other)
        assert found.divergence is not None
        assert (found.agreed, found.divergence.height, found.compared) == (parted - 1, parted, HEIGHT)
        assert found.probes <= 1 + math.ceil(math.log2(HEIGHT))
        assert probed(one) == probed(other) == found.probes
        assert found.divergence.position == 0
        assert found.divergence.actions == (moves(parted)[0].action_id, moves(parted, by=100)[0].action_id)
        assert set(found.divergence.fields) >= {"action_root", "event_root", "state_root", "signature"}
        assert found.divergence.parent_hash == other.bundles[parted - 1].block.prev_block_hash

    async def test_the_same_is_said_after_one_probe(self, chain: Chain) -> None:
        one, other = ChainSource(chain), ChainSource(a_chain(HEIGHT - 3))
        assert await compare(one, other) == Comparison(agreed=HEIGHT - 3, compared=HEIGHT - 3, probes=1)
        assert await compare(one, other, up_to=4) == Comparison(agreed=4, compared=4, probes=1)
        assert (await compare(one, ChainSource(Chain()))).compared == 0
        with pytest.raises(NotAvailable):
            await compare(one, other, up_to=HEIGHT)

    async def test_one_action_more_is_a_difference_of_the_batch(self, chain: Chain) -> None:
        shorter = a_chain(HEIGHT - 1)
        shorter.commit(*moves(HEIGHT)[:2])
        found = (await compare(ChainSource(chain), ChainSource(shorter))).divergence
        assert found is not None
        assert (found.position, found.actions) == (2, (moves(HEIGHT)[2].action_id, ""))


class TestActions:
    """The batch is the same, the result is another one."""

    @pytest.mark.parametrize("height", [2, 9, HEIGHT])
    @pytest.mark.parametrize("position", range(len(PEOPLE)))
    async def test_the_event_of_every_action(self, chain: Chain, height: int, position: int) -> None:
        source, event, _ = with_wrong(chain, height, event=1 + position)
        found = await self.differing(source, chain)
        assert event is not None
        assert (found.what, found.field, found.position, found.number) == ("event", "kind", position, event.event_id)
        assert found.action_id == moves(height)[position].action_id
        assert "one says agent.moved_elsewhere, the other says agent.moved" in str(found)

    @pytest.mark.parametrize("position", range(len(PEOPLE)))
    async def test_the_receipt_of_every_action(self, chain: Chain, position: int) -> None:
        source, _, _ = with_wrong(chain, 9, receipt=position)
        found = await self.differing(source, chain)
        assert (found.what, found.field, found.position) == ("receipt", "message", position)

    async def test_the_earlier_action_counts(self, chain: Chain) -> None:
        source, _, _ = with_wrong(chain, 9, event=3, receipt=0)
        assert (await self.differing(source, chain)).what == "receipt"
        source, _, _ = with_wrong(chain, 9, event=1, receipt=2)
        assert (await self.differing(source, chain)).what == "event"

    async def test_what_the_step_does_itself(self, chain: Chain) -> None:
        source, _, _ = with_wrong(chain, 9, event=0, receipt=0)
        found = await self.differing(source, chain)
        assert (found.what, found.action_id, found.position) == ("event", "", -1)
        source, _, _ = with_wrong(chain, 9, event=4, receipt=1)
        assert (await self.differing(source, chain)).what == "receipt", "the step's end comes after all actions"
        source, _, _ = with_wrong(chain, 9, event=4)
        assert (await self.differing(source, chain)).action_id == ""

    async def test_one_segment_and_the_receipts_are_read(self, chain: Chain) -> None:
        source, _, _ = with_wrong(chain, 9, event=4)
        read: list[str] = []
        blob = source.blob

        async def counted(content_hash: str) -> bytes:
            read.append(content_hash)
            return await blob(content_hash)

        source.blob = counted  # type: ignore[method-assign]
        block = source.bundles[8].block
        await self.differing(source, chain)
        assert len(block.segments) == 2
        assert read == [block.segments[1].content_hash]

    async def test_sources_that_do_not_show_it(self, chain: Chain) -> None:
        source, _, _ = with_wrong(chain, 9, event=1)
        source.blobs.clear()
        found = (await compare(source, ChainSource(chain))).divergence
        assert found is not None
        assert (found.height, found.difference) == (9, None)
        assert found.fields == ("event_root", "journal_ref", "signature", "segments")

    async def differing(self, source: ChainSource, chain: Chain) -> Difference:
        found = (await compare(source, ChainSource(chain))).divergence
        assert found is not None
        assert (found.height, found.position) == (len(source.bundles), -1)
        assert found.difference is not None
        return found.difference


class TestVerdicts:
    @pytest.mark.parametrize("height", [2, 3, 9, HEIGHT])
    async def test_execution_says_who_is_right(self, chain: Chain, height: int) -> None:
        source, _, _ = with_wrong(chain, height, event=2)
        found = (await compare(source, ChainSource(chain), replay=True)).divergence
        assert found is not None
        wrong, right = found.verdicts
        assert (wrong.right, right.right) == (False, True)
        assert "block.event_root" in wrong.error
        assert wrong.difference is not None
        assert (wrong.difference.position, wrong.difference.executed) == (1, "agent.moved")
        assert found.as_dict()["verdicts"][0]["difference"]["position"] == 1

    async def test_the_state_before_comes_from_whoever_has_it(self, chain: Chain) -> None:
        source, _, _ = with_wrong(chain, 9, event=2)
        kept = dict(source.blobs)
        source.blobs.clear()
        right = ChainSource(chain)
        found = (await compare(source, right, replay=True)).divergence
        assert found is not None
        assert [verdict.right for verdict in found.verdicts] == [False, True]
        right.blobs.clear()
        with pytest.raises(VerificationFailed):
            await compare(source, right, replay=True)
        source.blobs.update(kept)
        assert (await compare(source, right, replay=True)).divergence is not None

    async def test_a_fork_that_a_quorum_has_signed_twice_is_right_twice(self, chain: Chain) -> None:
        found = await compare(ChainSource(chain), ChainSource(a_chain(HEIGHT, other_from=12)), replay=True)
        assert found.divergence is not None
        assert [verdict.right for verdict in found.divergence.verdicts] == [True, True]

    async def test_a_block_without_a_quorum(self, chain: Chain) -> None:
        source, _, _ = with_wrong(chain, 9, event=2)
        bundle = source.bundles[-1]
        source.bundles[-1] = dataclasses.replace(bundle, certificate=make_certificate(bundle.block, voters=("a",)))
        found = (await compare(ChainSource(chain), source, replay=True)).divergence
        assert found is not None
        assert found.verdicts[0].right
        assert "certificate" in found.verdicts[1].error


class TestSourcesThatContradictThemselves:
    async def test_another_genesis(self, chain: Chain) -> None:
        other = Chain(make_genesis(first_directory({"a": 2, "b": 1, "c": 1, "d": 1})))
        with pytest.raises(VerificationFailed, match="two worlds") as caught:
            await compare(ChainSource(chain), ChainSource(other))
        assert caught.value.place == "genesis"

    async def test_a_block_that_does_not_follow_the_one_before(self, chain: Chain) -> None:
        other = ChainSource(chain)
        bundle = other.bundles[8]
        block = resign(dataclasses.replace(bundle.block, prev_block_hash="1" * 64), "a")
        others: Sequence[BlockBundle] = a_chain(HEIGHT, other_from=9).bundles
        other.bundles[8:] = [dataclasses.replace(bundle, block=block), *others[9:]]
        with pytest.raises(VerificationFailed, match="does not follow") as caught:
            await compare(ChainSource(chain), other)
        assert (caught.value.height, caught.value.place) == (9, "block.prev_block_hash")

    async def test_a_block_that_is_announced_and_not_served(self, chain: Chain) -> None:
        other = ChainSource(a_chain(HEIGHT, other_from=9))
        blocks = other.blocks

        async def hiding(start: int, *, limit: int = 64) -> tuple[BlockBundle, ...]:
            return () if start == 8 else await blocks(start, limit=limit)

        other.blocks = hiding  # type: ignore[method-assign]
        with pytest.raises(VerificationFailed, match="does not serve"):
            await compare(ChainSource(chain), other)

    async def test_a_block_of_another_height(self, chain: Chain) -> None:
        other = ChainSource(a_chain(HEIGHT, other_from=9))
        other.bundles[7] = other.bundles[6]
        with pytest.raises(VerificationFailed, match="serves block 7 instead"):
            await compare(ChainSource(chain), other)
