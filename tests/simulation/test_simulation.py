"""Whole worlds under chaos: safe all the time, and making progress soon after it ends.

A failure names one number. To see that world again, with the end of its trace:
`SIMULATION_SEED=<number> python -m pytest tests/simulation -k recover --sim-seed 0`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.bugs import four_and_a_revoked_twin, four_in_a_disaster
from tests.simulation.kernel import Violation
from tests.simulation.world import Scenario, World

ROOT = Path(__file__).parents[2]
WORLDS_PER_SEED = 10
REACHED = (
    "lost records",
    "synced a block",
    "changed the directory",
    "decided in a later round",
    "locked another block",
    "left a lock for a later quorum",
    "vote under a revoked key",
)


def run(seed: int) -> World:
    """Runs one world; a violation is told with everything that is needed to see it again."""
    world = World(seed)
    try:
        world.run()
    except Violation as violation:
        trace = "\n".join(world.kernel.trace)
        again = f"SIMULATION_SEED={seed} python -m pytest tests/simulation -k recover --sim-seed 0"
        pytest.fail(f"seed {seed}: {violation}\n{world.scenario}\n{trace}\nagain: {again}", pytrace=False)
    return world


def test_worlds_are_safe_and_recover(sim_seed: int) -> None:
    first = sim_seed * WORLDS_PER_SEED
    wanted = os.environ.get("SIMULATION_SEED")
    for seed in range(first, first + WORLDS_PER_SEED) if wanted is None else [int(wanted)]:
        run(seed)


def test_a_seed_is_a_world_whatever_the_hash_seed_of_python() -> None:
    """The order of sets and the ids of objects must not show, here or in another process."""
    code = (
        "from tests.simulation.shortcuts import install; install(setattr)\n"
        "from tests.simulation.world import World\n"
        "for seed in (3, 8, 21):\n"
        "    world = World(seed); world.run(); print(world.kernel.digest)\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "node")])
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop().split()) == 3


def let_one_join(scenario: Scenario) -> None:
    four_in_a_disaster(scenario)
    scenario.joining = True


def test_the_chaos_reaches_the_states_that_matter() -> None:
    """A simulator that never gets there proves nothing."""
    reached: dict[str, int] = {}
    for seed in range(150):
        for adjust in (four_in_a_disaster, four_and_a_revoked_twin, let_one_join):
            world = World(seed, adjust=adjust)
            world.run()
            for name, count in world.kernel.reached.items():
                reached[name] = reached.get(name, 0) + count
        if all(name in reached for name in REACHED):
            return
    pytest.fail(f"never reached: {[name for name in REACHED if name not in reached]}")
