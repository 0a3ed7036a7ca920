"""Makes a failing run small: fewer faults, lies, members, actions and chaos steps, while the same goes wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.simulation.runner import Run
from tests.simulation.scenario import CALM, Scenario
from tests.simulation.world import Setup

MOST_TRIES = 200
Attempt = Callable[[Setup], Run]


@dataclass(frozen=True)
class Smallest:
    """The smallest run found, with its full history, and what it took: runs, and lines of history before and after."""

    run: Run
    tries: int
    lines_before: int
    lines_after: int


def shrink(attempt: Attempt, setup: Setup, *, most_tries: int = MOST_TRIES) -> Smallest | None:
    """Returns the smallest run that violates the same invariant as the one of ``setup``; None when that one is fine.

    ``attempt`` runs the seed with a setup. Every candidate is the same seed with a simpler scenario.
    """
    full = dataclasses.replace(setup, history=True)
    best = first = attempt(full)
    if first.violation is None:
        return None
    tries, improved = 1, True
    while improved and tries < most_tries:
        improved = False
        for candidate in _simpler(best):
            if tries >= most_tries:
                break
            run = attempt(dataclasses.replace(full, adjust=_always(candidate)))
            tries += 1
            same = run.violation is not None and run.violation.invariant == first.violation.invariant
            if same and _lines(run) <= _lines(best):
                best, improved = run, True
                break
    return Smallest(best, tries, _lines(first), _lines(best))


def _always(scenario: Scenario) -> Callable[[Scenario], Scenario]:
    return lambda _: scenario


def _lines(run: Run) -> int:
    return sum(1 for _ in run.world.kernel.history.lines())


def _simpler(run: Run) -> Iterator[Scenario]:
    """Yields scenarios that are a step simpler than the one of the run, the boldest steps first."""
    scenario = run.world.scenario
    yield from _less_time(run, scenario)
    for field in ("faults", "lies"):
        kinds = getattr(scenario, field)
        if len(kinds) > 1:
            yield scenario.with_(**{field: {}})
        for kind in kinds:
            yield scenario.with_(**{field: {name: share for name, share in kinds.items() if name != kind}})
    if scenario.faulty:
        yield scenario.with_(faulty=(), lies={}, faults=_without(scenario.faults, "revoke"))
    if scenario.weather != CALM:
        yield scenario.with_(weather=CALM)
        for item in dataclasses.fields(CALM):
            calm = dataclasses.replace(scenario.weather, **{item.name: getattr(CALM, item.name)})
            if calm != scenario.weather:
                yield scenario.with_(weather=calm)
    plain = Scenario({})
    for name in ("torn_writes", "drift", "block_interval_ms", "leaseless"):
        simple = 0.0 if name == "drift" else getattr(plain, name)
        if getattr(scenario, name) != simple:
            yield scenario.with_(**{name: simple})
    yield from _fewer_members(scenario)
    yield from _fewer_actions(run, scenario)
    yield from _fewer_steps(run, scenario)


def _less_time(run: Run, scenario: Scenario) -> Iterator[Scenario]:
    now = run.world.kernel.now
    if now < scenario.chaos_ms:
        yield scenario.with_(chaos_ms=now)  # what would have come later cannot have mattered
    if scenario.chaos_ms > 500:
        yield scenario.with_(chaos_ms=scenario.chaos_ms // 2)


def _fewer_members(scenario: Scenario) -> Iterator[Scenario]:
    if any(weight > 1 for weight in scenario.members.values()):
        yield scenario.with_(members=dict.fromkeys(scenario.members, 1))
    for name in reversed(scenario.members):
        if name not in scenario.faulty and len(scenario.members) > 1:
            fewer = scenario.with_(members={other: w for other, w in scenario.members.items() if other != name})
            if sum(fewer.members[other] for other in fewer.faulty) <= fewer.spare:
                yield fewer


def _fewer_actions(run: Run, scenario: Scenario) -> Iterator[Scenario]:
    made = run.world.clients.made
    for most in (1, 2, made // 2, made - 1):
        if 0 < most < made:
            yield scenario.with_(most_actions=most)
    if scenario.actors > 1:
        yield scenario.with_(actors=1)


def _fewer_steps(run: Run, scenario: Scenario) -> Iterator[Scenario]:
    """Leaves out halves, then quarters, and so on down to single steps of the chaos."""
    left = [number for number in range(run.world.chaos.steps) if number not in scenario.skip]
    size = len(left)
    while scenario.faults and size > 0:
        for start in range(0, len(left), size):
            yield scenario.with_(skip=scenario.skip | set(left[start : start + size]))
        size //= 2


def _without(faults: dict[str, float], kind: str) -> dict[str, float]:
    return {name: share for name, share in faults.items() if name != kind}
