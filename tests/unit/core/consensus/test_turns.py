"""Whose turn it is when the holder of the lease decides nothing, and where validators go that have lost each other."""

from __future__ import annotations

import pytest

from agentworld_core.consensus.engine import ConsensusEngine
from agentworld_core.consensus.events import BroadcastProposal, BroadcastVote, BuildCandidate, LeaseObserved
from agentworld_core.consensus.following import TERM_STEP, Following
from agentworld_core.consensus.proposers import HOLDER_ATTEMPTS, turns_to_an_honest
from agentworld_core.consensus.votes import VoteBook
from agentworld_core.messages import PRECOMMIT, PREVOTE, Round, Vote
from tests.unit.core.consensus.bench import FOUR, Bench, R, only, proposal, vote
from tests.unit.core.consensus.test_engine import cast
from tests.unit.core.membership.worlds import first_directory

TURNS = turns_to_an_honest(FOUR)


def attempt_fails(bench: Bench) -> None:
    """All others vote for nothing in the round, and so does this one."""
    round_ = here(bench.engine)
    bench.hear(*votes_for_none("bcd", round_))
    bench.fire("precommit")


def votes_for_none(names: str, round_: Round) -> list[Vote]:
    return [vote(name, round_, phase, None) for phase in (PREVOTE, PRECOMMIT) for name in names]


def here(engine: ConsensusEngine) -> Round:
    assert engine.round is not None
    return engine.round


def said(bench: Bench, round_: Round) -> list[int]:
    """The phases in which it has voted in the round."""
    return [item.phase for item, _ in bench.disk_votes if (item.term, item.attempt) == round_]


def failed(attempts: int, **given: object) -> Bench:
    """A validator at height 1, where that many attempts have failed; in its fourth a proposes, in its fifth b."""
    bench = Bench(**given)  # type: ignore[arg-type]
    for _ in range(attempts):
        attempt_fails(bench)
    assert here(bench.engine).attempt == attempts
    return bench


@pytest.mark.box("S25.1", "proposer")
def test_a_writer_that_proposes_nothing_does_not_stop_the_world() -> None:
    bench = failed(HOLDER_ATTEMPTS, holder="b")
    sent = only(bench.effects, BroadcastProposal)
    assert [(item.body.proposal.proposer_id, item.body.proposal.attempt) for item in sent] == [("a", 3)]
    attempt_fails(bench)
    body = proposal("b", R(1, 4))
    assert cast(bench.propose(body)) == [(PREVOTE, body.proposal.block_hash)]


def test_the_holder_has_no_turn_of_its_own_then() -> None:
    bench = failed(HOLDER_ATTEMPTS + 1, holder="c")
    assert cast(bench.propose(proposal("c", R(1, 4)))) == []
    assert cast(bench.propose(proposal("b", R(1, 4))))


@pytest.mark.box("S27.4", "no-holder")
def test_nobody_needs_to_know_who_holds_the_lease_to_see_whose_turn_it_is() -> None:
    bench = failed(HOLDER_ATTEMPTS + 1, holder=None)
    assert cast(bench.propose(proposal("b", Round(0, 4))))


def test_one_that_may_not_write_by_the_lease_builds_only_in_its_turn() -> None:
    bench = failed(HOLDER_ATTEMPTS - 1, holder="b")
    assert only(bench.effects, BuildCandidate) == []
    attempt_fails(bench)
    assert [item.round for item in only(bench.effects, BuildCandidate)] == [R(1, HOLDER_ATTEMPTS)]


@pytest.mark.parametrize(
    ("made_in", "first"),
    [(R(1, 0), R(1, 0)), (R(1, 2), R(1, 0)), (R(1, 3), R(1, 3)), (R(1, 9), R(1, 3))],
    ids=["at-once", "by-the-holder", "in-turn", "in-turn-later"],
)
def test_who_did_not_write_in_time_has_no_attempts_at_the_next_heights_of_the_term(
    made_in: Round, first: Round
) -> None:
    assert here(Bench(parent_round=made_in, holder="b").engine) == first


def test_a_new_term_begins_with_its_holder() -> None:
    bench = Bench(parent_round=R(1, 3), holder="b")
    bench.give(LeaseObserved(2, "c"))
    assert here(bench.engine) == R(2, 0)
    assert cast(bench.propose(proposal("c", R(2, 0))))


def test_without_leases_every_height_begins_with_the_first_attempt() -> None:
    assert here(Bench(parent_round=R(0, 5), leaseless=True).engine) == R(0, 0)


def test_timeouts_are_short_again_at_a_height_that_begins_in_turn() -> None:
    turns, plain = Bench(parent_round=R(1, 3), holder="b"), Bench(holder="b")
    assert turns.timers["propose:1:1.3"] == plain.timers["propose:1:1.0"]


# The lease of who was passed over


@pytest.mark.box("S5.3", "yield")
def test_a_holder_that_others_had_to_propose_for_should_yield_also_when_nothing_is_to_be_done() -> None:
    bench = Bench(parent_round=R(1, 3), holder="a", work=False)
    assert bench.engine.should_yield
    bench.give(LeaseObserved(1, None))
    assert not bench.engine.should_yield
    bench.give(LeaseObserved(2, "a"))
    assert not bench.engine.should_yield


@pytest.mark.box("S5.3", "yield")
def test_a_holder_keeps_the_lease_while_others_have_their_turn_and_yields_when_they_have_failed() -> None:
    bench = Bench(holder="a", auto=False)
    for attempt in range(HOLDER_ATTEMPTS + TURNS):
        assert not bench.engine.should_yield
        bench.hear(*(vote(name, R(1, attempt + 1), PREVOTE, None) for name in "cd"))
    assert bench.engine.should_yield


