"""Who proposes two blocks in one round is named, with both proposals; in memory that nobody can fill."""

from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.events import HeightStarted, RecordEvidence
from agentworld_core.consensus.evidence import (
    PROPOSING,
    EvidenceSet,
    accused,
    check_equivocation,
    evidence_of,
    phase_name,
    place_of,
)
from agentworld_core.consensus.offers import ROUNDS_PER_PROPOSER, Offers
from agentworld_core.errors import AgentWorldError, InvalidSignature, MalformedEncoding, StateMismatch
from agentworld_core.messages import PREVOTE, Equivocation
from tests.unit.core.consensus.bench import FOUR, Bench, R, only, proposal, vote

ONE, OTHER = proposal("b", R(1, 0), mark="one"), proposal("b", R(1, 0), mark="other")
PROOF = evidence_of(ONE.proposal, OTHER.proposal)


@pytest.mark.box("S25.3", "same-height-other-hash")
@pytest.mark.box("S25.1", "contradicting-proposal")
def test_the_second_proposal_of_a_round_is_evidence_once() -> None:
    bench = Bench()
    assert not only(bench.propose(ONE), RecordEvidence)
    assert not only(bench.propose(ONE), RecordEvidence)
    assert [item.evidence for item in only(bench.propose(OTHER), RecordEvidence)] == [PROOF]
    assert not only(bench.propose(proposal("b", R(1, 0), mark="third")), RecordEvidence)
    check_equivocation(PROOF, FOUR)
    assert (accused(PROOF), phase_name(PROOF)) == ("b", "proposal")
    assert place_of(PROOF.first) == (1, 1, 0, PROPOSING)


def test_it_does_not_matter_whose_turn_it_was_or_that_the_height_is_the_next() -> None:
    bench = Bench()
    for height in (1, 2):
        bench.propose(proposal("d", R(9, 2), mark="one", height=height))
        found = only(bench.propose(proposal("d", R(9, 2), mark="other", height=height)), RecordEvidence)
        assert [accused(item.evidence) for item in found] == ["d"]


def test_the_same_block_again_is_no_offence() -> None:
    bench = Bench()
    bench.propose(ONE)
    assert not only(bench.propose(proposal("b", R(1, 1), since=R(1, 0), of=ONE)), RecordEvidence)


@pytest.mark.box("S25.1", "bounded")
def test_nobody_fills_the_memory_and_a_decided_height_is_forgotten() -> None:
    offers = Offers()
    for attempt in range(500):
        offers.note(dataclasses.replace(ONE.proposal, attempt=attempt))
    assert len(offers._seen["b"]) == ROUNDS_PER_PROPOSER
    bench = Bench()
    bench.propose(ONE)
    bench.propose(OTHER)
    bench.give(HeightStarted(2, FOUR, R(1, 0)))
    assert (bench.engine._offers._seen, bench.engine._offers._reported) == ({}, {})


def test_a_proof_is_kept_beside_those_of_votes_and_read_back() -> None:
    votes = evidence_of(*(vote("b", R(1, 0), PREVOTE, value) for value in (ONE, None)))
    held = EvidenceSet([PROOF, votes])
    assert len(held) == 2
    assert decode(Equivocation, encode(PROOF)) == PROOF
    assert decode(Equivocation, encode(votes)) == votes


@pytest.mark.parametrize(
    ("proof", "kind"),
    [
        (Equivocation(ONE.proposal, ONE.proposal), StateMismatch),
        (Equivocation(PROOF.second, PROOF.first), StateMismatch),
        (Equivocation(PROOF.first, dataclasses.replace(PROOF.second, attempt=1)), InvalidSignature),
        (Equivocation(PROOF.first, proposal("b", R(1, 1), mark="x").proposal), StateMismatch),
        (Equivocation(PROOF.first, proposal("c", R(1, 0), mark="x").proposal), StateMismatch),
        (Equivocation(ONE.proposal, vote("b", R(1, 0), PREVOTE, OTHER)), StateMismatch),
        (Equivocation(PROOF.first, dataclasses.replace(PROOF.second, world_id="mars")), AgentWorldError),
    ],
)
def test_what_proves_nothing_is_refused(proof: Equivocation, kind: type[AgentWorldError]) -> None:
    with pytest.raises(kind):
        check_equivocation(proof, FOUR)


def test_anything_but_votes_and_proposals_has_no_encoding() -> None:
    with pytest.raises(MalformedEncoding) as refused:
        encode(Equivocation(ONE, ONE))  # type: ignore[arg-type]
    assert refused.value.field == "first"
    for inner in ("8114f6", "80", "f6", "810180"):
        with pytest.raises(MalformedEncoding):
            decode(Equivocation, bytes.fromhex("83181d" + inner + inner))
