"""What is done to the machines of a run: faults drawn from a seed, brought about, and healed."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.integration.blackbox.machines import RUNNER, Link, Machine, addresses
from tests.integration.node.cluster_of_nodes import until

HOUR = 3600
START_SECONDS = 300.0
WRITER = "writer"
"""In the place of a name: whoever writes when the fault is brought about."""

KINDS = {
    "kill": "SIGKILL, and a start again",
    "terminate": "SIGTERM, and a start again",
    "kill-all": "SIGKILL to all at once",
    "blink": "SIGSTOP for less than the lease",
    "freeze": "SIGSTOP for longer than the lease",
    "isolate": "hears no other node and is heard by none; clients reach it",
    "cut-off": "reaches nobody, clients neither",
    "split": "two halves that do not hear each other",
    "rift": "two halves for so long that connections are given up",
    "shatter": "no two nodes hear each other",
    "deaf": "hears no other node, and is heard",
    "mute": "is heard by no other node, and hears",
    "loss": "every node loses packets",
    "narrow": "little gets through to a node",
    "disk": "no byte is free in the data folder",
    "disks": "no byte is free at two nodes",
    "clock": "the wall clock is an hour off, or half a minute",
}
SPANS = {"blink": (0.5, 2.0), "rift": (40.0, 70.0)}
SPAN = (4.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of one of KINDS: whom it befalls (names, or WRITER), for how long, and a number that it may need."""

    kind: str
    nodes: tuple[str, ...]
    seconds: float
    amount: int = 0

    def lasting(self, seconds: float) -> Fault:
        """The same for so many seconds."""
        return dataclasses.replace(self, seconds=seconds)

    def __str__(self) -> str:
        amount = f" by {self.amount}" if self.amount else ""
        return f"{self.kind}{amount} of {', '.join(self.nodes)} for {self.seconds:.1f} s"


def draw(rng: random.Random, kind: str, names: Sequence[str]) -> Fault:
    """Returns a fault of this kind; the same draws give the same fault."""
    one = WRITER if rng.random() < 0.5 else rng.choice(names)
    many = tuple(rng.sample(list(names), len(names)))
    seconds = round(rng.uniform(*SPANS.get(kind, SPAN)), 1)
    nodes = {
        "kill-all": many,
        "split": many[: len(many) // 2],
        "rift": many[: len(many) // 2],
        "shatter": many,
        "loss": many,
        "disks": many[:2],
    }.get(kind, (one,))
    if kind in ("kill", "freeze") and rng.random() < 0.3:
        nodes = many[:2]
    amount = {
        "loss": rng.choice((5, 15, 30)),
        "narrow": rng.choice((10_000, 50_000)),
        "clock": rng.choice((HOUR, -HOUR, 30, -30)),
    }.get(kind, 0)
    return Fault(kind=kind, nodes=nodes, seconds=seconds, amount=amount)


def plan(seed: int, names: Sequence[str], kinds: Sequence[str] = tuple(KINDS)) -> Iterator[tuple[Fault, ...]]:
    """Yields without end what to do next: one fault, or two at once; every kind comes before one comes again."""
    rng = random.Random(seed)
    while True:
        for kind in rng.sample(list(kinds), len(kinds)):
            faults = [draw(rng, kind, names)]
            if rng.random() < 0.25:
                faults.append(draw(rng, rng.choice(kinds), names))
            yield tuple(faults)


class Nemesis:
    """Brings faults about on machines; ``heal`` undoes all of them."""

    def __init__(self, machines: Mapping[str, Machine]):
        self._machines = machines
        self._restart: dict[str, None] = {}

    def ended(self, name: str) -> bool:
        """True for a machine whose node was killed or told to end, until all is healed."""
        return name in self._restart

    def befallen(self, fault: Fault, writer: str) -> tuple[str, ...]:
        """Whom the fault befalls now, by name."""
        return tuple(dict.fromkeys(writer if name == WRITER else name for name in fault.nodes))

    async def strike(self, fault: Fault, names: Sequence[str]) -> None:
        """Brings the fault about for these machines."""
        chosen = [self._machines[name] for name in names]
        if fault.kind in ("kill", "kill-all", "terminate"):
            self._restart |= dict.fromkeys(names)
            for machine in chosen:
                if machine.runs:
                    machine.signal(signal.SIGTERM if fault.kind == "terminate" else signal.SIGKILL)
        elif fault.kind in ("blink", "freeze"):
            for machine in chosen:
                if machine.runs:
                    machine.signal(signal.SIGSTOP)
        elif fault.kind in ("disk", "disks"):
            for machine in chosen:
                await asyncio.to_thread(machine.fill_disk)
        elif fault.kind == "clock":
            for machine in chosen:
                machine.set_clock(fault.amount)
        else:
            for name, link in self._links(fault, names).items():
                await asyncio.to_thread(self._machines[name].hear, link)

    async def heal(self) -> None:
        """Undoes everything: all run and answer, all hear each other, disks have room, clocks are right."""
        for name, machine in self._machines.items():
            if machine.runs:
                machine.signal(signal.SIGCONT)
            if name in self._restart and machine.runs:  # it was told to end
                await machine.ended()
            await asyncio.to_thread(machine.hear, Link())
            await asyncio.to_thread(machine.empty_disk)
            machine.set_clock(0)
            if not machine.runs:
                machine.start()
        # How long a process takes to begin says more about this machine than about the world.
        for name in self._restart:
            await until(self._machines[name].answers, f"{name} answers", seconds=START_SECONDS)
        self._restart.clear()

    def _links(self, fault: Fault, names: Sequence[str]) -> dict[str, Link]:
        """What each machine hears while the fault lasts; those that are not named hear everything."""
        inside = [self._machines[name] for name in names]
        outside = [machine for name, machine in self._machines.items() if name not in names]
        near, far = addresses(inside), addresses(outside)
        match fault.kind:
            case "isolate" | "split" | "rift":
                return {m.name: Link(deaf_to=far) for m in inside} | {m.name: Link(deaf_to=near) for m in outside}
            case "cut-off":
                cut = {m.name: Link(deaf_to=(*far, RUNNER)) for m in inside}
                return cut | {m.name: Link(deaf_to=near) for m in outside}
            case "shatter":
                all_of_them = (*near, *far)
                return {m.name: Link(deaf_to=tuple(a for a in all_of_them if a != m.address)) for m in inside}
            case "deaf":
                return {m.name: Link(deaf_to=far) for m in inside}
            case "mute":
                return {m.name: Link(deaf_to=near) for m in outside}
            case "loss":
                return {m.name: Link(loss=fault.amount) for m in inside}
            case "narrow":
                return {m.name: Link(bytes_per_second=fault.amount) for m in inside}
        raise ValueError(f"fault.kind is {fault.kind}; use one of {', '.join(KINDS)}")
