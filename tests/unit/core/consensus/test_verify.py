from __future__ import annotations

from dataclasses import replace

import pytest

from agentworld_core.consensus.certificates import certificate_of, check_certificate
from agentworld_core.consensus.evidence import check_equivocation, evidence_of
from agentworld_core.consensus.verify import verify_proposal, verify_vote
from agentworld_core.errors import (
    AgentWorldError,
    HashMismatch,
    InvalidField,
    InvalidSignature,
    KeyRevoked,
    StateMismatch,
    Unauthorized,
    WrongWorld,
)
from agentworld_core.membership.builder import Changes, revoked_key, with_keys, without_member
from agentworld_core.membership.directory import BYZANTINE, CRASH
from agentworld_core.messages import PRECOMMIT, PREVOTE, CommitCertificate
from agentworld_core.signing import sign
from tests.unit.core.consensus.bench import FOUR, R, proposal, vote
from tests.unit.core.membership.worlds import first_directory, signer, statement, successor

BODY = proposal("b", R(1, 0))
VOTE = vote("a", R(1, 0), PREVOTE, BODY)


def certificate(*names: str) -> CommitCertificate:
    return certificate_of(vote(name, R(1, 0), PRECOMMIT, BODY) for name in names)


def test_good_messages_pass() -> None:
    verify_vote(FOUR, (), VOTE)
    verify_proposal(FOUR, (), BODY)
    verify_proposal(FOUR, (), proposal("c", R(2, 1), of=BODY, since=R(1, 0)))
    check_certificate(certificate("a", "b", "c"), FOUR)


@pytest.mark.box("S26.3", "vote-of-another")
@pytest.mark.box("S25.1", "forged-vote", "other-world-or-epoch")
@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"world_id": "borealis"}, WrongWorld, "world_id"),
        ({"directory_epoch": 2}, StateMismatch, "directory_epoch"),
        ({"phase": 3}, InvalidField, "phase"),
        ({"validator_id": "z"}, Unauthorized, "member_id"),
        ({"validator_id": "b"}, Unauthorized, "key_id"),
        ({"height": 2}, InvalidSignature, "signature"),
        ({"term": 2}, InvalidSignature, "signature"),
        ({"attempt": 1}, InvalidSignature, "signature"),
        ({"phase": PRECOMMIT}, InvalidSignature, "signature"),
        ({"block_hash": None}, InvalidSignature, "signature"),
        ({"signature": b""}, InvalidSignature, "signature"),
    ],
)
def test_no_field_of_a_vote_can_be_changed(change: dict[str, object], error: type[AgentWorldError], field: str) -> None:
    with pytest.raises(error) as caught:
        verify_vote(FOUR, (), replace(VOTE, **change))  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.box("S25.1", "revoked-member")
def test_a_revoked_key_counts_for_nothing_live_but_for_certificates_until_the_directory_says_so() -> None:
    revoked = signer("a").key_id
    with pytest.raises(KeyRevoked):
        verify_vote(FOUR, [revoked], VOTE)
    with pytest.raises(KeyRevoked):
        verify_proposal(FOUR, [signer("b").key_id], BODY)
    check_certificate(certificate("a", "b", "c"), FOUR)
    listed = successor(FOUR, Changes(members=with_keys(FOUR, "a", []), revoked=[revoked_key(statement(revoked))]))
    with pytest.raises(KeyRevoked) as caught:
        check_certificate(replace(certificate("a", "b", "c"), directory_epoch=2), listed)
    assert caught.value.field == "votes[0].key_id"


@pytest.mark.box("S25.1", "forged-proposal")
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (replace(BODY, proposal=replace(BODY.proposal, block_hash="a" * 64)), InvalidSignature),
        (
            replace(BODY, proposal=sign(replace(BODY.proposal, block_hash="a" * 64), signer("b"))),
            HashMismatch,
        ),
        (replace(BODY, proposal=sign(replace(BODY.proposal, attempt=1), signer("b"))), StateMismatch),
        (replace(BODY, block=replace(BODY.block, height=2)), StateMismatch),
        (replace(BODY, block=replace(BODY.block, directory_epoch=9)), StateMismatch),
        (replace(BODY, batch=replace(BODY.batch, height=2)), StateMismatch),
        (replace(BODY, batch=replace(BODY.batch, timestamp_ms=8)), HashMismatch),
        (proposal("c", R(2, 0), of=BODY, since=R(2, 0)), StateMismatch),
        (proposal("c", R(3, 0), of=proposal("b", R(2, 0)), since=R(1, 0)), StateMismatch),
        (replace(BODY, proposal=sign(replace(BODY.proposal, valid_term=0), signer("b"))), InvalidField),
        (replace(BODY, proposal=sign(replace(BODY.proposal, proposer_id="c"), signer("c"))), StateMismatch),
        (replace(BODY, proposal=sign(BODY.proposal, signer("c"))), Unauthorized),
    ],
)
def test_a_proposal_carries_the_block_and_round_it_names(body, error: type[AgentWorldError]) -> None:
    with pytest.raises(error):
        verify_proposal(FOUR, (), body)


