"""The simulator must find every bug that was planted, within few seeds: the cheapest proof that it has teeth."""

from __future__ import annotations

import pytest

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.kernel import Violation
from tests.simulation.world import Setup, World

SEEDS = 250


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.slug)
def test_the_bug_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.patch(monkeypatch)
    for seed in range(SEEDS):
        try:
            World(seed, Setup(bug.node_class, bug.where)).run()
        except Violation as violation:
            if violation.invariant in bug.breaks:
                return
    pytest.fail(f"{SEEDS} seeds do not find a node that {bug.name}")
