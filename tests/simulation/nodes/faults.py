"""What is done to a world: each fault does its harm, lasts a while, and undoes what does not mend itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from tests.simulation.nodes.network import CALM
from tests.unit.node.material import peer_id

if TYPE_CHECKING:
    from tests.simulation.nodes.machine import Machine
    from tests.simulation.nodes.world import World

LEASE_SECONDS = 3.0
SLIGHTLY_MS, HOUR_MS = 2_000, 3_600_000
ENDING_SECONDS = 15.0
"""As long as a node takes to end at most."""
Fault = Callable[["World", random.Random], Coroutine[Any, Any, None]]


def _some(world: World, rng: random.Random) -> list[Machine]:
    """Returns one machine, sometimes the writer's, sometimes several."""
    machines = list(world.machines.values())
    if rng.random() < 0.3:
        writing = [
            machine for machine in machines if machine.node is not None and machine.node.writer()[0] == machine.name
        ]
        if writing:
            return writing[:1]
    return rng.sample(machines, rng.choice((1, 1, 1, 2, len(machines))))


async def kill(world: World, rng: random.Random) -> None:
    """Some processes are killed and started again."""
    await _down(world, rng, lambda machine: machine.crash(power=False))


async def power_cut(world: World, rng: random.Random) -> None:
    """Some machines lose their power: what was not synced is lost in part, or torn."""
    await _down(world, rng, lambda machine: machine.crash(power=True))


async def power_cut_within(world: World, rng: random.Random) -> None:
    """Some machines lose their power in the middle of an operation of the disk."""
    await _down(world, rng, lambda machine: machine.cut_power_in(rng.randint(1, 40)))


async def _down(world: World, rng: random.Random, how: Callable[[Machine], None]) -> None:
    chosen = _some(world, rng)
    for machine in chosen:
        if machine.runs:
            how(machine)
    await asyncio.sleep(rng.choice((0.1, 1.0, rng.uniform(0, 8))))
    for machine in chosen:
        machine.start_again()


async def stop(world: World, rng: random.Random) -> None:
    """A node is stopped as SIGTERM does, and started again."""
    (machine, *_) = _some(world, rng)
    await machine.stop()
    await asyncio.sleep(rng.uniform(0, 3))
    machine.start_again()


async def wipe(world: World, _rng: random.Random) -> None:
    """A node that does not vote loses all that it has, and fetches it from the others."""
    world.machines["g0"].wipe()


async def pause(world: World, rng: random.Random) -> None:
    """Some processes stand still for up to twice the lease, and go on as if nothing had been."""
    processes = [machine.process for machine in _some(world, rng)]
    names = [process.name for process in processes if process is not None]
    world.note("world", "pauses", " ".join(names))
    for process in processes:
        if process is not None:
            process.pause()
    await asyncio.sleep(rng.uniform(0.1, 2 * LEASE_SECONDS))
    world.note("world", "resumes", " ".join(names))
    for process in processes:
        if process is not None:
            process.resume()


async def split(world: World, rng: random.Random) -> None:
    """The network falls into groups."""
    names = list(world.machines)
    rng.shuffle(names)
    cut = rng.randrange(1, len(names))
    groups = (names[:cut], names[cut:])
    world.note("network", "splits", " | ".join(" ".join(group) for group in groups))
    world.hub.partition(*([peer_id(name) for name in group] for group in groups))
    await asyncio.sleep(rng.uniform(0.5, 8))
    world.note("network", "joins", "")
    world.hub.heal()


async def one_way(world: World, rng: random.Random) -> None:
    """In some directions nothing arrives, and nobody notices a broken connection."""
    names = list(world.machines)
    pairs = {(peer_id(a), peer_id(b)) for a in names for b in names if a != b and rng.random() < 0.3}
    world.note("network", "deaf", f"{len(pairs)} directions")
    world.hub.silent |= pairs
    await asyncio.sleep(rng.uniform(0.5, 6))
    world.hub.silent -= pairs


