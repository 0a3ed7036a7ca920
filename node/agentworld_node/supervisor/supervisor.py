"""Runs one world on one machine until it is told to stop: one lock, one control endpoint, one loop of passes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from agentworld_core.errors import AgentWorldError
from agentworld_core.genesis_module import GenesisModule
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.topology.resources import World
from agentworld_node.supervisor.artifacts import ConfigMap, find_modules
from agentworld_node.supervisor.control import ControlServer
from agentworld_node.supervisor.declared import Declared, Outcome, declare
from agentworld_node.supervisor.fleet import Fleet
from agentworld_node.supervisor.home import WorldHome
from agentworld_node.supervisor.manifests import Complaint, Given, RefusedManifests
from agentworld_node.supervisor.meaning import notices
from agentworld_node.supervisor.processes import node_command
from agentworld_node.supervisor.reconciler import Reconciler
from agentworld_node.supervisor.record import Lock, SupervisorRecord, remove_record, write_record
from agentworld_node.supervisor.reports import Observer
from agentworld_node.supervisor.state import WorldState
from agentworld_node.supervisor.summary import summarize

log = logging.getLogger(__name__)

PASS_SECONDS = 1.0
BUSY_PASS_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class Applied:
    """What applying manifests did: one outcome an object, and what somebody should know about them."""

    outcomes: tuple[Outcome, ...]
    notices: tuple[str, ...]


class Supervisor:
    """Supervises one world; ``run`` returns after ``stop``, when everything it started has ended.

    ``port`` is that of the gateway; None takes the one it had before, or that of the World's gateway service.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        on_state: Callable[[WorldState], None] = lambda _state: None,
        command: Callable[[Path], Sequence[str]] = node_command,
    ):
        self._home = WorldHome(folder)
        self._port = port
        self._on_state = on_state
        self._command = command
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._observer = Observer()
        self._declared: Declared | None = None
        self._fleet: Fleet | None = None
        self.state: WorldState | None = None

    def stop(self) -> None:
        """Begins a clean stop; calling it again changes nothing."""
        self._stopping.set()
        self._wake.set()

    async def run(
        self,
        given: Sequence[Given],
        *,
        config_maps: Sequence[ConfigMap] = (),
        ready: Callable[[Applied], None] = lambda _applied: None,
    ) -> None:
        """Applies the manifests and runs the world; raises a typed error, before anything runs, when it may not.

        ``config_maps`` are those in which the World may have modules to begin with. ``ready`` is called once when the
        world has its genesis and its processes are about to start.
        """
        self._home.prepare()
        lock = Lock(self._home.folder)
        lock.acquire()
        try:
            # That of a supervisor that was killed would send callers to nobody.
            remove_record(self._home.folder)
            applied = self._merge(given)
            modules = self._first_modules(config_maps)
            fleet = await self._make_fleet()
            self._home.save_manifests(self._current().manifests())
            reconciler = Reconciler(self._home, fleet, self._observer, self._current())
            reconciler.found(modules)
            self.state = self._first_state(fleet)
            ready(dataclasses.replace(applied, notices=self._notices(given)))
            await self._run_world(reconciler, fleet)
        finally:
            lock.release()

    def apply(self, given: Sequence[Given], *, dry_run: bool = False) -> Applied:
        """Merges manifests into those that run; RefusedManifests changes nothing."""
        before = self._declared
        try:
            applied = self._merge(given)
            applied = dataclasses.replace(applied, notices=self._notices(given))
        finally:
            merged, self._declared = self._declared, before
        if not dry_run and merged is not None:
            self._home.save_manifests(merged.manifests())
            self._declared = merged
            self._wake.set()
        return applied

    def _merge(self, given: Sequence[Given]) -> Applied:
        stored = self._home.manifests()
        if self._declared is None and stored:
            self._declared = Declared.load(stored, source=str(self._home.folder / "world.json"))
        settled = self._home.genesis() is not None
        signing: dict[str, str] = {}
        if settled and self._declared is not None:
            existing = [config.node_id for config in self._home.node_configs() if "validator" in config.roles]
            topology = self._declared.topology(existing)
            signing = {node.name: node.key for node in topology.nodes if node.node_id in existing}
        declared, outcomes = declare(self._declared, given, settled=settled, signing_keys=signing)
        self._declared = declared
        return Applied(tuple(outcomes), ())

    def _first_modules(self, config_maps: Sequence[ConfigMap]) -> tuple[GenesisModule, ...]:
        """Returns the modules that a world which has not begun yet is to begin with; RefusedManifests says why not."""
        world = next(item for item in self._current().items if isinstance(item.resource, World))
        genesis = self._current().world.spec.genesis
        if self._home.genesis() is not None or not genesis.modules:
            return ()
        from agentworld_node.sandbox import WasmSandbox  # the engine is loaded only where there is code to judge

        modules, problems = find_modules(genesis, config_maps, Path(world.source).parent, sandbox=WasmSandbox())
        if problems:
            raise RefusedManifests([Complaint(world.source, str(world), problem) for problem in problems])
        return modules

    def _notices(self, given: Sequence[Given]) -> tuple[str, ...]:
        genesis = self._home.genesis()
        parameters = None if genesis is None else genesis.parameters
        lines = [line for item in given for line in notices(item.resource, parameters)]
        if self._declared is not None and any(isinstance(item.resource, World) for item in given):
            lines += self._declared.topology().warnings
        return tuple(lines)

    async def _make_fleet(self) -> Fleet:
        world = self._current().world
        known = self._home.node_config(f"{world.name}-gateway-0")
        port = self._port
        if port is None:
            port = known.http_port if known is not None else world.spec.gateway.service_port
        self._fleet = Fleet(self._home, entry_port=port, command=self._command)
        for node_id in await self._fleet.end_leftovers():
            log.warning("ended node %s, which an earlier supervisor had left behind", node_id)
        self._fleet.check_entry_port()
        return self._fleet

    async def _run_world(self, reconciler: Reconciler, fleet: Fleet) -> None:
        control = ControlServer(self)
        try:
            url = await control.start()
            while not self._stopping.is_set():
                self._wake.clear()
                reconciler.declared = self._current()
                busy = True
                try:
                    seen = await reconciler.run_once()
                except (AgentWorldError, OSError) as error:
                    # Something of the home cannot be read or written: said, and tried again, while the nodes run on.
                    log.exception("this pass failed")
                    problems = (f"the supervisor cannot go on: {error}",)
                    self.state = dataclasses.replace(self._state(), problems=problems, settled=False)
                else:
                    self.state = summarize(seen, fleet, self._observer, base=self._state())
                    busy = seen.acted or not self.state.settled
                self._on_state(self._state())
                self._say_where(control, url)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BUSY_PASS_SECONDS if busy else PASS_SECONDS):
                        await self._wake.wait()
        finally:
            self.state = dataclasses.replace(self._state(), phase="Stopping", settled=False)
            self._on_state(self._state())
            await fleet.stop()
            remove_record(self._home.folder)
            await control.stop()
            await self._observer.close()

    def _say_where(self, control: ControlServer, url: str) -> None:
        record = SupervisorRecord(
            pid=os.getpid(),
            url=url,
            token=control.token,
            world=self._state().world,
            gateway=self._state().gateway,
            version=metadata.version("agent-world"),
        )
        write_record(self._home.folder, record)

    def _first_state(self, fleet: Fleet) -> WorldState:
        genesis = self._home.genesis()
        world = self._current().world
        return WorldState(
            world=world.name,
            world_id=world.spec.world_id,
            genesis_hash="" if genesis is None else genesis_hash(genesis),
            gateway=fleet.gateway_url,
            data=str(self._home.folder),
        )

    def _current(self) -> Declared:
        if self._declared is None:
            raise RuntimeError("nothing is declared before run")
        return self._declared

    def _state(self) -> WorldState:
        if self.state is None:
            raise RuntimeError("there is no state before run")
        return self.state
