from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agentworld_core.errors import InvalidField
from agentworld_core.ordering.lease import (
    PATIENCE,
    Acquire,
    Decision,
    LeaseKeeper,
    LeaseRecord,
    LeaseTimings,
    LeaseWrite,
    Release,
    Renew,
    Wait,
)

TIMINGS = LeaseTimings(duration_ms=50, renew_deadline_ms=30, retry_ms=10)


@dataclass
class Store:
    """Compare-and-swap on one record."""

    record: LeaseRecord | None = None
    writes: int = 0

    def write(self, wish: LeaseWrite) -> LeaseRecord | None:
        if wish.expected_version != (self.record.version if self.record is not None else None):
            return None
        self.writes += 1
        self.record = LeaseRecord(
            holder=wish.holder, term=wish.term, duration_ms=wish.duration_ms, version=f"v{self.writes}"
        )
        return self.record


def turn(keeper: LeaseKeeper, store: Store, now: int, *, wanted: bool = True, floor: int = 0) -> Decision:
    """One turn of a back end: read, decide, write."""
    keeper.observe(now, store.record)
    decision = keeper.decide(now, wanted=wanted, term_floor=floor)
    if not isinstance(decision, Wait):
        stored = store.write(decision.write)
        if stored is not None:
            keeper.written(now, stored)
    return decision


@pytest.mark.box("29.2", "refused", "renew", "taken", "stale-release")
@pytest.mark.box("S5.3", "second-refused", "take-over", "lost-cannot-renew")
def test_the_timeline_of_two_candidates() -> None:
    store, a, b = Store(), LeaseKeeper("a", TIMINGS), LeaseKeeper("b", TIMINGS)
    assert isinstance(turn(a, store, 100), Acquire)
    assert a.view(100) == (1, "a")
    assert turn(b, store, 105) == Wait(155, "held by a")
    assert isinstance(turn(a, store, 120), Renew)
    assert a.view(120) == (1, "a")
    assert turn(b, store, 130) == Wait(180, "held by a")
    assert a.is_held(149)
    assert not a.is_held(150)
    assert a.view(150) == (1, None)
    assert turn(b, store, 179) == Wait(180, "held by a")
    assert b.view(179) == (1, "a")
    assert isinstance(turn(b, store, 180), Acquire)
    assert b.view(180) == (2, "b")
    assert a.decide(181, wanted=False) == Release(
        LeaseWrite(holder=None, term=1, duration_ms=50, expected_version="v2")
    )
    assert store.write(LeaseWrite(holder=None, term=1, duration_ms=50, expected_version="v2")) is None
    a.observe(181, store.record)
    assert a.view(181) == (2, "b")


@pytest.mark.box("S5.3", "early-stop")
def test_it_tells_when_the_lease_ends_as_each_side_counts_it() -> None:
    store, a, b = Store(), LeaseKeeper("a", TIMINGS), LeaseKeeper("b", TIMINGS)
    assert a.expires_in(99) is None
    turn(a, store, 100)
    turn(b, store, 105)
    assert (a.expires_in(110), b.expires_in(110)) == (20, 45)
    assert (a.expires_in(130), b.expires_in(155)) == (None, None)


@pytest.mark.box("S5.3", "renew-extends")
def test_it_renews_no_more_often_than_it_retries() -> None:
    store, a = Store(), LeaseKeeper("a", TIMINGS)
    turn(a, store, 100)
    assert turn(a, store, 109) == Wait(110, "held")
    assert isinstance(turn(a, store, 110), Renew)
    assert store.record is not None
    assert store.record.term == 1


@pytest.mark.box("29.2", "renewed-while-free")
@pytest.mark.box("S5.3", "own-again")
def test_a_restarted_holder_keeps_its_lease_and_term() -> None:
    store = Store()
    turn(LeaseKeeper("a", TIMINGS), store, 100)
    again = LeaseKeeper("a", TIMINGS)
    again.observe(110, store.record)
    assert again.view(110) == (1, None)
    assert isinstance(turn(again, store, 110), Renew)
    assert again.view(110) == (1, "a")


