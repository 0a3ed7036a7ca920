"""A world without processes: nodes and their chain of directories in memory, the home's files in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from agentworld_core.consensus.verdict import Verdict
from agentworld_core.errors import NotAvailable, StateMismatch
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.membership.directory import check_next_directory, directory_hash, find_member
from agentworld_core.membership.revocation import check_revocation
from agentworld_core.messages import Directory, Revocation
from agentworld_core.topology.node_config import NodeConfig
from agentworld_node.keys import KeyFolder
from agentworld_node.supervisor.declared import Declared, declare
from agentworld_node.supervisor.fleet import Fleet
from agentworld_node.supervisor.home import WorldHome
from agentworld_node.supervisor.manifests import parse_documents
from agentworld_node.supervisor.reconciler import Reconciler
from agentworld_node.supervisor.reports import NodeReport, Observer
from agentworld_node.supervisor.state import WorldState
from agentworld_node.supervisor.summary import summarize


def resource(kind: str, name: str, *, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, **({"annotations": annotations} if annotations else {})}
    return {"apiVersion": "agentworld.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def world(replicas: int = 4, *, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    spec = {"validators": {"replicas": replicas}, "gateway": {"replicas": 0}, **spec}
    return resource("World", "aurora", annotations=annotations, **spec)


def key(
    name: str = "aurora-0", validator: str = "aurora-0", *, annotations: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    spec = {"world": "aurora", "validator": validator, **spec}
    return resource("MembershipKey", name, annotations=annotations, **spec)


def governance(
    name: str = "aurora-governance", *, annotations: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    return resource("MembershipKey", name, annotations=annotations, world="aurora", purpose="Governance", **spec)


def declared(*manifests: dict[str, Any], current: Declared | None = None) -> Declared:
    reading = parse_documents(("test", manifest) for manifest in manifests)
    return declare(current, reading.given, settled=False, signing_keys={})[0]


IDLE = Verdict(state="Idle", message="idle: no actions wait")


class Chain:
    """The nodes' shared ledger as far as directories go: one that is submitted is announced, then in force."""

    def __init__(self) -> None:
        self.directories: list[Directory] = []
        self.waiting: Directory | None = None
        self.announced: Directory | None = None
        self.revoked: dict[str, dict[str, Revocation]] = {}
        self.silent: set[str] = set()
        self.behind: set[str] = set()
        self.moves = True
        self.progress: dict[str, Verdict] = {}

    @property
    def current(self) -> Directory:
        return self.directories[-1]

    def advance(self) -> None:
        """One block."""
        if not self.moves:
            return
        if self.announced is not None:
            self.directories.append(self.announced)
            self.announced = None
        elif self.waiting is not None:
            self.announced, self.waiting = self.waiting, None

    def submit(self, proposed: Directory) -> None:
        latest = self.announced or self.current
        if proposed.epoch <= latest.epoch:
            if any(directory_hash(proposed) == directory_hash(known) for known in [*self.directories, latest]):
                return
            raise StateMismatch("is already in the ledger", field="epoch", value=proposed.epoch)
        check_next_directory(latest, proposed)
        if self.waiting is not None and directory_hash(self.waiting) != directory_hash(proposed):
            raise StateMismatch("another directory of this epoch waits for a block", field="epoch")
        self.waiting = proposed


class FakeClient:
    def __init__(self, node_id: str, chain: Chain):
        self._node_id = node_id
        self._chain = chain

    async def publish_directory(self, directory: Directory) -> dict[str, Any]:
        self._chain.submit(directory)
        return {}

    async def publish_revocation(self, statement: Revocation, *, force: bool = False) -> dict[str, Any]:
        mine = self._chain.revoked.setdefault(self._node_id, {})
        check_revocation(statement, self._chain.current, revoked_key_ids=list(mine), forced=force)
        mine[statement.key_id] = statement
        return {}


