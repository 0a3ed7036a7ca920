"""B17: events a second of the simulator against seedloop, whose worlds run asyncio code.

An event of ours is a message that arrives, or a timer or sync that ends, with all that production code does about it
and every oracle that looks at it; one of seedloop is a message that does nothing but come back, which is the best that
it could do. It needs another Python than ours, so it runs in a process of its own that says what a message has cost.
"""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench.harness import Case, LeftOut, Setting
from tests.simulation.history import History
from tests.simulation.kernel import Kernel
from tests.simulation.runner import Run, run_seed
from tests.simulation.shortcuts import install

PEER = Path("build/peers/seedloop/bin/python")
NEEDS = "no seedloop: make an environment of Python 3.12 with it at build/peers/seedloop, or set SEEDLOOP_PYTHON"

PING_PONG = """
import asyncio, sys, time
import seedloop

COUNT = int(sys.argv[1])

async def scenario(world):
    first, second = world.net.bind(0), world.net.bind(1)

    async def echo():
        while True:
            sender, message = await second.recv()
            await second.send(sender, message)

    task = asyncio.ensure_future(echo())
    for number in range(COUNT // 2):
        await first.send(1, number)
        await first.recv()
    task.cancel()

began = time.process_time()
seedloop.check(scenario, seeds=1)
print((time.process_time() - began) / COUNT)
"""


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields whole worlds against messages of seedloop, which are nothing but messages."""
    seeds, messages = setting.size(12, 1), setting.size(20_000, 200)
    peer = Path(os.environ.get("SEEDLOOP_PYTHON", PEER))
    if not peer.exists():
        yield LeftOut(id="B17", case="events of whole worlds", reason=NEEDS)
        return
    yield Case(
        id="B17",
        case="events of whole worlds",
        peer="seedloop, messages that come back",
        ours=lambda: _worlds(seeds),
        theirs=lambda: _messages(peer, messages),
        goal=3.0,
        ceiling=lambda: _bare_queue(setting.size(100_000, 1000)),
        ceiling_name="our queue with events that do nothing",
        check=lambda: _violations(seeds),
    )


def _worlds(seeds: int) -> float:
    """Returns the processor time of one event, at worlds of the seeds 0 to n - 1."""
    runs, seconds = _quickly(lambda: [run_seed(seed) for seed in range(seeds)])
    return seconds / sum(run.world.kernel.events for run in runs)


def _quickly(work: Callable[[], list[Run]]) -> tuple[list[Run], float]:
    with pytest.MonkeyPatch.context() as patch:
        install(functools.partial(patch.setattr))
        began = time.process_time()
        return work(), time.process_time() - began


def _violations(seeds: int) -> str | None:
    runs, _ = _quickly(lambda: [run_seed(seed) for seed in range(seeds)])
    wrong = [f"seed {run.world.kernel.seed}: {run.violation}" for run in runs if run.violation is not None]
    return wrong[0] if wrong else None


def _messages(peer: Path, count: int) -> float:
    """Returns the processor time of one message, as the process says."""
    command = [str(peer), "-c", PING_PONG, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _bare_queue(count: int) -> float:
    """Returns the processor time of one event that only makes the next one, ten at a time."""
    kernel = Kernel(0, History())

    def again() -> None:
        kernel.after(1, again)

    for _ in range(10):
        kernel.after(1, again)
    began = time.process_time()
    kernel.run(count // 10)
    return (time.process_time() - began) / kernel.events
