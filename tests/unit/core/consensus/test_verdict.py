"""Why a world moves or does not: every sentence, from pictures of a real engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agentworld_core.consensus import verdict as words
from agentworld_core.consensus.events import CandidateBuilt, HeightStarted, LeaseObserved
from agentworld_core.consensus.proposers import HOLDER_ATTEMPTS
from agentworld_core.consensus.verdict import (
    STALLED_MS,
    LeaseSight,
    Situation,
    Verdict,
    verdict,
    world_verdict,
)
from agentworld_core.messages import PRECOMMIT, PREVOTE
from tests.unit.core.consensus.bench import Bench, R, candidate, proposal, vote
from tests.unit.core.membership.worlds import first_directory

ALL = ("a", "b", "c", "d")
HELD = LeaseSight(holder="b", term=1, expires_in_ms=9000)
FIRST = R(1, 0)


def seen(bench: Bench, **changes: Any) -> Verdict:
    """The verdict of a node in touch with everybody, but for the changes."""
    given: dict[str, Any] = {"connected": ALL, "lease": HELD, **changes}
    return verdict(Situation(view=bench.engine.view(), **given))


def told(bench: Bench, **changes: Any) -> tuple[str, str]:
    found = seen(bench, **changes)
    return found.state, found.message


def test_a_node_in_trouble_speaks_of_itself() -> None:
    bench = Bench()
    assert told(bench, failure="the log is damaged") == (
        words.NODE_FAILED,
        "this node cannot go on until it is started again: the log is damaged",
    )
    assert told(bench, storage_full=True)[0] == words.STORAGE_FULL
    assert told(bench, behind="12 blocks behind") == (
        words.CATCHING_UP,
        "this node is not at the head (12 blocks behind); ask another one",
    )
    assert verdict(Situation(view=None)).state == words.STARTING
    assert seen(bench, storage_full=True).stalled, "a full disk is no matter of time"


def test_nothing_to_do_is_idle_however_long() -> None:
    found = seen(Bench(work=False), waited_ms=10 * STALLED_MS)
    assert found == Verdict(state=words.IDLE, message="idle: no actions wait")


def test_too_few_in_touch() -> None:
    assert told(Bench(), connected=("a", "b")) == (
        words.NO_QUORUM,
        "2 of 4 validators are in touch and 3 are needed: no c, d",
    )


def test_too_few_in_touch_by_weight() -> None:
    bench = Bench(directory=first_directory({"a": 1, "b": 1, "c": 1, "d": 10}))
    assert told(bench, connected=("a", "b", "c")) == (
        words.NO_QUORUM,
        "weight 3 of 13 is in touch and 9 is needed: no d",
    )


def test_who_has_voted_is_in_touch_whoever_is_connected() -> None:
    bench = Bench()
    body = proposal("b", FIRST)
    bench.propose(body)
    bench.hear(vote("b", FIRST, PREVOTE, body), vote("c", FIRST, PREVOTE, body))
    assert seen(bench, connected=("a",)).state != words.NO_QUORUM


@pytest.mark.box("S27.4", "no-holder")
def test_nobody_writes() -> None:
    bench = Bench(holder=None)
    free = LeaseSight(holder=None, term=0)
    assert told(bench, lease=free) == (words.NO_WRITER, "nobody holds the writer lease")
    silent = dataclasses.replace(free, answers=False)
    assert told(bench, lease=silent) == (
        words.LEASE_UNREACHABLE,
        "the store of the writer lease does not answer this node",
    )


def test_the_writer_is_away_or_silent() -> None:
    bench = Bench()
    assert told(bench, connected=("a", "c", "d")) == (
        words.WRITER_AWAY,
        "b has the turn to propose and is not in touch with this node",
    )
    assert told(bench) == (words.NO_PROPOSAL, "waits for the proposal of b")
    bench.fire("propose")
    assert told(bench) == (words.NO_PROPOSAL, "waits for the proposal of b"), "the step is no reason of its own"
    bench.hear(*(vote(name, FIRST, PREVOTE, None) for name in "cd"))
    bench.hear(*(vote(name, FIRST, PRECOMMIT, None) for name in "cd"))
    bench.fire("precommit")
    assert told(bench) == (words.NO_PROPOSAL, "waits for the proposal of b"), "neither is the attempt"


def test_when_the_writer_has_had_its_attempts_it_says_that_others_propose() -> None:
    bench = Bench()
    for attempt in range(HOLDER_ATTEMPTS + 2):
        bench.hear(*(vote(name, R(1, attempt), phase, None) for phase in (PREVOTE, PRECOMMIT) for name in "bcd"))
        bench.fire("precommit")
    held = LeaseSight(holder="b", term=1, expires_in_ms=9000)
    free = dataclasses.replace(held, holder=None, expires_in_ms=None)
    for lease, state, cause in (
        (held, words.NO_PROPOSAL, "nothing came of the attempts of the lease's holder"),
        (free, words.NO_WRITER, "nobody holds the writer lease"),
        (
            dataclasses.replace(free, answers=False),
            words.LEASE_UNREACHABLE,
            "the store of the writer lease does not answer this node",
        ),
    ):
        assert told(bench, lease=lease) == (state, f"{cause}; the validators propose in turn")


@pytest.mark.box("S5.3", "unknown-holder")
def test_a_lease_that_names_a_stranger_says_so() -> None:
    stranger = LeaseSight(holder="somebody", term=7, expires_in_ms=9000)
    assert told(Bench(holder="somebody"), lease=stranger) == (
        words.UNKNOWN_WRITER,
        "the writer lease names somebody, which is no validator; one takes it once it has expired",
    )


def test_a_node_that_does_not_see_the_lease_waits_for_the_writer() -> None:
    bench = Bench(own=None, holder=None)
    assert told(bench, lease=None) == (words.NO_PROPOSAL, "waits for the proposal of the writer")


def test_without_a_lease_it_waits_for_whose_turn_it_is() -> None:
    bench = Bench(leaseless=True, holder=None)
    turn = bench.engine.view()
    assert turn is not None
    assert told(bench, lease=None, leaseless=True) == (words.NO_PROPOSAL, f"waits for the proposal of {turn.proposer}")


def test_the_own_turn() -> None:
    bench = Bench(holder="a", auto=False)
    assert told(bench, lease=dataclasses.replace(HELD, holder="a")) == (
        words.BUILDING,
        "this node builds the next block",
    )
    bench.fire("propose")
    assert told(bench, lease=dataclasses.replace(HELD, holder="a")) == (
        words.NO_PROPOSAL,
        "this node had no block in time; the next attempt follows",
    )


def test_the_block_interval() -> None:
    bench = Bench(block_interval_ms=5000)
    bench.now_ms = 1
    bench.start_height(2)
    assert told(bench) == (words.PACING, "the next block waits for the block interval to pass")


def test_a_block_is_executed_or_found_wrong() -> None:
    bench = Bench(auto=False)
    body = proposal("b", FIRST)
    bench.propose(body)
    assert told(bench) == (words.JUDGING, "this node executes the block of b")
    wrong = Bench(valid=lambda _: False)
    wrong.propose(body)
    assert told(wrong) == (words.BLOCK_REFUSED, "this node found the block of b wrong and votes for none")


def test_votes_that_are_missing_are_named() -> None:
    bench = Bench()
    body = proposal("b", FIRST)
    bench.propose(body)
    assert told(bench) == (words.PREVOTES, "waits for 2 more of 3 prevotes: b, c, d missing")
    bench.hear(vote("b", FIRST, PREVOTE, body), vote("c", FIRST, PREVOTE, body))
    assert told(bench) == (words.PRECOMMITS, "waits for 2 more of 3 precommits: b, c, d missing")
    bench.hear(vote("b", FIRST, PRECOMMIT, body))
    assert told(bench) == (words.PRECOMMITS, "waits for 1 more of 3 precommits: c, d missing")
    bench.hear(vote("c", FIRST, PRECOMMIT, body))
    assert told(bench) == (words.COMMITTING, "height 1 is decided and is being written")


def test_votes_are_told_by_weight_where_weights_differ() -> None:
    bench = Bench(directory=first_directory({"a": 2, "b": 2, "c": 2, "d": 3}))
    bench.propose(proposal("b", FIRST))
    assert told(bench) == (words.PREVOTES, "waits for weight 5 more of 7 prevotes: b, c, d missing")


def test_votes_that_do_not_agree() -> None:
    bench = Bench()
    body = proposal("b", FIRST)
    bench.propose(body)
    bench.hear(vote("b", FIRST, PREVOTE, None), vote("c", FIRST, PREVOTE, None))
    assert told(bench) == (words.SPLIT_VOTES, "the prevotes do not agree on one block; the next attempt follows")
    other = Bench()
    other.propose(body)
    other.hear(*(vote(name, FIRST, PREVOTE, body) for name in "bc"))
    other.hear(*(vote(name, FIRST, PRECOMMIT, None) for name in "bc"))
    assert told(other) == (words.SPLIT_VOTES, "the precommits do not agree on one block; the next attempt follows")


def test_a_decided_block_that_this_node_lacks() -> None:
    bench = Bench()
    body = proposal("b", FIRST)
    bench.hear(*(vote(name, FIRST, PRECOMMIT, body) for name in "bcd"))
    assert told(bench) == (words.FETCHING_BLOCK, "height 1 is decided; this node fetches its block")


def test_an_observer_sees_the_votes_of_others() -> None:
    bench = Bench(own=None)
    body = proposal("b", FIRST)
    bench.propose(body)
    bench.hear(vote("b", FIRST, PREVOTE, body), vote("c", FIRST, PREVOTE, body))
    view = bench.engine.view()
    assert view is not None
    assert (view.own_id, view.step, view.active) == (None, "", True)
    assert told(bench) == (words.PREVOTES, "waits for 1 more of 3 prevotes: a, d missing")


def test_the_picture_shows_what_a_node_stands_on() -> None:
    bench = Bench()
    body = proposal("b", FIRST)
    bench.propose(body)
    bench.hear(vote("b", FIRST, PREVOTE, body), vote("c", FIRST, PREVOTE, body))
    bench.give(LeaseObserved(4, "c"))
    view = bench.engine.view()
    assert view is not None
    assert view.round == R(4, 0)
    assert view.locked == view.valid == (FIRST, body.proposal.block_hash)
    assert view.proposer == view.may_propose == "c"
    assert view.proposal is None
    assert view.missing(PREVOTE) == list(ALL)
    assert [ballot.heard for ballot in view.ballots] == [True, True, True, False]


def test_a_released_lease_leaves_nobody_the_turn() -> None:
    bench = Bench()
    bench.give(LeaseObserved(1, None))
    view = bench.engine.view()
    assert view is not None
    assert (view.proposer, view.may_propose) == ("b", None)


def test_work_that_waits_long_is_a_stall() -> None:
    assert not seen(Bench(), waited_ms=STALLED_MS - 1).stalled
    assert seen(Bench(), waited_ms=STALLED_MS).stalled


def test_a_view_is_a_copy() -> None:
    bench = Bench(holder="a", auto=False)
    before = bench.engine.view()
    bench.give(CandidateBuilt(1, FIRST, candidate("a", FIRST)))
    bench.give(HeightStarted(2, bench.directory, R(1, 0)))
    assert before is not None
    assert before.height == 1


class TestWorld:
    IDLE = Verdict(state=words.IDLE, message="idle: no actions wait")
    BUSY = Verdict(state=words.PREVOTES, message="waits")
    STUCK = Verdict(state=words.NO_WRITER, message="nobody holds the writer lease", stalled=True)
    CUT_OFF = Verdict(state=words.NO_QUORUM, message="1 of 4", stalled=True)

    def test_nobody_answers(self) -> None:
        assert world_verdict([]) is None

    @pytest.mark.parametrize("turned", [False, True])
    def test_one_that_is_cut_off_does_not_speak_for_all(self, turned: bool) -> None:
        reports = [(5, "a", self.IDLE), (5, "b", self.IDLE), (5, "c", self.CUT_OFF)]
        assert world_verdict(reversed(reports) if turned else reports) == self.IDLE

    def test_only_the_highest_head_counts(self) -> None:
        reports = [(6, "a", self.BUSY), (5, "b", self.STUCK), (5, "c", self.STUCK)]
        assert world_verdict(reports) == Verdict(state=words.MOVING, message="blocks are being decided")

    def test_the_most_frequent_reason_of_a_stall_is_given(self) -> None:
        other = dataclasses.replace(self.CUT_OFF, message="2 of 4")
        reports = [(5, "d", self.STUCK), (5, "c", other), (5, "b", self.CUT_OFF), (5, "a", self.IDLE)]
        assert world_verdict(reports) == self.CUT_OFF

    def test_half_is_no_stall(self) -> None:
        assert world_verdict([(5, "a", self.STUCK), (5, "b", self.IDLE)]) == self.IDLE