@pytest.mark.box("S5.3", "acquire-release")
def test_a_released_lease_is_taken_at_once_with_a_higher_term() -> None:
    store, a, b = Store(), LeaseKeeper("a", TIMINGS), LeaseKeeper("b", TIMINGS)
    turn(a, store, 100)
    turn(b, store, 101)
    assert isinstance(turn(a, store, 102, wanted=False), Release)
    assert not a.is_held(102)
    assert isinstance(turn(b, store, 103), Acquire)
    assert b.view(103) == (2, "b")


@pytest.mark.box("S5.3", "yield")
def test_who_gives_it_up_leaves_it_to_others_for_one_duration() -> None:
    store, a = Store(), LeaseKeeper("a", TIMINGS)
    turn(a, store, 100)
    assert isinstance(turn(a, store, 110, wanted=False), Release)
    assert turn(a, store, 111) == Wait(160, "has given it up for others to take")
    assert isinstance(turn(a, store, 160), Acquire)
    assert a.view(160) == (2, "a")


@pytest.mark.box("S5.3", "early-stop")
def test_giving_up_counts_from_the_decision_even_if_the_answer_is_lost() -> None:
    store, a = Store(), LeaseKeeper("a", TIMINGS)
    turn(a, store, 100)
    decision = a.decide(101, wanted=False)
    assert isinstance(decision, Release)
    assert not a.is_held(101)


@pytest.mark.box("S27.3", "no-key-no-lease")
def test_a_candidate_that_is_not_wanted_takes_nothing() -> None:
    store, a = Store(), LeaseKeeper("a", TIMINGS)
    assert isinstance(turn(a, store, 100, wanted=False), Wait)
    assert store.record is None


@pytest.mark.box("S5.3", "above-the-chain")
def test_terms_continue_above_the_chain_when_the_record_is_lost() -> None:
    store, a = Store(), LeaseKeeper("a", TIMINGS)
    assert isinstance(turn(a, store, 100, floor=7), Acquire)
    assert a.view(100) == (8, "a")
    store.record = None
    assert isinstance(turn(a, store, 110), Acquire)
    assert a.view(110) == (9, "a")


@pytest.mark.box("S5.3", "above-the-chain")
def test_a_holder_that_is_fenced_off_takes_its_lease_anew() -> None:
    store, a = Store(), LeaseKeeper("a", TIMINGS)
    turn(a, store, 100)
    decision = turn(a, store, 111, floor=5)
    assert isinstance(decision, Acquire)
    assert a.view(111) == (6, "a")


def test_a_record_of_a_lower_term_has_no_holder() -> None:
    keeper = LeaseKeeper("a", TIMINGS)
    keeper.observe(10, LeaseRecord(holder="b", term=5, duration_ms=50, version="1"))
    keeper.observe(20, LeaseRecord(holder="c", term=2, duration_ms=50, version="2"))
    assert keeper.view(20) == (5, None)


@pytest.mark.box("S5.3", "own-again")
def test_a_write_whose_answer_was_lost_is_confirmed_by_another() -> None:
    store, a = Store(), LeaseKeeper("a", TIMINGS)
    a.observe(100, None)
    decision = a.decide(100, wanted=True)
    assert isinstance(decision, Acquire)
    store.write(decision.write)
    assert not a.is_held(105)
    assert isinstance(turn(a, store, 105), Renew)
    assert a.is_held(105)


@pytest.mark.box("29.2", "seen-late")
@pytest.mark.box("S27.2", "own-clock")
@pytest.mark.box("S5.3", "observed-expiry")
def test_expiry_is_what_this_clock_has_seen_unchanged_for_the_promised_time() -> None:
    record = LeaseRecord(holder="a", term=3, duration_ms=150, version="1")
    b = LeaseKeeper("b", TIMINGS)
    b.observe(1_000_000, record)
    b.observe(1_000_149, record)
    assert b.decide(1_000_149, wanted=True) == Wait(1_000_150, "held by a")
    b.observe(1_000_149, replace(record, version="2"))
    assert b.decide(1_000_250, wanted=True) == Wait(1_000_299, "held by a")
    assert isinstance(b.decide(1_000_299, wanted=True), Acquire)


