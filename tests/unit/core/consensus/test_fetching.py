"""Fetching batches in parts: whom it asks for what, what it believes, and what it never keeps."""

from __future__ import annotations

import dataclasses
import functools
import random

import pytest

from agentworld_core.codec import encode
from agentworld_core.consensus.fetching import (
    FETCHES_PER_PEER,
    KEPT_PER_PROPOSER,
    UNDER_WAY_PER_PEER,
    Arrived,
    Ask,
    Fetching,
)
from agentworld_core.consensus.parts import (
    MAX_PARTS,
    PART_BYTES,
    Batch,
    ProposalOffer,
    batch_of,
    check_sizes,
    size_of_part,
    split,
    whole,
)
from agentworld_core.consensus.verify import verify_offer
from agentworld_core.errors import HashMismatch, InvalidField
from agentworld_core.hashing import content_id
from agentworld_core.signing import sign
from tests.unit.core.consensus.bench import FOUR, R, proposal
from tests.unit.core.membership.worlds import signer

SIZE = 5 * PART_BYTES + 17
PEERS = ("pa", "pb", "pc", "pd")


@functools.cache
def offered(mark: int = 0, *, height: int = 1, size: int = SIZE, proposer: str = "a") -> tuple[ProposalOffer, Batch]:
    """An offer of a batch of random bytes; Fetching never looks into it."""
    data = random.Random(mark).randbytes(size)
    body = proposal(proposer, R(1, 0), height=height, mark=str(mark))
    block = dataclasses.replace(body.block, action_root=content_id(data))
    batch = batch_of(block, data)
    return ProposalOffer(body.proposal, block, batch.size, batch.ids), batch


def give(fetching: Fetching, batch: Batch, asks: list[Ask]) -> list[Arrived]:
    return [done for ask in asks for done in fetching.took(ask, batch.parts[ask.index])]


class TestParts:
    def test_what_is_put_together_is_what_the_proposer_would_have_sent(self) -> None:
        body = proposal("b", R(1, 0))
        batch = split(body)
        offer = ProposalOffer(body.proposal, body.block, batch.size, batch.ids)
        assert whole(offer, b"".join(batch.parts)) == encode(body)

    def test_parts_are_full_but_for_the_last(self) -> None:
        offer, batch = offered()
        assert [len(part) for part in batch.parts] == [PART_BYTES] * 5 + [17]
        assert [size_of_part(offer, index) for index in range(6)] == [PART_BYTES] * 5 + [17]
        even, _ = offered(1, size=2 * PART_BYTES)
        check_sizes(even)
        assert [size_of_part(even, index) for index in range(2)] == [PART_BYTES] * 2

    @pytest.mark.parametrize("size", [0, 1, 5 * PART_BYTES, 6 * PART_BYTES + 1, 2**63])
    def test_a_size_that_does_not_fit_the_parts_is_refused(self, size: int) -> None:
        offer, _ = offered()
        with pytest.raises(InvalidField) as caught:
            Fetching().offer("pa", dataclasses.replace(offer, batch_bytes=size))
        assert caught.value.field == "batch_bytes"
        with pytest.raises(InvalidField):
            Fetching().offer("pa", dataclasses.replace(offer, batch_bytes=0, parts=()))

    @pytest.mark.box("S25.1", "forged-proposal")
    def test_an_offer_carries_the_block_that_its_proposal_names(self) -> None:
        body = proposal("b", R(1, 0))
        verify_offer(FOUR, (), body.proposal, body.block)
        with pytest.raises(HashMismatch):
            verify_offer(
                FOUR, (), sign(dataclasses.replace(body.proposal, block_hash="a" * 64), signer("b")), body.block
            )


