"""Failovers of the pure lease in virtual time: holders that crash, are paused between a check and a write, and drift.

Three keepers share a record with compare-and-swap. A holder checks that it holds the lease and then writes, and may be
paused in between for two to four durations; its write then arrives under an old term. A resource with the fence refuses
what is lower than it has seen. Clocks run up to 2 percent fast or slow, which is less than what lies between the renew
deadline and the duration.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from agentworld_core.ordering.lease import LeaseKeeper, LeaseRecord, LeaseTimings, Wait

TIMINGS = LeaseTimings(duration_ms=1_500, renew_deadline_ms=1_000, retry_ms=200)
_NAMES = ("a", "b", "c")
_MOST_MS = 30_000
_STEP_MS = 20


@dataclass
class Outcome:
    """What all failovers came to: writes taken and refused, and moments at which two believed that they hold it."""

    failovers: int = 0
    accepted: int = 0
    stale_accepted: int = 0
    stale_arrived: int = 0
    two_holders: int = 0
    unfinished: int = 0

    def wrong(self) -> str | None:
        """Says what must not have happened, or what had to and has not."""
        if self.two_holders:
            return f"two keepers held the lease at the same time, {self.two_holders} times"
        if self.unfinished:
            return f"{self.unfinished} failovers did not come to an end"
        return None if self.stale_arrived else "no stale write was ever tried: the simulation has no teeth"


@dataclass
class _Node:
    keeper: LeaseKeeper
    rate: float
    paused_until: int = 0
    pending: list[tuple[int, int]] = field(default_factory=list)  # when a write leaves, and its term
    next_turn: int = 0

    def clock(self, now: int) -> int:
        return int(now * self.rate)


class _World:
    """One record, one resource, three nodes, and a seed."""

    def __init__(self, seed: int, outcome: Outcome, *, fenced: bool):
        self._chance = random.Random(seed)
        self._fenced = fenced
        self._highest = 0
        self._outcome = outcome
        self._record: LeaseRecord | None = None
        self._fence = 0
        self._nodes = [
            _Node(LeaseKeeper(name, TIMINGS), self._chance.uniform(0.98, 1.02), next_turn=self._chance.randrange(200))
            for name in _NAMES
        ]

    def run(self) -> None:
        """Lets one holder be taken over from, and ends when a later one has written."""
        first: int | None = None
        for now in range(0, _MOST_MS, _STEP_MS):
            for node in self._nodes:
                if now >= node.paused_until:
                    self._turn(node, now)
            if sum(node.keeper.is_held(node.clock(now)) for node in self._nodes if now >= node.paused_until) > 1:
                self._outcome.two_holders += 1
            if first is None and self._fence:
                first = self._fence
                self._disturb(now)
            if first is not None and self._highest > first and not any(node.pending for node in self._nodes):
                self._outcome.failovers += 1
                return
        self._outcome.unfinished += 1

    def _disturb(self, now: int) -> None:
        """Pauses the holder for long, with a write on its way."""
        holder = next(node for node in self._nodes if self._record and node.keeper.holder_id == self._record.holder)
        holder.paused_until = now + self._chance.randrange(2 * TIMINGS.duration_ms, 4 * TIMINGS.duration_ms)
        assert self._record is not None
        holder.pending.append((holder.paused_until, self._record.term))

    def _turn(self, node: _Node, now: int) -> None:
        for _, term in node.pending:
            self._arrive(term)
        node.pending.clear()
        if now >= node.next_turn:
            self._decide(node, now)
            node.next_turn = now + self._chance.randrange(50, TIMINGS.retry_ms)
        if node.keeper.is_held(node.clock(now)) and self._record is not None:
            self._arrive(node.keeper.view(node.clock(now))[0])

    def _decide(self, node: _Node, now: int) -> None:
        keeper, clock = node.keeper, node.clock(now)
        keeper.observe(clock, self._record)
        decision = keeper.decide(clock, wanted=True, term_floor=0)
        if isinstance(decision, Wait):
            return
        wish = decision.write
        if (None if self._record is None else self._record.version) != wish.expected_version:
            return
        version = str(int(wish.expected_version or 0) + 1)
        self._record = LeaseRecord(holder=wish.holder, term=wish.term, duration_ms=wish.duration_ms, version=version)
        keeper.written(clock, self._record)

    def _arrive(self, term: int) -> None:
        """A write reaches the resource, which takes it unless it has seen a higher term."""
        self._outcome.stale_arrived += term < self._highest
        if self._fenced and term < self._fence:
            return
        self._fence = term
        self._outcome.accepted += 1
        # Judged by what has been taken, not by what the fence knows.
        self._outcome.stale_accepted += term < self._highest
        self._highest = max(self._highest, term)


def simulate(seeds: Iterable[int], *, fenced: bool = True) -> Outcome:
    """Returns what these failovers came to; the same seeds give the same."""
    outcome = Outcome()
    for seed in seeds:
        _World(seed, outcome, fenced=fenced).run()
    return outcome
