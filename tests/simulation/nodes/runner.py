"""Runs worlds of whole nodes by seed."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentworld_node.lease import places
from tests.simulation.nodes.loop import PROCESS, SimulatedLoop, install_clocks
from tests.simulation.nodes.scenario import Scenario, draw
from tests.simulation.nodes.sizes import install_sizes
from tests.simulation.nodes.world import World
from tests.unit.storage.faults import PowerCut

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
    where = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="agentworld-simulation-", dir=where, ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
        listening() as tracebacks,
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        install_clocks(patch.setattr, loop)
        world = runner.run(
            _run(lambda: World(seed, scenario, Path(folder), loop, full=full), patch, tracebacks),
        )
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
        virtual_seconds=loop.now - loop.began,
        reached=world.reached,
    )


class Tracebacks(logging.Handler):
    """Tells a world of every traceback that one of its nodes logs: an error that nobody has thought of."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.world: World | None = None

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if self.world is not None and error is not None and not isinstance(error, PowerCut):
            process = PROCESS.get()
            lane = "nobody" if process is None else process.name
            self.world.fail("TRACEBACK", f"{lane} logs: {record.getMessage()}: {error!r}")


@contextmanager
def listening() -> Iterator[Tracebacks]:
    """Listens to what is logged as an error, and keeps it and all else off the screen."""
    root, handler = logging.getLogger(), Tracebacks()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    try:
        yield handler
    finally:
        root.handlers[:] = before
        root.setLevel(level)


async def _run(world_of: Callable[[], World], patch: pytest.MonkeyPatch, tracebacks: Tracebacks) -> World:
    world = tracebacks.world = world_of()
    patch.setattr(places, "lease_store", lambda config: None if config.kind == "none" else world.lease)
    install_sizes(patch, in_parts=world.scenario.in_parts, reach=world.reach)
    await world.run()
    return world
