"""What a validator stored is what it is bound by after a crash."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentworld_core.consensus.events import (
    BroadcastProposal,
    BroadcastVote,
    Commit,
    DurableVotes,
    LeaseObserved,
    PersistVote,
)
from agentworld_core.errors import StateMismatch
from agentworld_core.messages import PRECOMMIT, PREVOTE
from tests.unit.core.consensus.bench import Bench, R, only, proposal, vote
from tests.unit.core.consensus.test_engine import cast


@pytest.mark.box("S26.2", "binding")
def test_it_does_not_vote_again_in_a_round_it_has_voted_in() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    again = bench.restarted()
    assert again.engine.round == R(1, 0)
    assert cast(again.propose(proposal("b", R(1, 0), mark="other"))) == []
    assert not any(name.startswith("propose") for name in again.timers)
    assert cast(again.fire("rebroadcast")) == [(PREVOTE, body.proposal.block_hash)]


@pytest.mark.box("S26.2", "binding")
def test_a_vote_that_was_stored_but_not_sent_is_still_binding() -> None:
    bench, body = Bench(auto=False), proposal("b", R(1, 0))
    persist = [effect for e in bench.propose(body) for effect in bench.give(bench.answer(e)[0])]
    bench.answer(only(persist, PersistVote)[0])
    again = bench.restarted(auto=True)
    assert cast(again.propose(proposal("b", R(1, 0), mark="other"))) == []


@pytest.mark.box("S26.2", "binding")
def test_it_keeps_its_lock_and_proves_it_when_it_proposes() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    bench.hear(vote("b", R(1, 0), PREVOTE, body), vote("c", R(1, 0), PREVOTE, body))
    again = bench.restarted()
    again.give(LeaseObserved(2, "c"))
    assert cast(again.propose(proposal("c", R(2, 0), mark="other"))) == [(PREVOTE, None)]
    sent = only(again.give(LeaseObserved(3, "a")), BroadcastProposal)[0].body
    assert (sent.block, sent.proposal.valid_term) == (body.block, 1)
    again.fire("rebroadcast")
    repeated = {item.vote.validator_id for item in only(again.fire("rebroadcast"), BroadcastVote)}
    assert repeated >= {"a", "b", "c"}


@pytest.mark.box("S26.2", "binding")
def test_it_does_not_propose_twice_in_a_round() -> None:
    bench = Bench(holder="a")
    assert len(bench.disk_proposals) == 1
    again = bench.restarted()
    assert again.disk_proposals == []
    assert only(again.fire("rebroadcast"), BroadcastProposal)[0].body == bench.disk_proposals[0]


@pytest.mark.box("S26.2", "comes-back")
def test_it_continues_in_the_last_round_it_has_voted_in() -> None:
    bench = Bench()
    for attempt in range(2):
        bench.fire("propose")
        bench.hear(*(vote(name, R(1, attempt), phase, None) for phase in (PREVOTE, PRECOMMIT) for name in "cd"))
        bench.fire("precommit")
    bench.fire("propose")
    again = bench.restarted()
    assert again.engine.round == R(1, 2)
    assert cast(again.propose(proposal("b", R(1, 2)))) == []


@pytest.mark.box("S26.2", "lock-missing")
def test_without_the_lock_of_its_precommit_it_refuses_to_start() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    bench.hear(vote("b", R(1, 0), PREVOTE, body), vote("c", R(1, 0), PREVOTE, body))
    votes = tuple(item for item, _ in bench.disk_votes)
    assert votes[-1].phase == PRECOMMIT
    with pytest.raises(StateMismatch):
        replace(bench, durable=DurableVotes(votes=votes))


@pytest.mark.box("S26.1", "pruned")
def test_what_was_stored_for_another_height_does_not_bind_this_one() -> None:
    bench, body = Bench(), proposal("b", R(1, 0), height=2)
    bench.propose(proposal("b", R(1, 0)))
    again = bench.restarted()
    again.start_height(2)
    assert cast(again.propose(body)) == [(PREVOTE, body.proposal.block_hash)]


@pytest.mark.box("S26.2", "of-another")
@pytest.mark.parametrize("name", ["b", "z"])
def test_what_another_has_stored_is_refused_whether_that_is_a_member_or_not(name: str) -> None:
    """The folder of another validator, copied or mounted by mistake: its votes are not ours to stand by."""
    bench, body = Bench(), proposal("b", R(1, 0))
    votes = (vote("a", R(1, 0), PREVOTE, body), replace(vote("b", R(1, 0), PREVOTE, body), validator_id=name))
    with pytest.raises(StateMismatch, match=name) as refused:
        replace(bench, durable=DurableVotes(votes=votes))
    assert refused.value.field == "validator_id"


@pytest.mark.box("S26.2", "of-another")
def test_a_stored_proposal_of_another_is_refused() -> None:
    with pytest.raises(StateMismatch, match="b"):
        replace(Bench(), durable=DurableVotes(proposals=(proposal("b", R(1, 0)),)))


def test_it_is_started_once() -> None:
    bench = Bench()
    with pytest.raises(StateMismatch):
        bench.engine.start(0, DurableVotes())


@pytest.mark.box("S26.2", "recounted")
def test_a_decision_that_was_not_committed_is_counted_again_from_the_votes() -> None:
    """No status is stored: what a node stored of its own decides nothing until the votes of the others are back."""
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    votes = [vote(name, R(1, 0), phase, body) for phase in (PREVOTE, PRECOMMIT) for name in "bc"]
    (decided,) = only(bench.hear(*votes), Commit)
    again = bench.restarted()
    assert not only(again.effects, Commit)
    assert not only(again.hear(*votes[:-1]), Commit)
    assert only(again.hear(votes[-1]), Commit) == [decided]
