"""Compares two ways of doing the same work in pairs A B A B..., and says by how much one is better, and how surely.

Absolute figures of a shared machine mean little: neighbours move them by several times within the hour. The two sides
of a pair run right after one another, so what slows one slows the other, and the median of the pairs' ratios stays. A
control loop before and after the pairs says how much the machine itself has drifted; a drift above ``MAX_DRIFT`` throws
the run away, and it is repeated.
"""

from __future__ import annotations

import gc
import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

PAIRS = 7
QUICK_PAIRS = 2
MAX_DRIFT = 1.5
RUNS = 2

Side = Callable[[], float]
"""Does the work once and returns what one item has cost in seconds; setting up and cleaning up are not part of it."""


@dataclass(frozen=True)
class Setting:
    """How large the benchmarks are, and where they may write: a folder on the disk that is measured."""

    folder: Path
    quick: bool = False

    def size(self, full: int, quick: int) -> int:
        """Returns the number of items: the first one, or the second one of a smoke run."""
        return quick if self.quick else full

    @property
    def pairs(self) -> int:
        return QUICK_PAIRS if self.quick else PAIRS


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison.

    With ``kind`` speed the ratio is how many times faster ours is than the peer, and must reach the goal; with cost it
    is how many times more ours costs than the baseline, and must not exceed the goal. ``unit`` is what a side returns.
    A case without a goal is reported and never judged. ``check`` returns what is wrong with the result of ours, or
    nothing; it runs after the pairs.
    """

    id: str
    case: str
    peer: str
    ours: Side
    theirs: Side
    goal: float | None
    kind: str = "speed"
    ceiling: Side | None = None
    ceiling_name: str = ""
    unit: str = "s"
    check: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A comparison that cannot be made here, and why."""

    id: str
    case: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a comparison came to; ``of_ceiling`` is the fraction of the physical limit that ours reaches."""

    id: str
    case: str
    ratio: float
    iqr: tuple[float, float]
    goal: float | None
    met: bool | None
    peer: str
    correct: bool
    machine: str
    kind: str = "speed"
    ours_seconds: float = 0.0
    peer_seconds: float = 0.0
    of_ceiling: float | None = None
    ceiling: str = ""
    drift: float = 1.0
    wrong: str = ""
    pairs: int = 0
    unit: str = "s"

    def to_json(self) -> dict[str, Any]:
        """Returns the row for ``bench.json``."""
        return asdict(self) | {"iqr": list(self.iqr)}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the first quartile, the median and the third quartile; all the same for a single value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, middle, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, middle, third


def pair_ratios(kind: str, pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Returns the ratio of each pair of costs (ours, theirs): peer by ours for speed, ours by baseline for cost."""
    return [theirs / ours if kind == "speed" else ours / theirs for ours, theirs in pairs]


def is_met(kind: str, *, ratio: float, goal: float | None, correct: bool) -> bool | None:
    """Says whether a goal is met; nothing that is incorrect ever is, and without a goal there is nothing to meet."""
    if not correct:
        return False
    if goal is None:
        return None
    return ratio >= goal if kind == "speed" else ratio <= goal


def judge(
    case: Case, pairs: Sequence[tuple[float, float]], *, wrong: str | None, machine: str, drift: float = 1.0
) -> Result:
    """Returns the result of a case from the costs of its pairs; one that is wrong has the ratio zero."""
    first, middle, third = quartiles(pair_ratios(case.kind, pairs))
    if wrong is not None:
        first = middle = third = 0.0
    return Result(
        id=case.id,
        case=case.case,
        ratio=middle,
        iqr=(first, third),
        goal=case.goal,
        met=is_met(case.kind, ratio=middle, goal=case.goal, correct=wrong is None),
        peer=case.peer,
        correct=wrong is None,
        machine=machine,
        kind=case.kind,
        ours_seconds=statistics.median(ours for ours, _ in pairs),
        peer_seconds=statistics.median(theirs for _, theirs in pairs),
        drift=drift,
        wrong=wrong or "",
        pairs=len(pairs),
        unit=case.unit,
    )


def run_case(case: Case, setting: Setting, *, machine: str) -> Result:
    """Runs the pairs of a case, again when the machine has drifted, and returns what they came to."""
    best: tuple[float, list[tuple[float, float]]] | None = None
    for _ in range(1 if setting.quick else RUNS):
        before = control(setting.folder, rounds=setting.size(18, 2))
        pairs = []
        for _ in range(setting.pairs):
            gc.collect()
            pairs.append((case.ours(), case.theirs()))
        after = control(setting.folder, rounds=setting.size(18, 2))
        drift = max(before, after) / min(before, after)
        if best is None or drift < best[0]:
            best = drift, pairs
        if drift <= MAX_DRIFT:
            break
    assert best is not None
    drift, pairs = best
    result = judge(case, pairs, wrong=case.check(), machine=machine, drift=drift)
    if case.ceiling is None:
        return result
    limit = statistics.median(case.ceiling() for _ in range(3))
    return replace(result, of_ceiling=limit / result.ours_seconds, ceiling=case.ceiling_name)


def control(folder: Path, *, rounds: int) -> float:
    """Returns the seconds of one round of a fixed piece of work, hashing and syncing, that nothing of ours is part of.

    The median of the rounds: a single slow sync says nothing about the machine.
    """
    data = bytes(2**20)
    times = []
    descriptor = os.open(folder / "control", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for number in range(rounds):
            started = time.perf_counter()
            hashlib.sha256(data).digest()
            os.pwrite(descriptor, data[:4096], number * 4096)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
    return statistics.median(times)


def wall(work: Callable[[], object], *, items: int) -> float:
    """Returns the seconds that each of so many items has taken by the clock."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / items


def cpu(work: Callable[[], object], *, items: int) -> float:
    """Returns the seconds of processor time that each item has taken: for work that never waits."""
    started = time.process_time()
    work()
    return (time.process_time() - started) / items


Benchmark = Callable[[Setting], Iterator[Case | LeftOut]]
"""Yields the cases of one benchmark; what a case needs exists until the next one is asked for."""