@pytest.mark.box("S5.3", "clock-off")
@pytest.mark.box("S5.3", "yield")
def test_a_holder_that_sees_no_work_where_others_do_is_passed_over() -> None:
    """Its clock may be an hour behind: then it refuses actions that all others have, as from the future."""
    bench = failed(HOLDER_ATTEMPTS + 1, holder="a", work=False)
    assert cast(bench.propose(proposal("b", R(1, 4))))


def test_who_does_not_hold_the_lease_has_nothing_to_yield() -> None:
    assert not Bench(parent_round=R(1, 3), holder="b").engine.should_yield
    assert not Bench(parent_round=R(1, 3), holder="a", own=None).engine.should_yield


@pytest.mark.parametrize(
    ("weights", "turns"),
    [((1,), 1), ((1, 1, 1), 1), ((1, 1, 1, 1), 2), ((1,) * 7, 3), ((1, 1, 1, 10), 4), ((3, 3, 1, 1), 3)],
    ids=str,
)
def test_after_so_many_turns_an_honest_one_has_had_its_own(weights: tuple[int, ...], turns: int) -> None:
    directory = first_directory({f"v{number}": weight for number, weight in enumerate(weights)})
    assert turns_to_an_honest(directory) == turns


# Validators that have lost each other


def test_where_too_few_are_here_it_goes_where_another_is() -> None:
    """Its last vote may have been for a block: without it, and with one that votes for nothing, there is no quorum."""
    bench = Bench(holder="b")
    bench.hear(vote("d", R(7, 2), PREVOTE, None), vote("c", R(1, 0), PREVOTE, None))
    assert here(bench.engine) == R(1, 0)
    bench.fire("stall")
    assert here(bench.engine) == R(7, 0)
    assert bench.engine.highest_term == 7


def test_a_liar_alone_leads_nobody_away_from_a_round_that_goes_on() -> None:
    bench = Bench(holder="b")
    bench.fire("propose")
    bench.hear(vote("d", R(7, 2), PREVOTE, None), *votes_for_none("bc", R(1, 0)))
    bench.fire("stall")
    assert here(bench.engine) == R(1, 0)


def test_where_nobody_is_ahead_it_stays_and_looks_again() -> None:
    bench = Bench(holder="b")
    bench.fire("stall")
    assert here(bench.engine) == R(1, 0)
    bench.hear(vote("d", R(2, 0), PREVOTE, None))
    bench.fire("stall")
    assert here(bench.engine) == R(2, 0)


def test_a_term_that_is_far_away_is_come_near_in_steps() -> None:
    bench = Bench(holder="b")
    bench.hear(vote("d", R(2**31 - 2, 0), PREVOTE, None))
    bench.fire("stall")
    assert here(bench.engine) == R(1 + TERM_STEP, 0)
    bench.fire("stall")
    assert here(bench.engine) == R(1 + TERM_STEP, 0), "nobody else has come along"
    bench.hear(vote("c", R(1 + TERM_STEP, 0), PREVOTE, None))
    bench.fire("stall")
    assert here(bench.engine) == R(1 + 2 * TERM_STEP, 0)


def test_a_holder_that_has_gone_where_another_is_gives_the_lease_up_instead_of_taking_it_anew() -> None:
    """It may be cut off from all but a liar, and each new term would end the attempts of the others."""
    bench = Bench(holder="a")
    bench.hear(vote("d", R(700, 0), PREVOTE, None))
    assert not bench.engine.should_yield
    bench.fire("stall")
    assert here(bench.engine) == R(700, 0)
    assert bench.engine.should_yield
    bench.give(LeaseObserved(701, "a"))
    assert not bench.engine.should_yield


def test_of_those_who_are_ahead_each_is_followed_in_turn() -> None:
    """One of them may be a liar, who would otherwise lead everybody astray each time."""
    book = VoteBook(first_directory(dict.fromkeys("abcdefg", 1)), own_id="a")
    for name, term in (("c", 900), ("d", 7), ("e", 1)):
        book.add(vote(name, R(term, 0), PREVOTE, None), current=R(1, 0))
    following = Following(book, 1)
    assert sorted(following.next_term(1) for _ in range(2)) == [7, 900]  # type: ignore[type-var]


def test_when_an_honest_one_has_had_a_turn_in_vain_it_goes_where_another_is() -> None:
    """A quorum of votes is here, and none for a block: one of those who are here may be the liar."""
    bench = Bench(holder="b")
    bench.hear(vote("d", R(7, 0), PREVOTE, None))
    for _ in range(HOLDER_ATTEMPTS + TURNS):
        round_ = here(bench.engine)
        assert round_.term == 1
        if not said(bench, round_):
            bench.fire("propose")
        bench.hear(*(vote(name, round_, PREVOTE, None) for name in "bc"))
        if PRECOMMIT not in said(bench, round_):
            bench.fire("prevote")
        bench.hear(*(vote(name, round_, PRECOMMIT, None) for name in "bc"))
        bench.fire("precommit")
    assert here(bench.engine) == R(7, 0)


def test_it_says_again_what_it_has_said_where_it_was_before() -> None:
    bench = Bench(holder="b")
    bench.hear(vote("d", R(7, 0), PREVOTE, None))
    bench.fire("stall")
    bench.fire("propose")
    repeated = only(bench.fire("rebroadcast"), BroadcastVote)
    assert {(item.vote.term, item.vote.phase) for item in repeated} == {(7, PREVOTE)}
