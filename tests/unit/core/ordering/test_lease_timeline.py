"""The lease timeline of the specification's worked example (ttl 50), by the rules of this product.

Others count 50 from when they saw the last write, the holder stops 45 after it sent it, a lease is renewed by who
already has it, and a record that has changed meanwhile is written by nobody who does not know that.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentworld_core.ordering.lease import Acquire, LeaseKeeper, LeaseTimings, Release, Renew, Wait
from tests.unit.core.ordering.test_lease import Store, turn

TIMINGS = LeaseTimings(duration_ms=50, renew_deadline_ms=45, retry_ms=10)


class Timeline:
    """``a`` and ``b`` at one store; each step does one call of the table and returns what came of it."""

    def __init__(self) -> None:
        self.store = Store()
        self.a, self.b = LeaseKeeper("a", TIMINGS), LeaseKeeper("b", TIMINGS)

    def record(self) -> tuple[str | None, int]:
        """Who the record names, and in which term."""
        return (None, 0) if self.store.record is None else (self.store.record.holder, self.store.record.term)

    def a_acquires_at_100(self) -> object:
        decision = turn(self.a, self.store, 100)
        assert self.a.is_held(144)
        assert not self.a.is_held(145), "the holder stops by itself, before others may begin"
        return type(decision)

    def b_tries_at_120(self) -> object:
        # It has looked in the moment of the write: so long at most does it wait.
        self.b.observe(100, self.store.record)
        decision = turn(self.b, self.store, 120)
        assert self.b.view(120) == (1, "a"), "it knows who holds it"
        return decision

    def a_renews_at_140(self) -> object:
        decision = turn(self.a, self.store, 140)
        self.b.observe(140, self.store.record)
        assert self.a.is_held(184)
        return type(decision)

    def nobody_holds_it_at_190(self) -> object:
        return self.a.is_held(190), self.b.view(189), self.b.view(190)

    def b_acquires_at_190(self) -> object:
        return type(turn(self.b, self.store, 190))

    def a_renews_at_190_in_ignorance(self) -> object:
        decision = self.a.decide(190, wanted=True)
        assert isinstance(decision, Renew)
        return self.store.write(decision.write)

    def a_releases_at_195_in_ignorance(self) -> object:
        decision = self.a.decide(195, wanted=False)
        assert isinstance(decision, Release)
        return self.store.write(decision.write)


STEPS: tuple[tuple[Callable[[Timeline], object], object, tuple[str | None, int]], ...] = (
    (Timeline.a_acquires_at_100, Acquire, ("a", 1)),
    (Timeline.b_tries_at_120, Wait(150, "held by a"), ("a", 1)),
    (Timeline.a_renews_at_140, Renew, ("a", 1)),
    (Timeline.nobody_holds_it_at_190, (False, (1, "a"), (1, None)), ("a", 1)),
    (Timeline.b_acquires_at_190, Acquire, ("b", 2)),
    (Timeline.a_renews_at_190_in_ignorance, None, ("b", 2)),
    (Timeline.a_releases_at_195_in_ignorance, None, ("b", 2)),
)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(0, id="a acquires", marks=pytest.mark.box("29.2", "acquire")),
        pytest.param(1, id="b is refused", marks=pytest.mark.box("29.2", "refused")),
        pytest.param(2, id="a renews", marks=pytest.mark.box("29.2", "renew")),
        pytest.param(3, id="it is over", marks=pytest.mark.box("29.2", "over")),
        pytest.param(4, id="b acquires", marks=pytest.mark.box("29.2", "taken")),
        pytest.param(5, id="a renews too late", marks=pytest.mark.box("29.2", "renewed-too-late")),
        pytest.param(6, id="a releases what is gone", marks=pytest.mark.box("29.2", "stale-release")),
    ],
)
@pytest.mark.box("S5.3", "second-refused")
def test_each_row_of_the_timeline(row: int) -> None:
    timeline = Timeline()
    for step, result, record in STEPS[: row + 1]:
        assert (step(timeline), timeline.record()) == (result, record)


@pytest.mark.box("29.2", "renewed-while-free")
def test_who_comes_back_before_anybody_has_taken_it_renews_in_its_term() -> None:
    timeline = Timeline()
    for step, *_ in STEPS[:4]:
        step(timeline)
    assert isinstance(turn(timeline.a, timeline.store, 190), Renew)
    assert (timeline.record(), timeline.a.is_held(190)) == (("a", 1), True)
    assert isinstance(turn(timeline.b, timeline.store, 190), Wait)


@pytest.mark.box("29.2", "seen-late")
def test_who_looks_late_waits_longer_and_never_shorter() -> None:
    timeline = Timeline()
    timeline.a_acquires_at_100()
    assert turn(timeline.b, timeline.store, 120) == Wait(170, "held by a")
    assert isinstance(turn(timeline.b, timeline.store, 169), Wait)
    assert isinstance(turn(timeline.b, timeline.store, 170), Acquire)


@pytest.mark.box("S5.3", "acquire-release")
@pytest.mark.box("S5.3", "renew-extends")
def test_a_renewal_at_105_holds_beyond_what_the_first_write_gave() -> None:
    timings = LeaseTimings(duration_ms=20, renew_deadline_ms=15, retry_ms=5)
    store, a, b = Store(), LeaseKeeper("a", timings), LeaseKeeper("b", timings)
    turn(a, store, 100)
    b.observe(100, store.record)
    assert isinstance(turn(a, store, 105), Renew)
    b.observe(105, store.record)
    assert a.is_held(119), "the first write gave it until 115"
    assert isinstance(turn(b, store, 121), Wait), "and others until 120"
    assert isinstance(turn(a, store, 121, wanted=False), Release)
    assert isinstance(turn(b, store, 122), Acquire)