class FakeObserver(Observer):
    """Says of every running node what a healthy node would say; its keys are those of its folder."""

    def __init__(self, home: WorldHome, chain: Chain, fleet: Fleet):
        super().__init__()
        self._home = home
        self._chain = chain
        self._fleet = fleet

    async def observe(self, configs: Iterable[NodeConfig]) -> None:
        genesis = self._home.genesis()
        assert genesis is not None
        if not self._chain.directories:
            self._chain.directories.append(genesis.directory)
        self._chain.advance()
        self.reports = {config.node_id: self._report(config, genesis_hash(genesis)) for config in configs}

    async def directories(self) -> tuple[Directory | None, Directory | None]:
        return (self._chain.current, self._chain.announced) if self.reachable() else (None, None)

    async def statements(self, node_id: str) -> list[Revocation]:
        return list(self._chain.revoked.get(node_id, {}).values())

    def client(self, node_id: str) -> Any:
        if node_id in self._chain.silent:
            raise NotAvailable("does not answer")
        return FakeClient(node_id, self._chain)

    def _report(self, config: NodeConfig, genesis: str) -> NodeReport:
        before = self.reports.get(config.node_id) or NodeReport(node_id=config.node_id)
        if self._fleet.process(config.node_id) is None or config.node_id in self._chain.silent:
            return NodeReport(**{**before.__dict__, "reachable": False, "in_sync": False, "voting": False})
        chain, announced = self._chain, self._chain.announced
        revoked = chain.revoked.get(config.node_id, {})
        member = find_member(chain.current, config.node_id)
        folder = KeyFolder(Path(config.key_folder) if config.key_folder else None)
        signer = None if member is None else folder.choose(member.keys, list(revoked))
        in_sync = config.node_id not in chain.behind
        return NodeReport(
            node_id=config.node_id,
            reachable=True,
            genesis_hash=genesis,
            height=10 * chain.current.epoch,
            in_sync=in_sync,
            in_touch=True,
            epoch=chain.current.epoch,
            pending_epoch=0 if announced is None else announced.epoch,
            revoked=tuple(sorted(revoked)),
            active_key_id="" if signer is None else signer.key_id,
            voting=signer is not None,
            writer="aurora-0",
            term=1,
            problems=folder.keys.problems,
            progress=chain.progress.get(config.node_id, IDLE),
        )


class FakeProcess:
    """A process that is always fine."""

    pid: int | None = 1
    starts = 1
    trouble = ""
    is_young = True


class FakeFleet(Fleet):
    """Starts nothing; remembers who was started and stopped."""

    def __init__(self, home: WorldHome):
        super().__init__(home, entry_port=0)
        self.history: list[str] = []

    def _start(self, node_id: str) -> None:
        self._prepare(node_id)
        self._processes[node_id] = cast("Any", FakeProcess())
        self.history.append(f"start {node_id}")

    async def _stop(self, node_ids: Sequence[str]) -> None:
        for node_id in node_ids:
            del self._processes[node_id]
            self.history.append(f"stop {node_id}")


class OneMachine:
    """A supervisor's parts put together over fakes; ``restart`` is what a killed supervisor's successor begins with."""

    def __init__(self, folder: Path, what: Declared, chain: Chain | None = None):
        self.home = WorldHome(folder)
        self.home.prepare()
        self.home.save_manifests(what.manifests())
        self.chain = chain or Chain()
        self.declared = what
        self.restart()

    def restart(self) -> None:
        self.fleet = FakeFleet(self.home)
        self.observer = FakeObserver(self.home, self.chain, self.fleet)
        self.reconciler = Reconciler(self.home, self.fleet, self.observer, self.declared)
        self.reconciler.found()
        genesis = self.home.genesis()
        assert genesis is not None
        self.base = WorldState(
            world="aurora",
            world_id="aurora",
            genesis_hash=genesis_hash(genesis),
            gateway="",
            data=str(self.home.folder),
        )

    def edit(self, *manifests: dict[str, Any]) -> None:
        self.declared = declared(*manifests, current=self.declared)
        self.reconciler.declared = self.declared

    async def once(self) -> WorldState:
        seen = await self.reconciler.run_once()
        return summarize(seen, self.fleet, self.observer, base=self.base)

    async def passes(self, count: int) -> WorldState:
        return [await self.once() for _ in range(count)][-1]

    async def settle(self, *, limit: int = 60) -> WorldState:
        """Runs passes until two in a row have nothing to do."""
        seen: list[WorldState] = []
        while len(seen) < limit:
            seen.append(await self.once())
            if len(seen) > 1 and seen[-1].settled and seen[-2].settled:
                return seen[-1]
        raise AssertionError(f"not settled after {limit} passes: {seen[-1]}")
