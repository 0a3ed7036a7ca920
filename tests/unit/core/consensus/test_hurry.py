"""When a validator hurries and when it rests, and what it says again."""

from __future__ import annotations

import pytest

from agentworld_core.consensus.events import (
    BroadcastProposal,
    BroadcastVote,
    BuildCandidate,
    SetTimer,
    TimerFired,
    WorkPending,
)
from agentworld_core.messages import PRECOMMIT, PREVOTE
from tests.unit.core.consensus.bench import Bench, R, only, proposal, vote
from tests.unit.core.consensus.test_engine import cast


def test_an_idle_world_stands_still() -> None:
    bench = Bench(work=False, holder="a")
    assert bench.effects == []
    bench.give(WorkPending(True))
    assert only(bench.effects, BuildCandidate)


def test_one_liar_cannot_wake_an_idle_world() -> None:
    bench = Bench(work=False)
    assert bench.hear(vote("d", R(1, 0), PREVOTE, None), vote("d", R(1, 3), PRECOMMIT, None)) == []
    assert only(bench.hear(vote("c", R(1, 0), PREVOTE, None)), SetTimer)


def test_work_without_a_holder_is_voted_on_so_that_others_learn_the_round() -> None:
    bench = Bench(holder=None)
    assert cast(bench.fire("propose")) == [(PREVOTE, None)]


def test_when_the_work_goes_away_so_do_the_timers() -> None:
    bench = Bench()
    running = {item.name for item in only(bench.effects, SetTimer)}
    cancelled = {effect.name for effect in bench.give(WorkPending(False)) if hasattr(effect, "name")}
    assert cancelled == running
    assert bench.give(TimerFired(next(iter(running)))) == []


@pytest.mark.box("S25.1", "on-the-wire")
def test_it_repeats_its_votes_its_proposal_and_then_what_others_need() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    repeated = bench.fire("rebroadcast")
    assert cast(repeated) == [(PREVOTE, body.proposal.block_hash)]
    assert not only(repeated, BroadcastProposal)
    again = bench.fire("rebroadcast")
    assert only(again, BroadcastProposal)
    delays = [item.delay_ms for item in only(bench.effects, SetTimer) if item.name.startswith("rebroadcast")]
    assert delays == sorted(set(delays))


def test_it_repeats_why_it_left_the_last_round_and_what_it_is_locked_on() -> None:
    bench, body = Bench(), proposal("b", R(1, 0))
    bench.propose(body)
    bench.hear(vote("b", R(1, 0), PREVOTE, body), vote("c", R(1, 0), PREVOTE, body))
    bench.hear(vote("b", R(1, 0), PRECOMMIT, None), vote("c", R(1, 0), PRECOMMIT, None))
    bench.fire("precommit")
    bench.fire("rebroadcast")
    repeated = bench.fire("rebroadcast")
    assert [item.body for item in only(repeated, BroadcastProposal)] == [body]
    sent = {(item.vote.validator_id, item.vote.phase) for item in only(repeated, BroadcastVote)}
    assert sent >= {(name, phase) for name in "abc" for phase in (PREVOTE, PRECOMMIT)}


def test_blocks_are_paced_only_while_there_is_work() -> None:
    bench = Bench(holder="a", block_interval_ms=1000)
    assert only(bench.effects, BuildCandidate)
    bench.now_ms = 200
    first = len(bench.effects)
    bench.start_height(2)
    pace = only(bench.effects[first:], SetTimer)[0]
    assert (pace.name, pace.delay_ms) == ("pace:2", 800)
    assert not only(bench.effects[first:], BuildCandidate)
    assert only(bench.give(TimerFired("pace:2")), BuildCandidate)
    idle = Bench(holder="a", block_interval_ms=1000, work=False)
    idle.start_height(2)
    assert idle.effects == []
    idle.now_ms = 1000
    assert only(idle.give(WorkPending(True)), BuildCandidate)
