"""A machine that runs a node: it starts, crashes, loses power, pauses, and is stopped; what survives is on its disk."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from agentworld_core.errors import AgentWorldError, NotAvailable
from agentworld_core.messages import BlockBundle
from agentworld_node.ledger_stores import INDEX
from agentworld_node.network.port import Peer
from agentworld_node.node import Node
from tests.simulation.nodes.loop import Process
from tests.simulation.nodes.network import SimulatedNetwork
from tests.simulation.nodes.sizes import RETAINED_SNAPSHOTS
from tests.unit.node.material import peer_id
from tests.unit.storage.faults import CrashDisk, PowerCut

if TYPE_CHECKING:
    from tests.simulation.nodes.world import World

T = TypeVar("T")
STOP_SECONDS = 60.0
SETTINGS = {"verification_workers": 2, "retain_snapshots": RETAINED_SNAPSHOTS}
VALIDATOR_ROLES = ("validator", "sequencer", "storage", "gateway")


class SimulatedNode(Node):
    """A node in all but its HTTP server, which nobody could reach in virtual time."""

    async def _listen(self, _runner: web.AppRunner) -> None:
        self.http_port = 1


class MountedDisk(CrashDisk):
    """A disk that tells when its power is cut, and whose files are found below another folder in every life."""

    on_cut: Callable[[], None] = staticmethod(lambda: None)

    def finish(self) -> None:
        try:
            super().finish()
        except PowerCut:
            self.on_cut()
            raise

    def calm(self) -> None:
        """Forgets that the power was to be cut."""
        self._power_at = None

    def mount(self, root: Path) -> None:
        """Moves everything below another folder."""
        old, self.root = self.root, root

        def moved(path: Path) -> Path:
            return root / path.relative_to(old)

        self._folders = {moved(path) for path in self._folders}
        self._durable_folders = {moved(path) for path in self._durable_folders}
        self._files = {moved(path): inode for path, inode in self._files.items()}
        self._durable_files = {moved(path): inode for path, inode in self._durable_files.items()}
        self._renames = [(moved(path), inode) for path, inode in self._renames]
        self.unreadable = {moved(path) for path in self.unreadable}


class Machine:
    """Where one node of a world lives; ``height`` is what it has told somebody that it has."""

    def __init__(self, world: World, name: str):
        self.world = world
        self.name = name
        self.rng = world.rng(f"machine/{name}")
        self.rate = 1.0
        self.skew_ms = 0
        self.life = 0
        self.losses = 0
        """How often it has lost what it held in memory, other than by a clean stop."""
        self.height = 0
        self.excused = ""
        """Why the node may end by itself now: what was done to its disk."""
        self.revoked: set[str] = set()
        self.lives: list[Process] = []
        self.process: Process | None = None
        self.node: SimulatedNode | None = None
        self._task: asyncio.Task[None] | None = None
        self._network: SimulatedNetwork | None = None
        self._folder = world.folder / name / "life-0"
        self._folder.mkdir(parents=True)
        self.disk = MountedDisk(self._folder, seed=self.rng.randrange(2**32), sector=64)

    @property
    def runs(self) -> bool:
        """True while the node runs, paused or not."""
        return self.process is not None

    def start(self) -> None:
        """Begins a new life on what the disk has kept."""
        self.life += 1
        before, self._folder = self._folder, self._folder.with_name(f"life-{self.life}")
        shutil.copytree(before, self._folder)
        self.disk.mount(self._folder)
        self.process = process = Process(self.world.loop, self.name, rate=self.rate, skew_ms=self.skew_ms)
        self.lives.append(process)
        self.disk.on_cut = self._lose_power
        try:
            process.context.run(self._boot, process)
        except PowerCut:
            self.world.note(self.name, "dies", "while it starts")

    def start_again(self) -> None:
        """Begins a new life if the node does not run."""
        if not self.runs:
            self.start()

    def crash(self, *, power: bool) -> None:
        """Ends the process at once; with the power goes what the disk has not been told to keep."""
        if self.process is None:
            return
        self.world.note(self.name, "crashes", "without power" if power else "")
        self.losses += 1
        self._forget(power=power)
        if power:
            self._power_is_gone()
        else:
            self.disk.kill()

    def cut_power_in(self, operations: int) -> None:
        """Cuts the power within one of the next operations of the disk."""
        self.disk.cut_power_in(operations)

    async def stop(self) -> None:
        """Stops the node as SIGTERM does, and waits for its end."""
        task, node, process = self._task, self.node, self.process
        if task is None or node is None or process is None:
            return
        self.world.note(self.name, "stops", "")
        self.world.loop.call_soon(node.stop, context=process.context)
        done, _ = await asyncio.wait({task}, timeout=STOP_SECONDS)
        if not done and process.alive and self.process is process:
            self.world.fail("STOP", f"{self.name} has not ended {STOP_SECONDS:g} s after it was told to stop")

    async def ask(self, work: Callable[[SimulatedNode], Coroutine[Any, Any, T]], *, seconds: float) -> T:
        """Has the node do something for a client; raises what it raises, and NotAvailable when it does not answer."""
        if self.process is None or self.node is None:
            raise NotAvailable(f"{self.name} is down")
        task: asyncio.Task[T] = self.process.spawn(work(self.node))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # also if nobody waits any more
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done or task.cancelled():
            raise NotAvailable(f"{self.name} does not answer")
        return task.result()

    def wipe(self) -> None:
        """Begins again with an empty disk, as a pod whose volume was deleted."""
        self.world.note(self.name, "wiped", "")
        self.crash(power=False)
        self.height, self.revoked = 0, set()
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        self.disk = MountedDisk(self._folder, seed=self.rng.randrange(2**32), sector=64)
        self.start()

    def clean_up(self) -> None:
        """Ends all lives, now that nothing of them counts any more."""
        self._forget()
        for life in self.lives:
            life.clean_up()

    def _boot(self, process: Process) -> None:
        world = self.world
        self._network = network = world.hub.network_of(peer_id(self.name), process)
        network.set_peers([Peer(peer_id(other)) for other in world.material.names if other != self.name])
        world.prepare(self, network)
        config = world.material.config(self.name, data_folder=str(self._folder), **SETTINGS)
        if self.name in world.candidates:
            keys = world.material.node_folder(self.name) / "keys"
            config = dataclasses.replace(config, roles=VALIDATOR_ROLES, key_folder=str(keys))
        try:
            node = SimulatedNode(config, network=network, files=self.disk)
        except AgentWorldError as error:
            self._forget()
            if self.excused:
                world.note(self.name, "fails", f"to start: {error}")
            else:
                world.fail("START", f"{self.name} does not start: {error!r}")
            return
        self.node = node
        world.note(self.name, "starts", f"at height {node.ledger.height}")
        world.check_recovered(self, node.ledger)
        node.ledger.on_commit(self._committed)
        self._task = self.world.loop.create_task(node.run(), name="node")
        self._task.add_done_callback(lambda task: self._ended(process, task))

    def _committed(self, bundle: BlockBundle) -> None:
        self.height = bundle.block.height
        self.world.committed(self, bundle)

    def _ended(self, process: Process, task: asyncio.Task[None]) -> None:
        """Notes the end of a process that was stopped, or that ended by itself, for which there must be a reason."""
        error = None if task.cancelled() else task.exception()
        if self.process is process:
            self._forget()
            self.disk.kill()
        self.losses += error is not None or bool(self.excused)
        if error is None:
            self.world.note(self.name, "ended", "")
        elif self.excused or isinstance(error, PowerCut):
            self.world.note(self.name, "ended", f"by itself: {error}")
        else:
            self.world.fail("ENDED", f"{self.name} ended by itself: {error!r}")

    def _lose_power(self) -> None:
        if self.process is None:
            return
        self.world.note(self.name, "crashes", "within an operation of the disk")
        self.losses += 1
        self._forget(power=True)
        # When what runs now is over: it is in the middle of an operation.
        self.world.later(0.0, self._power_is_gone)

    def _power_is_gone(self) -> None:
        self.disk.crash()
        self._lose_index()

    def _lose_index(self) -> None:
        """Loses what SQLite has not synced, everything, or nothing."""
        fate = self.rng.choice(("kept", "kept", "unsynced", "unsynced", "lost"))
        index = self._folder / INDEX
        suffixes = {"kept": (), "unsynced": ("-wal", "-shm"), "lost": ("", "-wal", "-shm")}[fate]
        for suffix in suffixes:
            index.with_name(index.name + suffix).unlink(missing_ok=True)
        if suffixes:
            self.world.reach(f"index {fate}")

    def _forget(self, *, power: bool = False) -> None:
        process, self.process, self._task, self.node = self.process, None, None, None
        if process is not None:
            process.end()
        network, self._network = self._network, None
        if network is not None and power:
            self.world.hub.unplug(network)
        elif network is not None:
            self.world.hub.leave(network)
