"""Whole worlds under chaos: safe all the time, and making progress soon after it ends.

A failure names one number; `make simulate SEED=<number> TRACE=1` shows that world again.
"""

from __future__ import annotations

import pytest

from tests.simulation.hash_seeds import outputs
from tests.simulation.runner import again, run_seed
from tests.simulation.scenario import FAULTS, LIES, Scenario
from tests.simulation.storms import (
    a_writer_that_changes,
    four_and_a_revoked_twin,
    four_in_a_disaster,
    taking_turns_with_a_liar,
)
from tests.simulation.world import Setup, World, as_drawn

WORLDS_PER_SEED = 4
REACHED = (
    "lost records",
    "torn tail",
    "synced a block",
    "changed the directory",
    "decided in a later round",
    "locked another block",
    "left a lock for a later quorum",
    "vote under a revoked key",
    "block from the future",
    "restarted from a snapshot",
    "wrong block: execution_mismatch",
    "handed the lease over",
    "proposal approved",
    "module upgraded",
    "a late vote that contradicts",
    "named who voted twice",
    *(f"fault {kind}" for kind in FAULTS),
    *(f"lie {kind}" for kind in LIES),
)


@pytest.mark.box("S26.3", "crash-anywhere")
@pytest.mark.box("S25.1", "one-block")
def test_worlds_are_safe_and_recover(sim_seed: int) -> None:
    first = sim_seed * WORLDS_PER_SEED
    for seed in range(first, first + WORLDS_PER_SEED):
        run = run_seed(seed)
        if run.violation is not None:
            trace = "\n".join(run.world.kernel.history.lines())
            pytest.fail(f"seed {seed}: {run.violation}\n{trace}\nagain: {again(seed)}", pytrace=False)


def test_a_seed_is_a_world_whatever_the_hash_seed_of_python() -> None:
    """The order of sets and the ids of objects must not show, here or in another process."""
    code = (
        "from tests.simulation.shortcuts import install; install(setattr)\n"
        "from tests.simulation.world import World\n"
        "for seed in (3, 8, 21):\n"
        "    world = World(seed); world.run(); print(world.kernel.digest)\n"
    )
    digests = outputs(code)
    assert len(digests) == 1
    assert len(digests.pop().split()) == 3


def let_validators_change(scenario: Scenario) -> Scenario:
    stormy = four_in_a_disaster(scenario)
    return stormy.with_(faults={**stormy.faults, "membership": 2.0})


KINDS = (as_drawn, a_writer_that_changes, four_and_a_revoked_twin, let_validators_change, taking_turns_with_a_liar)


@pytest.mark.box("S27.4", "while-actions-flow")
def test_the_chaos_reaches_the_states_that_matter() -> None:
    """A simulator that never gets there proves nothing."""
    reached: dict[str, int] = {}
    for seed in range(150):
        for adjust in KINDS:
            world = World(seed, Setup(adjust=adjust))
            world.run()
            for name, count in world.kernel.reached.items():
                reached[name] = reached.get(name, 0) + count
        if all(name in reached for name in REACHED):
            return
    pytest.fail(f"never reached: {[name for name in REACHED if name not in reached]}")