@pytest.mark.box("S5.3", "timings")
@pytest.mark.parametrize(
    ("timings", "field"),
    [
        ({"duration_ms": 30}, "duration_ms"),
        ({"retry_ms": 25}, "renew_deadline_ms"),
        ({"retry_ms": 0}, "retry_ms"),
    ],
)
def test_timings_that_could_overlap_are_refused(timings: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        LeaseTimings(**{"duration_ms": 50, "renew_deadline_ms": 30, "retry_ms": 10, **timings})
    assert caught.value.field == field


@pytest.mark.box("S5.3", "term-never-twice")
@pytest.mark.parametrize("seed", range(60))
def test_never_two_holders_and_never_a_term_twice_whatever_the_delays(seed: int) -> None:
    """Candidates with clocks of their own read late, write late and stall; two must never hold at once."""
    rng = random.Random(seed)
    store = Store()
    keepers = {name: LeaseKeeper(name, TIMINGS) for name in ("a", "b", "c")}
    offsets = {name: rng.randrange(10_000) for name in keepers}
    owners: dict[int, str] = {}
    now = 0
    for _ in range(400):
        now += rng.choice((1, 3, 5, 20, 60) if rng.random() < 0.2 else (1, 2, 3))
        name = rng.choice(list(keepers))
        keeper, mine = keepers[name], now + offsets[name]
        keeper.observe(mine, store.record)
        decision = keeper.decide(mine, wanted=rng.random() < 0.95)
        if not isinstance(decision, Wait) and rng.random() < 0.8:
            late = rng.choice((0, 0, 2, 15))
            stored = store.write(decision.write)
            now += late
            if stored is not None and rng.random() < 0.9:
                keeper.written(mine, stored)
        if store.record is not None and store.record.holder is not None:
            assert owners.setdefault(store.record.term, store.record.holder) == store.record.holder
        holders = [item for item, keeper in keepers.items() if keeper.is_held(now + offsets[item])]
        assert len(holders) <= 1, holders
    assert len(owners) > 2


def edited(store: Store, **changes: Any) -> None:
    """Somebody changes the record by hand."""
    assert store.record is not None
    store.writes += 1
    store.record = replace(store.record, version=f"v{store.writes}", **changes)


@pytest.mark.box("S5.3", "unknown-holder")
def test_a_record_that_names_a_stranger_for_ever_is_waited_for_a_few_durations_at_most() -> None:
    store, a = Store(), LeaseKeeper("a", TIMINGS)
    turn(a, store, 100)
    edited(store, holder="somebody", duration_ms=86_400_000)
    assert turn(a, store, 110) == Wait(110 + PATIENCE * 50, "held by somebody")
    assert not a.is_held(110)
    assert a.expires_in(110) == PATIENCE * 50
    assert isinstance(turn(a, store, 110 + PATIENCE * 50), Acquire)
    assert a.view(310) == (2, "a")


@pytest.mark.box("S5.3", "edited")
def test_a_holder_whose_term_was_lowered_takes_a_higher_one_at_once() -> None:
    store, a, b = Store(), LeaseKeeper("a", TIMINGS), LeaseKeeper("b", TIMINGS)
    turn(a, store, 100, floor=6)
    turn(b, store, 101)
    assert a.view(101) == (7, "a")
    edited(store, term=1)
    turn(b, store, 102)
    assert b.view(102) == (7, None), "a lower term is nobody's"
    assert isinstance(turn(a, store, 103), Acquire)
    assert a.view(103) == (8, "a")


@pytest.mark.box("S5.3", "edited")
def test_a_lease_that_was_given_to_a_validator_by_hand_begins_a_term_of_its_own() -> None:
    store, a, b = Store(), LeaseKeeper("a", TIMINGS), LeaseKeeper("b", TIMINGS)
    turn(a, store, 100)
    turn(b, store, 101)
    edited(store, holder="b")
    assert isinstance(turn(b, store, 102), Acquire), "in term 1 another one has proposed"
    assert b.view(102) == (2, "b")
    turn(a, store, 103)
    assert (a.view(103), a.is_held(103)) == ((2, "b"), False)


@pytest.mark.box("S5.3", "edited")
def test_a_lease_that_was_taken_away_by_hand_goes_on_in_a_higher_term() -> None:
    store, a, b = Store(), LeaseKeeper("a", TIMINGS), LeaseKeeper("b", TIMINGS)
    turn(a, store, 100)
    edited(store, holder=None)
    assert isinstance(turn(b, store, 101), Acquire)
    turn(a, store, 102)
    assert (a.view(102), a.is_held(102)) == ((2, "b"), False)
