"""The writer handed over, stopped and killed, again and again under load: how long no block comes."""

from __future__ import annotations

import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agentworld_client.keys import save
from agentworld_core.topology.node_config import LeaseConfig
from tests.integration.blackbox.checker import FEW, Violation
from tests.integration.blackbox.history import Read, Trouble
from tests.integration.blackbox.world import Running
from tests.integration.node.cluster_of_nodes import run_cli, until
from tests.unit.node.material import signer

COMMAND_SECONDS = 300.0
START_SECONDS = 300.0
STOP_SECONDS = 60.0
"""A node bounds its own end by less; a pod has half of it before it is killed, so more is a mistake anyhow."""
PLANNED_GOAL_SECONDS = 2.0
CRASH_GOAL_SECONDS = 5.0
"""What comes on top of the lease, which has to expire first."""

Say = Callable[[str], None]


@dataclass
class Measured:
    """The seconds without a block of one way to change the writer: those of ``planned`` times that there was time for.

    ``goal`` is what the 99th percentile is to stay at or below.
    """

    way: str
    planned: int
    goal: float
    seconds: list[float] = field(default_factory=list)


async def run(world: Running, *, count: int, until_time: float, lease: LeaseConfig, say: Say) -> list[Measured]:
    """Transfers the writer so many times, stops it as many times with SIGTERM, and kills it as many with SIGKILL.

    Fewer times when the time is over before.
    """
    ways = {
        "transfer": (transfer, PLANNED_GOAL_SECONDS),
        "SIGTERM": (stop, PLANNED_GOAL_SECONDS),
        "SIGKILL": (crash, lease.duration_ms / 1000 + CRASH_GOAL_SECONDS),
    }
    measured = []
    await world.flows()
    for way, (once, goal) in ways.items():
        row = Measured(way=way, planned=count, goal=goal)
        measured.append(row)
        for number in range(count):
            if time.monotonic() >= until_time:
                break
            row.seconds.append(await once(world, number, say))
    return measured


async def transfer(world: Running, number: int, say: Say) -> float:
    """Has the lease transferred to another validator; returns the seconds between the blocks before and after.

    Each time by ``agentworld writer transfer``, a process of its own, as somebody does it who keeps a world. How long
    that process takes to start does not count: blocks come meanwhile.
    """
    writer, term, height = await _writer(world)
    names = [name for name in world.cluster.nodes if name != writer]
    target, gateway = names[number % len(names)], names[(number + 1) % len(names)]
    began = time.monotonic()
    await _transfer_by_command(world, target=target, gateway=gateway)
    asked = time.monotonic() - began
    first = await _first_after(world, term, height)
    took = first.ended - last_before(world.history.follows, first, height).ended
    say(f"transfer {number}: {writer} to {target}, the command {asked:.2f} s, {took:.2f} s without a block")
    await world.flows()
    return took


async def _transfer_by_command(world: Running, *, target: str, gateway: str) -> None:
    key = world.cluster.material.folder / "gov.pem"
    if not key.exists():
        save(signer("gov"), key)
    words = ("writer", "transfer", "--to", target, "--key", str(key), "--gateway", world.cluster[gateway].url)
    code, _, err = await run_cli(*words, "--output", "json", seconds=COMMAND_SECONDS)
    if code != 0:
        raise RuntimeError(f"the transfer to {target} is refused: {err[-1000:]}")


async def stop(world: Running, number: int, say: Say) -> float:
    """Stops the writer with SIGTERM; returns the seconds from then to the first block of a later term.

    That it does not end, or with a status other than 0, is noted as a violation.
    """
    return await _end(world, number, "stop", signal.SIGTERM, say)


async def crash(world: Running, number: int, say: Say) -> float:
    """Kills the writer with SIGKILL; returns the seconds from then to the first block of a later term."""
    return await _end(world, number, "crash", signal.SIGKILL, say)


