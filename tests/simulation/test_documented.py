"""docs/testing.md names what the simulator does, watches and finds."""

from __future__ import annotations

from pathlib import Path

from tests.simulation.bugs import BUGS
from tests.simulation.oracles import ORACLES
from tests.simulation.scenario import FAULTS, LIES

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_every_fault_lie_oracle_and_bug_is_in_the_documents() -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = [*FAULTS.items(), *LIES.items(), *ORACLES.items()]
    assert [name for name, says in named if f"| {name} | {says} |" not in page] == []
    assert [bug.name for bug in BUGS if f"| {bug.name} | " not in page] == []