class TestAsking:
    def test_who_offered_is_asked_for_every_part_once_and_the_whole_arrives(self) -> None:
        fetching = Fetching()
        offer, batch = offered()
        assert fetching.offer("pa", offer) == []
        asks = fetching.asks(PEERS)
        assert [(ask.peer_id, ask.part, ask.size) for ask in asks] == [
            ("pa", part, len(data)) for part, data in zip(batch.ids, batch.parts, strict=True)
        ]
        assert fetching.asks(PEERS) == []
        assert give(fetching, batch, asks) == [Arrived("pa", whole(offer, b"".join(batch.parts)))]
        assert fetching.asks(PEERS) == []
        assert [fetching.part(part) for part in batch.ids] == list(batch.parts)
        assert fetching.part("a" * 64) is None

    def test_who_did_not_answer_is_asked_after_all_others_also_for_later_batches(self) -> None:
        """Each silence costs a deadline, and a liar may offer again and again what it does not give."""
        fetching = Fetching()
        (first, batch), (second, _) = offered(1), offered(2)
        for peer_id in ("pa", "pb"):
            fetching.offer(peer_id, first)
        asks = fetching.asks(PEERS)
        for ask in asks:
            if ask.peer_id == "pa":
                fetching.failed(ask)
        give(fetching, batch, [ask for ask in asks if ask.peer_id == "pb"])
        fetching.offer("pa", first)
        assert {ask.peer_id for ask in fetching.asks(("pa", "pb"))} == {"pb"}
        for peer_id in ("pa", "pb"):
            fetching.offer(peer_id, second)
        again = [ask.peer_id for ask in fetching.asks(("pa", "pb"))]
        assert again.count("pb") >= UNDER_WAY_PER_PEER - len(batch.ids) // 2
        assert again[0] == "pb"

    def test_several_who_offered_share_the_work(self) -> None:
        fetching = Fetching()
        offer, batch = offered()
        for peer_id in ("pa", "pb", "pc"):
            fetching.offer(peer_id, offer)
        asks = fetching.asks(PEERS)
        assert sorted(ask.peer_id for ask in asks) == ["pa", "pa", "pb", "pb", "pc", "pc"]
        assert len(give(fetching, batch, asks)) == 1, "one proposal, however many offered it"

    def test_one_peer_is_asked_for_so_many_parts_at_once_whatever_it_offers(self) -> None:
        fetching = Fetching()
        offer, batch = offered(size=MAX_PARTS * PART_BYTES)
        fetching.offer("pa", offer)
        fetching.offer("pa", offered(2)[0])
        asks = fetching.asks(PEERS)
        assert [ask.index for ask in asks] == list(range(UNDER_WAY_PER_PEER))
        give(fetching, batch, asks[:3])
        assert [ask.index for ask in fetching.asks(PEERS)] == [8, 9, 10]

    def test_after_a_refusal_others_are_asked_one_part_each_until_one_gives(self) -> None:
        fetching = Fetching()
        offer, batch = offered()
        fetching.offer("pa", offer)
        for ask in fetching.asks(PEERS):
            fetching.failed(ask)
        asks = fetching.asks(PEERS)
        assert [(ask.peer_id, ask.index) for ask in asks] == [("pb", 0), ("pc", 1), ("pd", 2)]
        fetching.failed(asks[0])
        fetching.failed(asks[2])
        give(fetching, batch, [asks[1]])
        rest = fetching.asks(PEERS)
        assert {ask.peer_id for ask in rest} == {"pc"}
        assert sorted(ask.index for ask in rest) == [0, 2, 3, 4, 5]
        assert [done.peer_id for done in give(fetching, batch, rest)] == ["pa"]

    def test_when_all_refuse_it_rests_until_one_offers_again_and_knows_what_it_had(self) -> None:
        fetching = Fetching()
        offer, batch = offered()
        fetching.offer("pa", offer)
        first = fetching.asks(PEERS)
        give(fetching, batch, first[:4])
        for ask in first[4:]:
            fetching.failed(ask)
        requests = 0
        while asks := fetching.asks(PEERS):
            requests += len(asks)
            for ask in asks:
                fetching.failed(ask)
        assert requests <= len(PEERS)
        fetching.offer("pb", offer)
        asks = fetching.asks(PEERS)
        assert [(ask.peer_id, ask.index) for ask in asks] == [("pb", 4), ("pb", 5)]
        assert len(give(fetching, batch, asks)) == 1

    def test_who_is_not_connected_is_not_asked(self) -> None:
        fetching = Fetching()
        fetching.offer("pa", offered()[0])
        assert fetching.asks([]) == []
        assert {ask.peer_id for ask in fetching.asks(["pb"])} == {"pb"}, "what was gossiped on by others"

    def test_an_offer_of_what_is_here_arrives_at_once(self) -> None:
        fetching = Fetching()
        offer, batch = offered()
        fetching.keep(offer.block.action_root, batch)
        again = dataclasses.replace(offer, proposal=dataclasses.replace(offer.proposal, attempt=1))
        data = b"".join(batch.parts)
        assert fetching.offer("pa", again) == [Arrived("pa", whole(again, data))]
        assert fetching.asks(PEERS) == []

    def test_two_proposals_of_one_block_are_fetched_once(self) -> None:
        fetching = Fetching()
        offer, batch = offered()
        again = dataclasses.replace(offer, proposal=dataclasses.replace(offer.proposal, attempt=1))
        fetching.offer("pa", offer)
        asks = fetching.asks(PEERS)
        fetching.offer("pb", again)
        assert fetching.asks(PEERS) == []
        assert [done.peer_id for done in give(fetching, batch, asks)] == ["pa", "pb"]


