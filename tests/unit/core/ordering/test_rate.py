"""The rate of a source: what it may send in any time, what it is told to wait, and that the table stays bounded."""

from __future__ import annotations

import copy
import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentworld_core.errors import InvalidField
from agentworld_core.ordering.rate import MAX_SOURCES, RateLimit, RateLimiter
from agentworld_core.topology.node_config import MAX_RATE, NodeConfig

RATES = st.builds(RateLimit, per_second=st.integers(1, 3000), burst=st.integers(1, 50))
# How much time passes, who comes, with how many actions.
STEPS = st.lists(st.tuples(st.integers(0, 3000), st.sampled_from("abcde"), st.integers(1, 60)), max_size=60)
ROOM = st.integers(1, 6)

pytestmark = pytest.mark.box("S7.1", "rate")


@given(RATES, STEPS, ROOM)
def test_in_no_time_a_source_sends_more_than_a_burst_and_its_rate(limit, steps, room):
    limiter, now = RateLimiter(limit, max_sources=room), 1_000_000
    sent: dict[str, list[tuple[int, int]]] = {}
    for passed, source, most in steps:
        now += passed
        taken = limiter.take(source, now_ms=now, most=most)
        assert 0 <= taken <= most
        sent.setdefault(source, []).append((now, taken))
        assert len(limiter) <= room
    for rows in sent.values():
        for first, (since, _) in enumerate(rows):
            count = 0
            for until, taken in rows[first:]:
                count += taken
                assert 1000 * count <= 1000 * limit.burst + limit.per_second * (until - since)


@given(RATES, STEPS, ROOM)
def test_it_does_what_a_bucket_with_exact_fractions_does(limit, steps, room):
    limiter, now = RateLimiter(limit, max_sources=room), -5_000
    levels = dict.fromkeys("abcde", Fraction(limit.burst))
    for passed, source, most in steps:
        now += passed
        refilled = Fraction(passed * limit.per_second, 1000)
        levels = {name: min(Fraction(limit.burst), level + refilled) for name, level in levels.items()}
        partial = [name for name, level in levels.items() if level < limit.burst]
        # Only who has a full bucket may have to wait for the others, and only while there are too many of them.
        may = 0 if source not in partial and len(partial) >= room else min(most, int(levels[source]))
        assert limiter.take(source, now_ms=now, most=most) == may
        levels[source] -= may


@given(RATES, STEPS, st.integers(1, 60), ROOM)
def test_who_waits_as_long_as_told_is_served_and_not_a_millisecond_before(limit, steps, count, room):
    limiter, now = RateLimiter(limit, max_sources=room), 0
    for passed, source, most in steps:
        now += passed
        limiter.take(source, now_ms=now, most=most)
    for source in "abcdef":
        wait = limiter.wait_ms(source, now_ms=now, count=count)
        wanted = min(count, limit.burst)
        if wait:
            assert copy.deepcopy(limiter).take(source, now_ms=now + wait - 1, most=count) < wanted
        if source in limiter._full_at or not wait:
            assert copy.deepcopy(limiter).take(source, now_ms=now + wait, most=count) == wanted


@given(RATES, st.integers(1, 50), st.integers(0, 10_000), st.integers(0, 60))
def test_a_steady_rate_at_the_limit_is_never_refused(limit, count, start, spent):
    limiter, count, now = RateLimiter(limit), min(count, limit.burst), start
    limiter.take("a", now_ms=now, most=spent)
    now += limiter.wait_ms("a", now_ms=now, count=count)
    for _ in range(50):
        assert limiter.take("a", now_ms=now, most=count) == count
        now += -(-count * 1000 // limit.per_second)


@given(RATES, st.lists(st.tuples(st.integers(-(10**9), 3000), st.integers(1, 60)), max_size=40))
def test_a_clock_that_stands_still_or_goes_back_gives_nothing_and_costs_nothing_but_that_time(limit, steps):
    limiter, now, forward, sent = RateLimiter(limit), 0, 0, 0
    limiter.take("a", now_ms=now, most=0)
    for passed, most in steps:
        now += passed
        forward += max(0, passed)
        sent += limiter.take("a", now_ms=now, most=most)
        assert 1000 * sent <= 1000 * limit.burst + limit.per_second * forward
    wait = limiter.wait_ms("a", now_ms=now)
    assert wait * limit.per_second < 1000 + limit.per_second, "whatever the clock did, one place comes in its time"
    assert limiter.take("a", now_ms=now + wait) == 1


def test_who_is_forgotten_had_a_full_bucket_and_newcomers_wait_while_nobody_has() -> None:
    limiter = RateLimiter(RateLimit(per_second=1, burst=4), max_sources=2)
    assert limiter.take("a", now_ms=0, most=9) == 4
    assert limiter.take("b", now_ms=0) == 1
    assert (limiter.take("c", now_ms=999), limiter.wait_ms("c", now_ms=999)) == (0, 1)
    assert limiter.take("b", now_ms=999, most=9) == 3, "who is known goes on"
    assert limiter.wait_ms("c", now_ms=999) <= 3001
    assert (limiter.take("c", now_ms=3999), limiter.take("c", now_ms=4000, most=9)) == (0, 4)
    assert limiter.take("b", now_ms=4000) == 1
    assert len(limiter) == 2
    assert limiter.take("a", now_ms=4000) == 0, "a, who was forgotten, is a newcomer"


def test_as_many_sources_as_there_may_be_are_no_work_for_one_who_comes() -> None:
    limiter = RateLimiter(RateLimit(per_second=1, burst=1))
    for number in range(MAX_SOURCES):
        assert limiter.take(f"s{number}", now_ms=number) == 1
    for number in range(1000):
        assert limiter.take(f"t{number}", now_ms=MAX_SOURCES + number) == 1
    assert len(limiter) == len(limiter._queue) == MAX_SOURCES


def test_the_file_of_a_node_says_the_rate_and_refuses_what_is_none() -> None:
    facts = {"world_id": "aurora", "node_id": "g0", "roles": ["gateway"]}
    facts |= {"data_folder": "/d", "genesis_file": "/g", "identity_file": "/i"}
    plain = NodeConfig.from_dict(facts)
    assert plain.rate_limit is None
    said = NodeConfig.from_dict(facts | {"rate_limit_per_second": 5})
    assert said.rate_limit == RateLimit(per_second=5, burst=5)
    assert dataclasses.replace(said, rate_limit_burst=9).rate_limit == RateLimit(per_second=5, burst=9)
    assert NodeConfig.from_dict(said.to_dict()) == said
    for field in ("rate_limit_per_second", "rate_limit_burst"):
        for wrong in (-1, MAX_RATE + 1):
            with pytest.raises(InvalidField, match=f"{field}: must be 0 to 1000000"):
                NodeConfig.from_dict(facts | {field: wrong})
    with pytest.raises(InvalidField, match="rate_limit_per_second: is required with rate_limit_burst"):
        NodeConfig.from_dict(facts | {"rate_limit_burst": 5})
