"""Proofs that a validator voted twice: how many are kept, and a file that proves one by itself."""

from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.consensus import evidence as evidence_module
from agentworld_core.consensus.drafts import draft_vote
from agentworld_core.consensus.evidence import PER_VALIDATOR, Evidence, EvidenceSet, evidence_id, evidence_of
from agentworld_core.consensus.votes import VoteBook
from agentworld_core.errors import (
    AgentWorldError,
    HashMismatch,
    InvalidSignature,
    StateMismatch,
    WrongWorld,
)
from agentworld_core.ledger.evidence_file import EvidenceFile, check_evidence_file
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.messages import PRECOMMIT, Directory, Equivocation, Round
from agentworld_core.signing import Ed25519Signer, sign
from tests.unit.node.material import make_genesis, member, next_epoch, signer

GENESIS = make_genesis()
SECOND = next_epoch(GENESIS.directory, members=[member(name) for name in ("v0", "v1", "v2")])


def proof(
    name: str = "v1", *, height: int = 5, directory: Directory = GENESIS.directory, key: Ed25519Signer | None = None
) -> Equivocation:
    votes = [
        sign(
            draft_vote(
                directory, validator_id=name, height=height, round_=Round(2, 1), phase=PRECOMMIT, block_hash=value
            ),
            key or signer(name),
        )
        for value in ("a" * 64, None)
    ]
    return evidence_of(*votes)


class TestSet:
    def test_one_proof_for_each_place_and_a_few_for_each_validator(self) -> None:
        held = EvidenceSet([proof()])
        assert held.add(proof()) is False
        other = dataclasses.replace(proof(), second=dataclasses.replace(proof().second, block_hash="c" * 64))
        assert not held.lacks(other), "the place is proven already"
        for height in range(6, 20):
            held.add(proof(height=height))
        assert len(held) == PER_VALIDATOR
        assert held.add(proof("v2")), "one cheat leaves room for another"

    def test_the_whole_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(evidence_module, "MAX_EVIDENCE", 2)
        held = EvidenceSet(proof(name) for name in ("v0", "v1", "v2"))
        assert len(held) == 2

    def test_who_votes_three_ways_leaves_no_two_nodes_apart_for_ever(self) -> None:
        third = dataclasses.replace(proof(), second=dataclasses.replace(proof().second, block_hash="c" * 64))
        one, two = EvidenceSet([proof(), proof("v2")]), EvidenceSet([third])
        assert one.hash != two.hash, "one lacks what the other has"
        two.add(proof("v2"))
        assert not any(one.lacks(item) for _, item in two.items())
        assert one.hash == two.hash

    def test_enough_is_enough_whichever_proofs_they_are(self) -> None:
        one = EvidenceSet(proof(height=height) for height in range(1, PER_VALIDATOR + 1))
        two = EvidenceSet(proof(height=height) for height in range(101, PER_VALIDATOR + 100))
        assert one.hash != two.hash
        two.add(proof(height=1))
        assert one.hash == two.hash

    def test_a_full_set_is_like_any_other_full_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(evidence_module, "MAX_EVIDENCE", 2)
        assert EvidenceSet([proof(), proof("v2")]).hash == EvidenceSet([proof("v0"), proof("v2")]).hash

    def test_it_is_told_in_one_order_and_found_by_hash(self) -> None:
        one, two = EvidenceSet([proof(), proof("v2")]), EvidenceSet([proof("v2"), proof()])
        assert one.as_message("aurora") == two.as_message("aurora")
        assert one.hash == two.hash != EvidenceSet([proof()]).hash
        assert one.get(evidence_id(proof())) == proof()
        assert one.get("0" * 64) is None
        assert decode(Evidence, encode(one.as_message("aurora"))).items == tuple(item for _, item in one.items())


def test_a_cheat_that_climbs_through_the_rounds_fills_no_memory() -> None:
    book = VoteBook(GENESIS.directory, own_id="v0")
    found = 0
    for attempt in range(500):
        for value in ("a" * 64, "b" * 64):
            draft = draft_vote(
                GENESIS.directory,
                validator_id="v3",
                height=1,
                round_=Round(1, attempt + 1),
                phase=PRECOMMIT,
                block_hash=value,
            )
            found += book.add(draft, current=Round(1, 0)).evidence is not None
    assert found == 1
    assert book._reported == {"v3"}


class TestFile:
    @pytest.mark.box("S25.3", "evidence-checked-offline")
    def test_it_proves_itself(self) -> None:
        file = EvidenceFile(genesis=GENESIS, directories=(), evidence=proof())
        assert check_evidence_file(decode(EvidenceFile, encode(file))) == GENESIS.directory
        assert check_evidence_file(file, trusted_genesis=genesis_hash(GENESIS)) == GENESIS.directory

    def test_a_later_epoch_is_followed_from_the_genesis(self) -> None:
        file = EvidenceFile(genesis=GENESIS, directories=(SECOND,), evidence=proof(directory=SECOND))
        assert check_evidence_file(file) == SECOND

    @pytest.mark.box("S25.3", "evidence-checked-offline")
    @pytest.mark.parametrize(
        ("file", "kind", "field"),
        [
            (EvidenceFile(GENESIS, (), proof(directory=SECOND)), StateMismatch, "evidence.first.directory_epoch"),
            (EvidenceFile(GENESIS, (SECOND,), proof()), StateMismatch, "evidence.first.directory_epoch"),
            (
                EvidenceFile(GENESIS, (dataclasses.replace(SECOND, reason="mine"),), proof(directory=SECOND)),
                InvalidSignature,
                "signatures[0].signature",
            ),
            (EvidenceFile(GENESIS, (SECOND,), proof("v3", directory=SECOND)), AgentWorldError, "member_id"),
            (EvidenceFile(GENESIS, (), proof(key=signer("v2"))), AgentWorldError, "key_id"),
            (
                EvidenceFile(
                    GENESIS, (), dataclasses.replace(proof(), first=dataclasses.replace(proof().first, term=7))
                ),
                InvalidSignature,
                "signature",
            ),
            (EvidenceFile(GENESIS, (), Equivocation(proof().first, proof().first)), StateMismatch, "second"),
            (
                EvidenceFile(GENESIS, (), dataclasses.replace(
                    proof(), first=dataclasses.replace(proof().first, world_id="mars"))),
                WrongWorld,
                "evidence.first.world_id",
            ),
        ],
    )  # fmt: skip
    def test_what_proves_nothing_is_refused(self, file: EvidenceFile, kind: type[AgentWorldError], field: str) -> None:
        with pytest.raises(kind) as refused:
            check_evidence_file(file)
        assert refused.value.field == field

    def test_another_genesis_than_the_trusted_one_is_refused(self) -> None:
        file = EvidenceFile(genesis=GENESIS, directories=(), evidence=proof())
        with pytest.raises(HashMismatch):
            check_evidence_file(file, trusted_genesis="0" * 64)