class TestLies:
    @pytest.mark.parametrize("wrong", [b"", b"x", bytes(PART_BYTES), bytes(PART_BYTES + 1)])
    def test_a_wrong_part_is_refused_and_its_sender_not_asked_again(self, wrong: bytes) -> None:
        fetching = Fetching()
        offer, batch = offered()
        fetching.offer("pa", offer)
        fetching.offer("pb", offer)
        asks = fetching.asks(PEERS)
        mine = [ask for ask in asks if ask.peer_id == "pa"]
        with pytest.raises(HashMismatch):
            fetching.took(mine[0], wrong)
        for ask in mine[1:]:
            fetching.failed(ask)
        rest = fetching.asks(PEERS)
        assert {ask.peer_id for ask in rest} <= {"pb", "pc", "pd"}
        with pytest.raises(HashMismatch):
            fetching.offer("pa", offer)
        others = [ask for ask in asks if ask.peer_id == "pb"]
        assert [done.peer_id for done in give(fetching, batch, others + rest)] == ["pb"]

    def test_what_is_no_part_at_all_is_a_lie_as_well(self) -> None:
        fetching = Fetching()
        fetching.offer("pa", offered()[0])
        fetching.lied(fetching.asks(PEERS)[0])
        assert fetching.held_bytes == 0
        with pytest.raises(HashMismatch):
            fetching.offer("pa", offered()[0])

    def test_a_list_of_other_parts_holds_up_nobody_who_offers_the_right_ones(self) -> None:
        fetching = Fetching()
        offer, batch = offered()
        _, other = offered(7)
        lie = dataclasses.replace(offer, parts=other.ids)
        fetching.offer("pa", lie)
        fetching.offer("pb", offer)
        asks = fetching.asks(PEERS)
        lies = [ask for ask in asks if ask.peer_id == "pa"]
        give(fetching, other, lies[:-1])
        with pytest.raises(HashMismatch):
            give(fetching, other, lies[-1:])
        assert [done.peer_id for done in give(fetching, batch, asks[len(lies) :])] == ["pb"]
        with pytest.raises(HashMismatch):
            fetching.offer("pa", offered(3)[0])
        fetching.decided(1)
        fetching.offer("pa", offered(4, height=2)[0])
        assert fetching.asks(PEERS) != []


class TestBounds:
    def test_who_floods_pushes_out_its_own_offers_and_nobody_elses(self) -> None:
        fetching = Fetching()
        honest, batch = offered(1000)
        fetching.offer("pb", honest)
        mine = [ask for ask in fetching.asks(["pb"]) if ask.peer_id == "pb"]
        for mark in range(20):
            offer, flooded = offered(mark)
            fetching.offer("pa", offer)
            for ask in fetching.asks(["pa"]):
                if ask.key == (offer.block.action_root, offer.batch_bytes, offer.parts) and ask.index:
                    fetching.took(ask, flooded.parts[ask.index])
                else:
                    fetching.failed(ask)
        assert fetching.held_bytes <= FETCHES_PER_PEER * MAX_PARTS * PART_BYTES
        assert [done.peer_id for done in give(fetching, batch, mine)] == ["pb"]

    def test_of_each_proposer_the_newest_batches_are_served(self) -> None:
        fetching = Fetching()
        other, kept = offered(99, proposer="b")
        fetching.keep(other.block.action_root, kept)
        made = [offered(mark) for mark in range(5)]
        for offer, batch in made:
            fetching.keep(offer.block.action_root, batch)
        assert [fetching.part(batch.ids[0]) is not None for _, batch in made] == [False] * 3 + [True] * 2
        assert fetching.part(kept.ids[0]) is not None
        assert fetching.held_bytes == (KEPT_PER_PROPOSER + 1) * SIZE

    def test_a_decided_height_is_fetched_no_more_and_served_until_the_next(self) -> None:
        fetching = Fetching()
        offer, batch = offered()
        later, _ = offered(5, height=2)
        fetching.offer("pa", later)
        fetching.offer("pb", offer)
        late = fetching.asks(PEERS)
        fetching.keep(content_id(b"own"), offered(6)[1])
        fetching.decided(1)
        for ask in late:
            if ask.peer_id == "pb":
                assert fetching.took(ask, batch.parts[ask.index]) == []
            else:
                fetching.failed(ask)
        assert fetching.part(offered(6)[1].ids[0]) is not None
        fetching.decided(2)
        assert fetching.held_bytes == 0
        assert fetching.asks(PEERS) == []