@pytest.mark.box("S25.2", "certificate-short")
def test_a_certificate_needs_a_quorum_of_distinct_members() -> None:
    with pytest.raises(Unauthorized) as caught:
        check_certificate(certificate("a", "b"), FOUR)
    assert caught.value.field == "votes"
    good = certificate("a", "b", "c")
    with pytest.raises(InvalidField) as doubled:
        check_certificate(replace(good, votes=(*good.votes[:2], good.votes[0])), FOUR)
    assert doubled.value.field == "votes[2].validator_id"


@pytest.mark.box("S25.2", "certificate-forged")
@pytest.mark.parametrize("change", [{"height": 2}, {"term": 2}, {"attempt": 1}, {"block_hash": "a" * 64}])
def test_no_field_of_a_certificate_can_be_changed(change: dict[str, object]) -> None:
    with pytest.raises(InvalidSignature) as caught:
        check_certificate(replace(certificate("a", "b", "c"), **change), FOUR)  # type: ignore[arg-type]
    assert caught.value.field == "votes[0].signature"


@pytest.mark.box("S26.1", "epoch-of-each-vote")
@pytest.mark.box("S25.2", "certificate-forged")
def test_a_certificate_is_judged_by_its_own_epoch_and_world() -> None:
    good = certificate("a", "b", "c")
    with pytest.raises(StateMismatch):
        check_certificate(good, successor(FOUR, Changes()))
    with pytest.raises(WrongWorld):
        check_certificate(replace(good, world_id="borealis"), FOUR)
    with pytest.raises(Unauthorized) as caught:
        check_certificate(replace(good, votes=(replace(good.votes[0], validator_id="z"), *good.votes[1:])), FOUR)
    assert caught.value.field == "votes[0].validator_id"


def test_prevotes_make_no_certificate() -> None:
    prevotes = [vote(name, R(1, 0), PREVOTE, BODY) for name in "abc"]
    with pytest.raises(InvalidField):
        certificate_of(prevotes)
    with pytest.raises(InvalidField):
        certificate_of([])
    with pytest.raises(InvalidField):
        certificate_of([vote("a", R(1, 0), PRECOMMIT, BODY), vote("b", R(1, 1), PRECOMMIT, BODY)])


def test_evidence_is_the_same_whichever_vote_came_first_and_proves_itself() -> None:
    other = vote("a", R(1, 0), PREVOTE, None)
    found = evidence_of(VOTE, other)
    assert found == evidence_of(other, VOTE)
    check_equivocation(found, FOUR)
    with pytest.raises(StateMismatch):
        check_equivocation(replace(found, first=found.second, second=found.first), FOUR)


@pytest.mark.parametrize(
    "second",
    [VOTE, vote("a", R(1, 1), PREVOTE, None), vote("a", R(1, 0), PRECOMMIT, None), vote("b", R(1, 0), 1, None)],
)
def test_votes_that_do_not_contradict_each_other_are_no_evidence(second) -> None:
    with pytest.raises(StateMismatch):
        check_equivocation(evidence_of(VOTE, second), FOUR)


def test_forged_evidence_is_refused() -> None:
    forged = replace(VOTE, block_hash=None)
    with pytest.raises(InvalidSignature):
        check_equivocation(evidence_of(VOTE, forged), FOUR)


@pytest.mark.box("S25.1", "removed-member")
@pytest.mark.box("S26.1", "epoch-of-each-vote")
def test_who_has_been_removed_votes_no_more_and_its_earlier_votes_stay_what_they_are() -> None:
    three = successor(FOUR, Changes(members=without_member(FOUR, "d")))
    with pytest.raises(StateMismatch) as caught:
        verify_vote(three, (), vote("d", R(1, 0), PREVOTE, BODY))
    assert caught.value.field == "directory_epoch"
    late = sign(replace(vote("d", R(1, 0), PREVOTE, BODY), directory_epoch=2), signer("d"))
    with pytest.raises(Unauthorized) as removed:
        verify_vote(three, (), late)
    assert removed.value.field == "member_id"
    check_certificate(certificate("b", "c", "d"), FOUR)
    with pytest.raises(StateMismatch):
        check_certificate(certificate("b", "c", "d"), three)


@pytest.mark.box("S27.3", "not-auto-added")
@pytest.mark.box("S25.1", "proposer")
def test_who_is_no_member_proposes_nothing_whatever_the_lease_says() -> None:
    with pytest.raises(Unauthorized) as caught:
        verify_proposal(FOUR, (), proposal("z", R(1, 0)))
    assert caught.value.field == "member_id"


@pytest.mark.box("S25.2", "certificate-short")
@pytest.mark.parametrize(
    ("fault_model", "short", "enough"),
    [(BYZANTINE, ("a", "b"), ("a", "b", "d")), (CRASH, ("a", "d"), ("a", "b"))],
)
def test_a_certificate_that_is_short_by_one_weight_is_none(
    fault_model: str, short: tuple[str, ...], enough: tuple[str, ...]
) -> None:
    """Weight 7: five decide where some may lie, four where they only crash."""
    weights = first_directory({"a": 2, "b": 2, "c": 2, "d": 1}, fault_model=fault_model)
    with pytest.raises(Unauthorized) as caught:
        check_certificate(certificate(*short), weights)
    needed = 5 if fault_model == BYZANTINE else 4
    assert (caught.value.field, caught.value.message) == ("votes", f"needs weight {needed}, has {needed - 1}")
    check_certificate(certificate(*enough), weights)
