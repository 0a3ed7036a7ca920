"""The writer handed over on purpose and by crash, again and again under load: how long no block comes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from agentworld_client.keys import save
from tests.integration.blackbox.history import Read, Trouble
from tests.integration.blackbox.world import Running
from tests.integration.node.cluster_of_nodes import run_cli, until
from tests.unit.node.material import signer
from tests.unit.node.test_handover import wish

COMMAND_SECONDS = 300.0
START_SECONDS = 300.0

Say = Callable[[str], None]


async def run(world: Running, *, count: int, until_time: float, say: Say) -> list[str]:
    """Hands the writer over so many times on purpose, and kills it as many times; returns the figures as lines.

    Fewer times when the time is over before.
    """
    planned: list[float] = []
    crashed: list[float] = []
    for done, once in ((planned, transfer), (crashed, crash)):
        for number in range(count):
            if time.monotonic() >= until_time:
                break
            done.append(await once(world, number, say))
    return [figures(what, seconds) for what, seconds in (("planned", planned), ("crash", crashed)) if seconds]


async def transfer(world: Running, number: int, say: Say) -> float:
    """Has the lease transferred to another validator; returns the seconds between the blocks before and after.

    The first time by ``agentworld writer transfer``, then by the same request without the start of a process.
    """
    cluster = world.cluster
    writer, term = await cluster.writer()
    names = [name for name in cluster.nodes if name != writer]
    target, gateway = names[number % len(names)], names[(number + 1) % len(names)]
    began = time.monotonic()
    if number == 0:
        await _transfer_by_command(world, target=target, gateway=gateway)
    else:
        async with cluster[gateway].client(patience=0) as client:
            await client.transfer_writer(wish(target, term))
    asked = time.monotonic() - began
    first = await _first_after(world, term)
    took = first.ended - max(read.ended for read in _first_seen(world) if read.height < first.height)
    say(f"transfer {number}: {writer} to {target} in {asked:.2f} s, {took:.2f} s without a block")
    await _flows(world)
    return took


async def _transfer_by_command(world: Running, *, target: str, gateway: str) -> None:
    key = world.cluster.material.folder / "gov.pem"
    save(signer("gov"), key)
    words = ("writer", "transfer", "--to", target, "--key", str(key), "--gateway", world.cluster[gateway].url)
    code, _, err = await run_cli(*words, "--output", "json", seconds=COMMAND_SECONDS)
    if code != 0:
        raise RuntimeError(f"the transfer to {target} is refused: {err[-1000:]}")


async def crash(world: Running, number: int, say: Say) -> float:
    """Kills the writer with SIGKILL; returns the seconds from then to the first block of a later term."""
    cluster = world.cluster
    writer, term = await cluster.writer()
    began = time.monotonic()
    await cluster[writer].kill()
    took = (await _first_after(world, term)).ended - began
    world.history.troubles.append(Trouble(kind="crash", nodes=(writer,), began=began, healed=time.monotonic()))
    cluster[writer].start()
    if await world.all_ready(seconds=START_SECONDS) is None:
        world.history.noted.append(("UNREADY", f"{START_SECONDS:g} s after the crash of {writer}"))
    say(f"crash {number}: {writer}, {took:.2f} s to the next block, ready {time.monotonic() - began:.1f} s after")
    await _flows(world)
    return took


async def _flows(world: Running) -> None:
    """Returns when every client had an answer again, or nearly."""
    acks = world.history.acknowledged
    enough = len(acks) + 10
    await until(lambda: len(acks) >= enough, "actions flow")


async def _first_after(world: Running, term: int) -> Read:
    """The first block of a later term, as it was first seen at any node."""

    def look() -> Read | None:
        return next((read for read in _first_seen(world) if read.term > term), None)

    found: Read = await until(look, f"a block of a term over {term}")
    return found


def _first_seen(world: Running) -> Iterator[Read]:
    """Yields each block as the first follower saw it, by height; only the newest hundred."""
    by_height: dict[int, Read] = {}
    for blocks in world.history.follows.values():
        for read in blocks[-100:]:
            best = by_height.setdefault(read.height, read)
            if read.ended < best.ended:
                by_height[read.height] = read
    return (by_height[height] for height in sorted(by_height))


def figures(what: str, seconds: Sequence[float]) -> str:
    """Returns one line: how often, and the seconds without a block."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    median = statistics.median(ordered)
    times = f"{len(ordered)} times, seconds without a block"
    return f"handover {what}: {times} p50 {median:.2f}, p99 {p99:.2f}, max {ordered[-1]:.2f}"
