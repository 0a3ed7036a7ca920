"""Worlds of whole nodes under faults: safe all the time, in step soon after, and nothing that was promised is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.hash_seeds import outputs
from tests.simulation.nodes.__main__ import again
from tests.simulation.nodes.bugs import BUDGET, BUGS, Bug, search
from tests.simulation.nodes.faults import FAULTS
from tests.simulation.nodes.oracles import ORACLES
from tests.simulation.nodes.runner import run_seed

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "testing.md"
REACHED = (
    "changed the directory",
    "evidence",
    "handed over",
    "index lost",
    "index unsynced",
    "proposal in parts",
    "revoked",
    "rubbish",
    "spoiled blocks",
    "votes pruned",
    *(f"fault {kind}" for kind in FAULTS),
)


def test_whole_nodes_are_safe_and_recover(sim_seed: int) -> None:
    run = run_seed(sim_seed)
    if run.violation is not None:
        pytest.fail("\n".join([f"seed {sim_seed}: {run.violation}", *run.lines, again(sim_seed)]), pytrace=False)


def test_the_chaos_reaches_what_only_whole_nodes_do() -> None:
    reached: Counter[str] = Counter()
    for seed in range(1000, 1100):
        reached += run_seed(seed).reached
        if all(name in reached for name in REACHED):
            return
    pytest.fail(f"never reached: {[name for name in REACHED if name not in reached]}")


def test_a_seed_is_a_world_whatever_the_hash_seed_of_python() -> None:
    code = "from tests.simulation.nodes.runner import run_seed\nfor seed in (3, 5, 8): print(run_seed(seed).digest)\n"
    digests = outputs(code)
    assert len(digests) == 1
    assert len(digests.pop().split()) == 3


def test_every_fault_oracle_and_bug_is_in_the_documents() -> None:
    page = PAGE.read_text(encoding="utf-8")
    told = {name: str(fault.__doc__).rstrip(".") for name, fault in FAULTS.items()}
    faults = {name: says[0].lower() + says[1:] for name, says in told.items()}
    assert [name for name, says in [*faults.items(), *ORACLES.items()] if f"| {name} | {says} |" not in page] == []
    assert [bug.name for bug in BUGS if f"| {bug.name} | " not in page] == []
    assert "@@" not in page, "a figure is missing"
    assert {name for bug in BUGS for name in bug.breaks} <= ORACLES.keys()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.slug)
def test_the_bug_in_a_node_is_found(bug: Bug) -> None:
    found = search(bug)
    assert found.invariant is not None, f"{BUDGET} seeds do not find a node that {bug.name}; last: {found.says}"