async def _end(world: Running, number: int, kind: str, by: signal.Signals, say: Say) -> float:
    """Ends the writer by a signal and starts it again; returns the seconds from the signal to the next term's block."""
    writer, term, height = await _writer(world)
    node = world.cluster[writer]
    began = time.monotonic()
    node.signal(by)
    took = (await _first_after(world, term, height)).ended - began
    try:
        status = await node.ended(seconds=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        world.history.noted.append(("EXIT", f"{writer} does not end within {STOP_SECONDS:g} s of {by.name}"))
        await node.kill()
    else:
        if by is signal.SIGTERM and status != 0:
            world.history.noted.append(("EXIT", f"{writer} ends with status {status} after SIGTERM, see its log"))
    ended = time.monotonic()
    world.history.troubles.append(Trouble(kind=kind, nodes=(writer,), began=began, healed=ended))
    node.start()
    if await world.all_ready(seconds=START_SECONDS) is None:
        world.history.noted.append(("UNREADY", f"{START_SECONDS:g} s after the {kind} of {writer}"))
    ready = time.monotonic() - began
    times = f"{took:.2f} s to the next block, ended within {ended - began:.1f} s, all ready after {ready:.1f} s"
    say(f"{kind} {number}: {writer}, {times}")
    await world.flows()
    return took


async def _writer(world: Running) -> tuple[str, int, int]:
    """Who writes now, in which term, and the highest block that a follower has seen.

    The term is no lower than that block's: a writer of before would be ended, or found over, for nothing.
    """
    newest = max((blocks[-1] for blocks in world.history.follows.values() if blocks), key=lambda read: read.height)
    writer, term = await world.cluster.writer(over=newest.term - 1)
    return writer, term, newest.height


async def _first_after(world: Running, term: int, height: int) -> Read:
    """The first block of a later term above a height, as it was first seen at any node."""
    follows = world.history.follows

    def look() -> Read | None:
        return next((read for read in first_seen(follows, height) if read.term > term), None)

    found: Read = await until(look, f"a block of a term over {term}")
    return found


def last_before(follows: Mapping[str, Sequence[Read]], first: Read, height: int) -> Read:
    """Returns the last block that any follower saw of those below ``first``, from a height on."""
    return max(
        (read for read in first_seen(follows, height) if read.height < first.height), key=lambda read: read.ended
    )


def first_seen(follows: Mapping[str, Sequence[Read]], height: int) -> list[Read]:
    """Returns each block from a height on as the first follower saw it, by height."""
    by_height: dict[int, Read] = {}
    for blocks in follows.values():
        for read in reversed(blocks):
            if read.height < height:
                break
            best = by_height.setdefault(read.height, read)
            if read.ended < best.ended:
                by_height[read.height] = read
    return [by_height[height] for height in sorted(by_height)]


def table(measured: Sequence[Measured]) -> list[str]:
    """Returns a line for each way: how often, the seconds without a block, and whether the goal is reached."""
    lines = [f"{'handover by':<11} {'times':>9}  {'p50':>6} {'p99':>6} {'max':>6}  goal (seconds without a block)"]
    for row in measured:
        times, goal = f"{len(row.seconds)} of {row.planned}", f"p99 <= {row.goal:.2f}"
        if row.seconds:
            figures = statistics.median(row.seconds), p99(row.seconds), max(row.seconds)
            shown = " ".join(f"{figure:>6.2f}" for figure in figures)
            reached = "reached" if p99(row.seconds) <= row.goal else "MISSED"
        else:
            shown, reached = " ".join(f"{'-':>6}" for _ in range(3)), "not measured"
        lines.append(f"{row.way:<11} {times:>9}  {shown}  {goal}: {reached}")
    return lines


def p99(seconds: Sequence[float]) -> float:
    """Returns the 99th percentile, which is the maximum of a hundred or fewer."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def verdict(violations: Sequence[Violation]) -> str:
    """Returns one line: how many writes the judge found stale, lost and doubled, and ends that were not clean."""
    found = {check: sum(v.check == check for v in violations) for check in ("STALE", "LOST", "DOUBLED", "EXIT")}
    # The judge names no more than a few of a kind.
    stale, lost, doubled, exits = (f"{n} or more" if n >= FEW else str(n) for n in found.values())
    return f"handover: stale writes accepted {stale}, lost {lost}, doubled {doubled}; ends that were not clean {exits}"
