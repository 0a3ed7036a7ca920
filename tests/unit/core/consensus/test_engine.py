"""The rules of one height, with this node as ``a`` and the test as everybody else; ``b`` holds the lease of term 1."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentworld_core.consensus.certificates import check_certificate
from agentworld_core.consensus.events import (
    BroadcastProposal,
    BroadcastVote,
    BuildCandidate,
    CandidateBuilt,
    Commit,
    JudgeCandidate,
    LeaseObserved,
    OwnVoteHeard,
    PersistProposal,
    PersistVote,
    RecordEvidence,
    RequestSync,
    VoteDurable,
    VoteReceived,
    WorkPending,
)
from agentworld_core.consensus.evidence import check_equivocation
from agentworld_core.consensus.own import OWN_VOTES_KEPT
from agentworld_core.membership.directory import CRASH
from agentworld_core.messages import PRECOMMIT, PREVOTE
from agentworld_core.signing import sign
from tests.unit.core.consensus.bench import FOUR, Bench, R, candidate, only, proposal, vote
from tests.unit.core.membership.worlds import first_directory, signer


def cast(effects: list) -> list[tuple[int, str | None]]:
    """The votes sent: phase and block."""
    return [(item.vote.phase, item.vote.block_hash) for item in only(effects, BroadcastVote)]


@pytest.mark.box("S27.4", "live")
@pytest.mark.box("S25.1", "phases")
def test_a_proposal_is_judged_prevoted_precommitted_and_committed() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    block = body.proposal.block_hash
    assert cast(bench.propose(body)) == [(PREVOTE, block)]
    assert cast(bench.hear(vote("b", R(1, 0), PREVOTE, body))) == []
    assert cast(bench.hear(vote("c", R(1, 0), PREVOTE, body))) == [(PRECOMMIT, block)]
    bench.hear(vote("b", R(1, 0), PRECOMMIT, body))
    commit = only(bench.hear(vote("d", R(1, 0), PRECOMMIT, body)), Commit)[0]
    assert (commit.height, commit.block_hash, commit.body.block) == (1, block, body.block)
    check_certificate(commit.certificate, FOUR)
    assert [item.validator_id for item in commit.certificate.votes] == ["a", "b", "d"]


@pytest.mark.box("S25.1", "phases")
def test_the_order_of_arrival_does_not_matter() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.hear(*(vote(name, R(1, 0), phase, body) for phase in (PRECOMMIT, PREVOTE) for name in "bcd"))
    assert not only(bench.effects, Commit)
    assert [item.height for item in only(bench.effects, RequestSync)] == [1]
    assert only(bench.propose(body), Commit)


@pytest.mark.box("S26.2", "durable-before-sent")
def test_a_vote_is_sent_only_when_it_is_on_disk() -> None:
    bench = Bench(auto=False)
    body = proposal("b", R(1, 0))
    assert only(bench.propose(body), JudgeCandidate)
    persist = only(bench.give(bench.__class__.answer(bench, JudgeCandidate(body))[0]), PersistVote)[0]
    assert not only(bench.effects, BroadcastVote)
    signed = sign(persist.vote, signer("a"))
    assert only(bench.give(VoteDurable(signed)), BroadcastVote) == [BroadcastVote(signed)]


@pytest.mark.box("S26.1", "lock-with-its-vote")
def test_the_precommit_is_stored_with_the_block_and_the_prevotes_it_stands_on() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    persist = only(bench.hear(vote("b", R(1, 0), PREVOTE, body), vote("c", R(1, 0), PREVOTE, body)), PersistVote)[-1]
    assert persist.lock is not None
    assert (persist.lock.round, persist.lock.body.block) == (R(1, 0), body.block)
    assert [item.validator_id for item in persist.lock.polka] == ["a", "b", "c"]
    assert bench.disk_votes[0][1] is None


@pytest.mark.box("S25.1", "executed-first")
def test_an_invalid_block_gets_a_vote_for_nothing() -> None:
    bench = Bench(valid=lambda _: False)
    assert cast(bench.propose(proposal("b", R(1, 0)))) == [(PREVOTE, None)]


@pytest.mark.box("S25.1", "rejection-ends-the-round")
def test_without_a_proposal_it_votes_for_nothing_twice_and_tries_again() -> None:
    bench = Bench()
    assert cast(bench.fire("propose")) == [(PREVOTE, None)]
    assert cast(bench.hear(vote("c", R(1, 0), PREVOTE, None))) == []
    assert cast(bench.hear(vote("d", R(1, 0), PREVOTE, None))) == [(PRECOMMIT, None)]
    bench.hear(vote("c", R(1, 0), PRECOMMIT, None), vote("d", R(1, 0), PRECOMMIT, None))
    assert bench.engine.round == R(1, 0)
    bench.fire("precommit")
    assert bench.engine.round == R(1, 1)


@pytest.mark.box("S25.1", "rejection-ends-the-round")
def test_a_split_vote_times_out() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    bench.hear(vote("c", R(1, 0), PREVOTE, None), vote("d", R(1, 0), PREVOTE, None))
    assert cast(bench.fire("prevote")) == [(PRECOMMIT, None)]


@pytest.mark.box("S25.1", "rejection-ends-the-round")
def test_timeouts_grow_with_the_attempt() -> None:
    bench = Bench()
    delays = []
    for attempt in range(3):
        delays.append(bench.timers[f"propose:1:1.{attempt}"])
        bench.fire("propose")
        votes = [vote(name, R(1, attempt), phase, None) for phase in (PREVOTE, PRECOMMIT) for name in "cd"]
        bench.hear(*votes)
        bench.fire("precommit")
    assert delays == sorted(set(delays))


@pytest.mark.box("S26.2", "durable-before-sent")
def test_the_holder_builds_stores_and_sends_its_proposal() -> None:
    bench = Bench(holder="a")
    kinds = [type(effect) for effect in bench.effects]
    assert kinds.index(BuildCandidate) < kinds.index(PersistProposal) < kinds.index(BroadcastProposal)
    sent = only(bench.effects, BroadcastProposal)[0].body
    assert cast(bench.effects) == [(PREVOTE, sent.proposal.block_hash)]
    assert not only(bench.effects, JudgeCandidate)


def test_a_candidate_that_comes_too_late_is_not_proposed() -> None:
    bench = Bench(holder="a", auto=False)
    assert only(bench.effects, BuildCandidate)
    bench.give(LeaseObserved(2, "b"))
    assert not only(bench.give(CandidateBuilt(1, R(1, 0), candidate("a", R(1, 0)))), PersistProposal)


@pytest.mark.box("S27.4", "no-holder")
@pytest.mark.box("S27.2", "lease-to-propose")
def test_a_holder_that_has_lost_its_lease_proposes_nothing() -> None:
    bench = Bench(holder="a", work=False)
    bench.give(LeaseObserved(1, None))
    assert not only(bench.give(WorkPending(True)), BuildCandidate)
    assert only(bench.give(LeaseObserved(1, "a")), BuildCandidate)


@pytest.mark.box("S27.4", "wrong-holder")
@pytest.mark.box("S27.2", "lease-to-propose")
@pytest.mark.box("S25.1", "proposer")
def test_nobody_but_the_holder_is_listened_to() -> None:
    bench = Bench()
    assert cast(bench.propose(proposal("c", R(1, 0)))) == []
    assert cast(bench.propose(proposal("b", R(1, 0)))) != []


@pytest.mark.box("S27.4", "wrong-holder")
def test_the_lease_service_has_the_last_word_on_who_holds_a_term() -> None:
    bench = Bench()
    bench.give(LeaseObserved(1, "c"))
    assert cast(bench.propose(proposal("b", R(1, 0)))) == []
    assert cast(bench.propose(proposal("c", R(1, 0)))) != []


def test_a_proposal_of_an_unseen_term_waits_for_the_lease() -> None:
    bench, body = Bench(), proposal("c", R(2, 0))
    assert cast(bench.propose(body)) == []
    assert cast(bench.give(LeaseObserved(2, "c"))) == [(PREVOTE, body.proposal.block_hash)]
    assert bench.engine.round == R(2, 0)


def test_others_can_vouch_for_a_holder_that_is_not_seen_here() -> None:
    bench, body = Bench(), proposal("c", R(2, 0))
    bench.propose(body)
    bench.hear(vote("c", R(2, 0), PREVOTE, body))
    assert bench.engine.round == R(1, 0)
    assert cast(bench.hear(vote("d", R(2, 0), PREVOTE, body)))[0] == (PREVOTE, body.proposal.block_hash)


@pytest.mark.box("S5.3", "fencing")
def test_terms_below_the_parents_are_fenced_off() -> None:
    bench = Bench(parent_round=R(3, 0), holder="b")
    assert bench.engine.round == R(3, 0)
    assert bench.engine.highest_term == 3
    assert cast(bench.propose(proposal("b", R(1, 0)))) == []
    old = proposal("b", R(2, 0))
    bench.give(LeaseObserved(4, "c"))
    again = proposal("c", R(4, 0), since=R(3, 0), of=old)
    bench.hear(*(vote(name, R(3, 0), PREVOTE, old) for name in "bcd"))
    assert cast(bench.propose(again)) == []


@pytest.mark.box("S25.1", "lock")
def test_a_lock_holds_against_a_new_block_and_yields_to_a_later_quorum() -> None:
    bench, first = Bench(), proposal("b", R(1, 0))
    bench.propose(first)
    bench.hear(vote("b", R(1, 0), PREVOTE, first), vote("c", R(1, 0), PREVOTE, first))
    bench.give(LeaseObserved(2, "c"))
    other = proposal("c", R(2, 0), mark="other")
    assert cast(bench.propose(other)) == [(PREVOTE, None)]
    bench.hear(*(vote(name, R(2, 0), PREVOTE, other) for name in "bcd"))
    assert cast(bench.effects)[-1] == (PRECOMMIT, other.proposal.block_hash)
    bench.give(LeaseObserved(3, "d"))
    assert cast(bench.propose(proposal("d", R(3, 0), of=first, since=R(1, 0)))) == [(PREVOTE, None)]


@pytest.mark.box("S25.1", "lock")
def test_a_lock_yields_to_a_proposal_that_proves_a_later_quorum() -> None:
    bench, first = Bench(), proposal("b", R(1, 0))
    bench.propose(first)
    bench.hear(vote("b", R(1, 0), PREVOTE, first), vote("c", R(1, 0), PREVOTE, first))
    bench.give(LeaseObserved(2, "c"))
    bench.give(LeaseObserved(3, "d"))
    other = proposal("c", R(2, 0), mark="other")
    again = proposal("d", R(3, 0), of=other, since=R(2, 0))
    assert cast(bench.propose(again)) == []
    votes = [vote(name, R(2, 0), PREVOTE, other) for name in "bcd"]
    assert cast(bench.hear(*votes)) == [(PREVOTE, other.proposal.block_hash)]


@pytest.mark.box("S25.1", "lock")
def test_the_holder_proposes_again_what_a_quorum_has_prevoted() -> None:
    bench, first = Bench(), proposal("b", R(1, 0))
    bench.propose(first)
    bench.hear(vote("b", R(1, 0), PREVOTE, first), vote("c", R(1, 0), PREVOTE, first))
    sent = only(bench.give(LeaseObserved(2, "a")), BroadcastProposal)[0].body
    assert sent.block == first.block
    assert (sent.proposal.valid_term, sent.proposal.valid_attempt) == (1, 0)
    assert not only(bench.effects, BuildCandidate)


def test_votes_of_more_than_may_lie_move_it_to_their_round() -> None:
    bench = Bench()
    bench.hear(vote("b", R(1, 5), PREVOTE, None))
    assert bench.engine.round == R(1, 0)
    bench.hear(vote("c", R(1, 4), PRECOMMIT, None))
    assert bench.engine.round == R(1, 4)


def test_a_decision_in_an_earlier_round_still_decides() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    bench.give(LeaseObserved(2, "c"))
    commit = only(bench.hear(*(vote(name, R(1, 0), PRECOMMIT, body) for name in "bcd")), Commit)
    assert commit[0].certificate.term == 1


@pytest.mark.box("S25.1", "contradicting-vote")
def test_one_vote_per_phase_and_evidence_of_more() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.hear(vote("d", R(1, 0), PREVOTE, None))
    found = only(bench.hear(vote("d", R(1, 0), PREVOTE, body)), RecordEvidence)
    assert len(found) == 1
    check_equivocation(found[0].evidence, FOUR)
    assert not only(bench.hear(vote("d", R(1, 0), PREVOTE, "e" * 64)), RecordEvidence)


def test_a_flood_of_contradictions_is_one_offence_and_takes_no_memory() -> None:
    bench = Bench()
    found = [
        effect
        for attempt in range(1, 200)
        for block_hash in ("e" * 64, None)
        for effect in only(bench.hear(vote("d", R(1, attempt), PREVOTE, block_hash)), RecordEvidence)
    ]
    assert len(found) == 1
    voting = bench.engine._voting
    assert voting is not None
    assert len(voting.book._reported) == 1


def test_a_flood_in_our_own_name_takes_no_memory() -> None:
    """Somebody else has our key: what it signs is not contradicted, but neither is all of it remembered."""
    bench = Bench()
    for attempt in range(1, 1000):
        bench.hear(vote("a", R(1, attempt), PREVOTE, None))
    voting = bench.engine._voting
    assert voting is not None
    assert len(voting.own.votes) <= OWN_VOTES_KEPT


@pytest.mark.box("S25.1", "contradicting-vote")
def test_who_votes_twice_cannot_hide_a_quorum() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    bench.hear(vote("d", R(1, 0), PREVOTE, "e" * 64), vote("d", R(1, 0), PREVOTE, None))
    bench.hear(vote("b", R(1, 0), PREVOTE, body))
    assert cast(bench.hear(vote("d", R(1, 0), PREVOTE, body))) == [(PRECOMMIT, body.proposal.block_hash)]


@pytest.mark.box("S26.2", "lying-disk")
def test_it_never_contradicts_a_vote_of_its_own_that_it_has_forgotten() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    (forgotten,) = only(bench.hear(vote("a", R(1, 0), PREVOTE, "e" * 64)), OwnVoteHeard)
    assert forgotten.vote.block_hash == "e" * 64
    assert only(bench.hear(vote("a", R(1, 0), PREVOTE, "e" * 64)), OwnVoteHeard) == []
    assert cast(bench.propose(body)) == []
    assert not only(bench.fire("propose") if any(n.startswith("propose") for n in bench.timers) else [], PersistVote)


@pytest.mark.box("S25.1", "other-world-or-epoch", "non-member")
def test_strangers_and_other_worlds_epochs_and_keys_do_not_count() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    good = vote("c", R(1, 0), PREVOTE, body)
    wrong = [
        replace(good, validator_id="z"),
        replace(good, world_id="borealis"),
        replace(good, directory_epoch=2),
        replace(good, key_id=signer("b").key_id),
        replace(good, phase=3),
    ]
    bench.hear(vote("b", R(1, 0), PREVOTE, body), *wrong)
    assert (PRECOMMIT, body.proposal.block_hash) not in cast(bench.effects)
    assert (PRECOMMIT, body.proposal.block_hash) in cast(bench.hear(good))


@pytest.mark.box("S25.1", "future-height")
def test_what_came_early_for_the_next_height_is_used_there() -> None:
    bench, body = Bench(), proposal("b", R(1, 0), height=2)
    bench.propose(body)
    bench.hear(*(vote(name, R(1, 0), PREVOTE, body, height=2) for name in "bc"))
    assert cast(bench.effects) == []
    bench.start_height(2)
    assert cast(bench.effects) == [(PREVOTE, body.proposal.block_hash), (PRECOMMIT, body.proposal.block_hash)]


@pytest.mark.box("S25.1", "future-height")
def test_it_asks_for_blocks_when_enough_others_are_ahead() -> None:
    bench = Bench()
    assert not only(bench.hear(vote("b", R(1, 0), PREVOTE, None, height=9)), RequestSync)
    asked = only(bench.hear(vote("c", R(1, 0), PREVOTE, None, height=5)), RequestSync)
    assert [item.height for item in asked] == [4]
    assert not only(bench.hear(vote("c", R(1, 0), PRECOMMIT, None, height=5)), RequestSync)


@pytest.mark.box("29.1", "one")
def test_a_single_validator_decides_alone() -> None:
    one = first_directory({"a": 1})
    bench = Bench(directory=one, holder="a")
    commit = only(bench.effects, Commit)
    assert len(commit) == 1
    check_certificate(commit[0].certificate, one)


@pytest.mark.box("29.1", "weights")
@pytest.mark.box("S25.1", "weights")
def test_weights_count_not_heads() -> None:
    heavy = first_directory({"a": 1, "b": 5, "c": 1, "d": 1})
    bench, body = Bench(directory=heavy), proposal("b", R(1, 0))
    bench.propose(body)
    assert cast(bench.hear(vote("b", R(1, 0), PREVOTE, body))) == [(PRECOMMIT, body.proposal.block_hash)]
    assert only(bench.hear(vote("b", R(1, 0), PRECOMMIT, body)), Commit)


@pytest.mark.box("S25.3", "two-of-three")
def test_the_crash_model_needs_a_majority_only() -> None:
    three = first_directory({"a": 1, "b": 1, "c": 1}, fault_model=CRASH)
    bench, body = Bench(directory=three), proposal("b", R(1, 0))
    bench.propose(body)
    bench.hear(vote("b", R(1, 0), PREVOTE, body))
    assert only(bench.hear(vote("b", R(1, 0), PRECOMMIT, body)), Commit)


@pytest.mark.box("S25.1", "non-member")
@pytest.mark.parametrize("own", [None, "z"])
def test_who_is_no_member_only_watches_and_still_learns_the_decision(own: str | None) -> None:
    bench, body = Bench(own=own), proposal("b", R(1, 0))
    bench.propose(body)
    bench.hear(*(vote(name, R(1, 0), phase, body) for phase in (PREVOTE, PRECOMMIT) for name in "bcd"))
    assert [type(effect) for effect in bench.effects] == [Commit]


@pytest.mark.box("S25.1", "proposer")
def test_without_leases_the_proposer_rotates() -> None:
    bench = Bench(leaseless=True)
    assert bench.engine.round == R(0, 0)
    expected = FOUR.members[1].member_id
    body = proposal(expected, R(0, 0))
    assert cast(bench.propose(proposal("c", R(0, 0)))) == []
    assert cast(bench.propose(body)) == [(PREVOTE, body.proposal.block_hash)]
    assert cast(bench.propose(proposal("b", R(3, 0)))) == []
    first = len(bench.effects)
    bench.start_height(4)
    assert only(bench.effects[first:], BuildCandidate) == [BuildCandidate(4, R(0, 0))]


@pytest.mark.box("S25.1", "bounded")
def test_votes_in_memory_stay_bounded_whatever_one_validator_sends() -> None:
    bench = Bench(work=False)
    for attempt in range(1, 400):
        bench.give(VoteReceived(vote("d", R(1, attempt), PREVOTE, None)))
        bench.give(VoteReceived(vote("d", R(1, 0), PREVOTE, f"{attempt:064x}")))
        bench.give(VoteReceived(vote("d", R(1, attempt), PREVOTE, None, height=2)))
    voting = bench.engine._voting
    assert voting is not None
    assert sum(len(list(tally.all_votes())) for tally in voting.book._tallies.values()) < 20
    assert sum(len(kept) for kept in bench.engine._next._votes.values()) < 20
