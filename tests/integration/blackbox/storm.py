"""The long run: one fault after the other while clients act, each healed and recovered from before the next."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from agentworld_client.errors import GatewayError, GatewayUnreachable
from tests.integration.blackbox.checker import recovery
from tests.integration.blackbox.history import Trouble
from tests.integration.blackbox.nemesis import Fault, Nemesis
from tests.integration.blackbox.world import Running
from tests.integration.node.cluster_of_nodes import until

WRITER_SECONDS = 2.0
SLOW_SECONDS = 5.0


@dataclass
class Storm:
    """Faults brought about in a world; ``patience`` is the seconds in which it has to be well again after each."""

    world: Running
    patience: float
    say: Callable[[str], None]
    calm: float = 2.0
    _nemesis: Nemesis = field(init=False)

    def __post_init__(self) -> None:
        self._nemesis = Nemesis(self.world.cluster.machines)

    async def rage(self, plan: Iterable[Sequence[Fault]], *, until_time: float) -> None:
        """Goes through the plan until it or the time is over."""
        for faults in plan:
            if time.monotonic() >= until_time:
                return
            await self._trouble(faults)
            await asyncio.sleep(self.calm)
            self._note_exits()

    async def _trouble(self, faults: Sequence[Fault]) -> None:
        began = time.monotonic()
        writer = await self._writer()
        befallen: dict[str, None] = {}
        for fault in faults:
            names = self._nemesis.befallen(fault, writer)
            befallen |= dict.fromkeys(names)
            await self._nemesis.strike(fault, names)
        if [fault.kind for fault in faults] in (["disk"], ["disks"]):
            await self._says_full(list(befallen))
        await asyncio.sleep(max(0.0, began + max(fault.seconds for fault in faults) - time.monotonic()))
        self._note_exits()
        await self._nemesis.heal()
        kind = "+".join(fault.kind for fault in faults)
        trouble = Trouble(kind=kind, nodes=tuple(befallen), began=began, healed=time.monotonic())
        history = self.world.history
        history.troubles.append(trouble)
        commits = await self.world.commits_again(since=trouble.healed, seconds=self.patience)
        ready = await self.world.all_ready(seconds=self.patience) is not None
        took = time.monotonic() - trouble.healed
        if took > SLOW_SECONDS and self.world.unready:
            waited = (f"{why} (until {seconds:.1f} s)" for why, seconds in self.world.unready.items())
            self.say(f"  was not ready: {'; '.join(waited)}")
        if not ready:
            history.noted.append(("UNREADY", f"{self.patience:g} s after {kind} of {', '.join(befallen)}"))
        well = (
            f"{'commits' if commits else 'DOES NOT COMMIT'}, {'all' if ready else 'NOT ALL'} ready {took:.1f} s after"
        )
        quiet = f"longest silence {silence(self.world, trouble):.1f} s"
        self.say(f"{'; '.join(map(str, faults))} (writer {writer}): {quiet}, {well}")

    async def _writer(self) -> str:
        """Who writes as most nodes say now; one of them anyhow when none says it soon."""
        with contextlib.suppress(TimeoutError, AssertionError):
            async with asyncio.timeout(WRITER_SECONDS):
                return (await self.world.cluster.writer())[0]
        return next(iter(self.world.cluster.nodes))

    async def _says_full(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                await until(lambda: self._is_full(name), "it says that it is full", seconds=self.patience)  # noqa: B023
            except AssertionError:
                self.world.history.noted.append(("SILENT", name))

    async def _is_full(self, name: str) -> bool:
        machine = self.world.cluster.machines[name]
        await asyncio.to_thread(machine.fill_disk)
        status = await machine.status()
        return status is not None and status["storage"]["state"] == "full" and not await machine.is_ready()

    def _note_exits(self) -> None:
        for name, node in self.world.cluster.nodes.items():
            if not node.runs and not self._nemesis.ended(name):
                self.world.history.noted.append(("EXIT", f"{name}, see its log"))
                node.start()


async def note_accusations(world: Running) -> None:
    """Notes evidence that a node holds against anybody: all validators of a run are honest."""
    for name, node in world.cluster.nodes.items():
        with contextlib.suppress(GatewayError, GatewayUnreachable):
            async with node.client() as client:
                rows = (await client.status())["evidence"]
            if rows:
                world.history.noted.append(("ACCUSED", f"{name} says {rows}"))


def note_errors(world: Running) -> None:
    """Notes logs with a traceback: an error that came where none was expected."""
    for name, node in world.cluster.nodes.items():
        lines = node.log.read_text(errors="replace").splitlines()
        found = [number for number, line in enumerate(lines, 1) if "Traceback (most" in line]
        if found:
            world.history.noted.append(("TRACE", f"{name}.log, line {found[0]} and {len(found) - 1} more"))


def silence(world: Running, trouble: Trouble) -> float:
    """Returns the longest time without an acknowledgement, from the fault to the first one after its healing."""
    times = sorted(ack.ended for ack in world.history.acknowledged if ack.ended >= trouble.began)
    last = trouble.began
    longest = 0.0
    for at in times:
        longest, last = max(longest, at - last), at
        if at > trouble.healed:
            break
    return longest


def table(world: Running) -> list[str]:
    """Returns a line for each kind of trouble: how often, seconds of silence, seconds from healing to a commit."""
    kinds: dict[str, list[Trouble]] = {}
    for trouble in world.history.troubles:
        kinds.setdefault(trouble.kind if "+" not in trouble.kind else "two at once", []).append(trouble)
    lines = [f"{'fault':<12} {'times':>5}  {'silence p50':>11} {'max':>6}  {'recovery p50':>12} {'max':>6}   (seconds)"]
    for kind, troubles in sorted(kinds.items()):
        quiet = [silence(world, trouble) for trouble in troubles]
        back = [recovery(world.history, trouble) or float("inf") for trouble in troubles]
        lines.append(
            f"{kind:<12} {len(troubles):>5}  {statistics.median(quiet):>11.1f} {max(quiet):>6.1f}"
            f"  {statistics.median(back):>12.1f} {max(back):>6.1f}"
        )
    return lines
