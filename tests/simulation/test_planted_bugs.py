"""The simulator must find every bug that was planted, within few seeds: the cheapest proof that it has teeth."""

from __future__ import annotations

import pytest

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.mutations import BUDGET, search
from tests.simulation.oracles import ORACLES


@pytest.mark.box("S26.2", "durable-before-sent")
@pytest.mark.box("S25.1", "lock", "one-block")
@pytest.mark.box("S5.3", "term-never-twice")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.slug)
def test_the_bug_is_found(bug: Bug) -> None:
    found = search(bug)
    assert found.seed is not None, f"{BUDGET} seeds do not find a node that {bug.name}; last: {found.says}"


def test_every_bug_breaks_what_an_oracle_watches() -> None:
    assert {name for bug in BUGS for name in bug.breaks} <= ORACLES.keys()