async def slow_disk(world: World, rng: random.Random) -> None:
    """Everything that threads do at one node takes up to a thousand times as long."""
    for machine in _some(world, rng):
        process = machine.process
        if process is not None:
            world.note(machine.name, "slow", "")
            process.slowness = rng.choice((20.0, 200.0, 1000.0))
    await asyncio.sleep(rng.uniform(0.5, 5))
    for machine in world.machines.values():
        if machine.process is not None:
            machine.process.slowness = 1.0


async def disk_error(world: World, rng: random.Random) -> None:
    """A sync fails, which ends the node; it is started again."""
    (machine, *_) = _some(world, rng)
    machine.excused = "a sync fails"
    machine.disk.failing_syncs = 1
    world.note(machine.name, "disk", "the next sync fails")
    await asyncio.sleep(rng.uniform(0.5, 4))
    machine.disk.failing_syncs = 0
    machine.start_again()


async def disk_full(world: World, rng: random.Random) -> None:
    """There is no room on the disk of a node for a while."""
    (machine, *_) = _some(world, rng)
    machine.excused = "the disk is full"
    machine.disk.capacity = machine.disk.used() + rng.choice((0, 1000, 20_000))
    world.note(machine.name, "disk", "full")
    await asyncio.sleep(rng.uniform(0.5, 6))
    world.note(machine.name, "disk", "has room again")
    machine.disk.capacity = None
    machine.start_again()


async def lease_away(world: World, rng: random.Random) -> None:
    """The lease service does not answer."""
    world.note("lease", "away", "")
    world.lease.away = True
    await asyncio.sleep(rng.uniform(0.5, 3 * LEASE_SECONDS))
    world.lease.away = False
    world.note("lease", "back", "")


async def lease_edited(world: World, rng: random.Random) -> None:
    """Somebody edits or deletes the lease by hand."""
    record = world.lease.record
    if rng.random() < 0.3:
        world.lease.delete()
    elif record is not None:
        holder = rng.choice(("stranger", None, *world.material.validators))
        world.lease.edit(holder, max(0, record.term + rng.choice((-1, 0, 1, 5))))


async def wall_clock(world: World, rng: random.Random) -> None:
    """The time of day of one node is wrong, at times by an hour."""
    (machine, *_) = _some(world, rng)
    # Were several an hour off, they could be a quorum, and their time the world's.
    others = any(abs(one.skew_ms) > SLIGHTLY_MS for one in world.machines.values())
    machine.skew_ms = rng.choice((-SLIGHTLY_MS, SLIGHTLY_MS, *(() if others else (-HOUR_MS, HOUR_MS))))
    if machine.process is not None:
        world.note(machine.name, "clock", f"{machine.skew_ms} ms off")
        machine.process.skew_ms = machine.skew_ms
    await asyncio.sleep(rng.uniform(0.5, 6))
    machine.skew_ms = 0
    if machine.process is not None:
        machine.process.skew_ms = 0


FAULTS: dict[str, Fault] = {
    "kill": kill,
    "power-cut": power_cut,
    "power-cut-within": power_cut_within,
    "stop": stop,
    "wipe": wipe,
    "pause": pause,
    "split": split,
    "one-way": one_way,
    "slow-disk": slow_disk,
    "disk-error": disk_error,
    "disk-full": disk_full,
    "lease-away": lease_away,
    "lease-edited": lease_edited,
    "wall-clock": wall_clock,
}


async def heal(world: World) -> None:
    """Undoes everything that is left, and starts whoever is down."""
    world.hub.heal()
    world.hub.silent.clear()
    world.hub.conditions = CALM
    world.lease.away = False
    for machine in world.machines.values():
        machine.skew_ms = 0
        machine.disk.failing_syncs, machine.disk.capacity = 0, None
        machine.disk.calm()
        if machine.process is not None:
            machine.process.resume()
            machine.process.slowness, machine.process.skew_ms = 1.0, 0
        machine.start_again()
    # What was done to a disk may end its node a little later; from then on nothing may.
    await asyncio.sleep(ENDING_SECONDS)
    for machine in world.machines.values():
        machine.excused = ""
        machine.start_again()
