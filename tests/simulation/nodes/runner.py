"""Runs worlds of whole nodes by seed."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentworld_node.lease import places
from tests.simulation.nodes.loop import SimulatedLoop, install_clocks
from tests.simulation.nodes.scenario import Scenario, draw
from tests.simulation.nodes.sizes import install_sizes
from tests.simulation.nodes.world import World

MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Run:
    """What became of a world: what was wrong, if anything, and what happened."""

    seed: int
    violation: str | None
    invariant: str | None
    lines: tuple[str, ...]
    digest: str
    events: int
    messages: int
    blocks: int
    virtual_seconds: float
    reached: Counter[str]


def run_seed(seed: int, adjust: Callable[[Scenario], Scenario] = lambda drawn: drawn, *, full: bool = False) -> Run:
    """Runs one world in a folder of its own, which is removed."""
    scenario = adjust(draw(random.Random(f"{seed}/scenario")))
    loop = SimulatedLoop(random.Random(f"{seed}/loop"))
    began = loop.now
    where = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="agentworld-simulation-", dir=where, ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        install_clocks(patch.setattr, loop)
        world = runner.run(_run(seed, scenario, Path(folder), loop, full, patch))
    violation = world.violation
    return Run(
        seed=seed,
        violation=None if violation is None else str(violation),
        invariant=None if violation is None else violation.invariant,
        lines=tuple(world.history.lines()),
        digest=world.digest,
        events=loop.events,
        messages=world.hub.messages,
        blocks=len(world.blocks),
        virtual_seconds=loop.now - began,
        reached=world.reached,
    )


async def _run(
    seed: int, scenario: Scenario, folder: Path, loop: SimulatedLoop, full: bool, patch: pytest.MonkeyPatch
) -> World:
    world = World(seed, scenario, folder, loop, full=full)
    patch.setattr(places, "lease_store", lambda _config: world.lease)
    install_sizes(patch, in_parts=scenario.in_parts)
    await world.run()
    return world
