"""Brings a world on one machine to what its manifests say, one pass at a time, from what is there.

A pass reads the files of the home and the words of the nodes, asks the pure plans of the core what comes next, and does
it. Nothing is remembered that matters: a supervisor that is killed anywhere continues with its next first pass.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence

from agentworld_core.errors import AgentWorldError
from agentworld_core.genesis_module import GenesisModule
from agentworld_core.membership.builder import revoked_key
from agentworld_core.membership.directory import find_member
from agentworld_core.membership.rotation import KeyState, Progress
from agentworld_core.membership.steps import PublishDirectory
from agentworld_core.membership.upkeep import NodeWord, Upkeep, UpkeepPlan, keys_in_use, may_follow, plan_upkeep
from agentworld_core.membership.wishes import FORCE_REVOKE, RevocationPlan, plan_revocations
from agentworld_core.messages import Directory, Revocation
from agentworld_core.names import peer_id_of
from agentworld_core.signing import Ed25519Signer
from agentworld_core.topology.plan import NodePlan, Topology
from agentworld_node.supervisor.declared import Declared
from agentworld_node.supervisor.fleet import Fleet
from agentworld_node.supervisor.governance import make_directory, make_genesis, make_statement
from agentworld_node.supervisor.home import WorldHome
from agentworld_node.supervisor.reports import Observer

log = logging.getLogger(__name__)

_UNUSABLE = (KeyState.RETIRED, KeyState.REVOKED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """What one pass saw and decided; ``current`` is None until a node has said which directory is in force."""

    topology: Topology
    current: Directory | None = None
    pending: Directory | None = None
    plan: UpkeepPlan | None = None
    revocations: RevocationPlan = dataclasses.field(default_factory=RevocationPlan)
    statements: tuple[Revocation, ...] = ()
    failures: tuple[str, ...] = ()
    acted: bool = False


class Reconciler:
    """Runs the passes of one world; ``declared`` may be exchanged between two of them."""

    def __init__(self, home: WorldHome, fleet: Fleet, observer: Observer, declared: Declared):
        self.declared = declared
        self._home = home
        self._fleet = fleet
        self._observer = observer
        self._failures: list[str] = []

    def found(self, modules: Sequence[GenesisModule] = ()) -> None:
        """Makes what a world begins with: identities, keys, genesis with its modules. What exists stays as it is."""
        topology = self.declared.topology(self._fleet.validators)
        self._make_material(topology)
        self._fleet.configure(topology, topology.nodes)
        if self._home.genesis() is None:
            self._home.save_genesis(make_genesis(self._home, topology, now_ms=now_ms(), modules=modules))

    async def run_once(self) -> Pass:
        """Looks, decides and acts once."""
        self._failures = []
        topology = self.declared.topology(self._fleet.validators)
        self._make_material(topology)
        await self._observer.observe(self._fleet.configs)
        current, announced = await self._observer.directories()
        await self._learn_revocations()
        seen = Pass(topology=topology, current=current)
        if current is not None:
            seen = dataclasses.replace(seen, pending=self._pending(current, announced))
        seen = dataclasses.replace(seen, acted=await self._run_nodes(seen))
        if seen.current is not None and not topology.world.spec.paused and not topology.world.spec.hibernated:
            seen = await self._keep_up(seen, seen.current)
        statements = tuple(self._home.statements())
        return dataclasses.replace(seen, statements=statements, failures=tuple(self._failures))

    # Nodes

    def _make_material(self, topology: Topology) -> None:
        for key in keys_in_use(topology):
            if not self._home.signers(key.name):
                self._home.make_key(key.name, key.spec.generation, asked=key.spec.generation)
        for node in topology.nodes:
            self._home.identity(node.node_id)

    async def _run_nodes(self, seen: Pass) -> bool:
        topology, hibernated = seen.topology, seen.topology.world.spec.hibernated
        staying = [node for node in topology.nodes if not has_left(node, seen)]
        for node in topology.nodes:
            if node not in staying and node.name not in [validator.name for validator in self.declared.validators]:
                await self._fleet.forget(node.node_id, data=topology.world.spec.deletion_policy == "Delete")
        for node in staying:
            if node.kind == "validator":
                self._write_keys(node, None)
        self._fleet.configure(topology, staying)
        wanted = [] if hibernated else [node for node in staying if not is_suspended(topology, node)]
        in_sync = [report.node_id for report in self._observer.reachable() if report.in_sync]
        return await self._fleet.run(wanted, may_restart=all(node.node_id in in_sync for node in wanted))

    def _write_keys(self, node: NodePlan, unusable: list[str] | None) -> None:
        """Writes the key folder of a validator without the unusable keys; None leaves a folder that exists as it is."""
        if unusable is None and (self._home.node_folder(node.node_id) / "keys" / "active").exists():
            return
        signers = self._home.signers(node.key)
        ring = self._home.ring(node.key)
        # The active key stays, even when it is revoked, until another one is active: `active` always names a file.
        left_out = [key_id for key_id in unusable or [] if key_id != ring.active_key_id]
        kept = {number: signer for number, signer in signers.items() if signer.key_id not in left_out}
        if self._home.write_key_folder(node.node_id, kept, ring.active_key_id):
            log.info("key folder of %s: active %s", node.node_id, ring.active_key_id)

    # Membership

    def _pending(self, current: Directory, announced: Directory | None) -> Directory | None:
        """Returns the directory that is on its way: announced by a block, or submitted by us and waiting for one."""
        waiting = self._home.waiting_directory()
        if waiting is None:
            return announced
        revoked = [statement.key_id for statement in self._home.statements()]
        if announced is not None or not may_follow(current, waiting, revoked):
            self._home.save_waiting_directory(None)
            return announced
        return waiting

    async def _keep_up(self, seen: Pass, current: Directory) -> Pass:
        revocations = self._revoke(seen.topology, current)
        plan = plan_upkeep(self._upkeep(seen, current, revocations))
        for name, generation in plan.make:
            spec = seen.topology.key(name).spec
            self._home.make_key(name, generation, asked=spec.generation)
            log.info("made generation %d of %s", generation, name)
        for name, rotation in plan.rotations.items():
            self._store_rotation(name, dict(plan.switch).get(name), rotation.progress)
        for node in seen.topology.nodes:
            if node.key in plan.rotations and not has_left(node, seen):
                states = plan.rotations[node.key].keys
                self._write_keys(node, [status.key_id for status in states if status.state in _UNUSABLE])
        pending = seen.pending
        if plan.publish is not None and pending is None:
            pending = self._sign_directory(current, plan.publish)
        await self._submit(pending)
        await self._push_statements()
        acted = bool(seen.acted or plan.make or plan.switch or pending is not None or revocations.sign)
        return dataclasses.replace(seen, pending=pending, plan=plan, revocations=revocations, acted=acted)

    def _upkeep(self, seen: Pass, current: Directory, revocations: RevocationPlan) -> Upkeep:
        reports = self._observer.reports.values()
        return Upkeep(
            topology=seen.topology,
            current=current,
            pending=seen.pending,
            words={
                report.node_id: NodeWord(epoch=report.epoch, active_key_id=report.active_key_id, in_sync=report.in_sync)
                for report in reports
            },
            rings={key.name: self._home.ring(key.name) for key in keys_in_use(seen.topology)},
            peer_ids={
                node.node_id: peer_id_of(self._home.identity(node.node_id).public_key) for node in seen.topology.nodes
            },
            revoked=tuple(revoked_key(statement) for statement in self._home.statements()),
            replace_first=revocations.replace_first,
            now_ms=now_ms(),
        )

    def _store_rotation(self, name: str, switch_to: str | None, progress: Progress) -> None:
        ring = self._home.ring(name)
        changed = dataclasses.replace(ring, progress=progress, active_key_id=switch_to or ring.active_key_id)
        if changed != ring:
            self._home.save_ring(name, changed)
        if switch_to is not None:
            log.info("%s signs with the key %s from now on", name, switch_to)

    def _sign_directory(self, current: Directory, step: PublishDirectory) -> Directory | None:
        try:
            directory = make_directory(self._governance_signers(), current, step, now_ms=now_ms())
        except AgentWorldError as error:
            self._failures.append(f"the next directory ({step.reason}) cannot be made: {error}")
            return None
        self._home.save_waiting_directory(directory)
        log.info("directory epoch %d: %s", directory.epoch, step.reason)
        return directory

    async def _submit(self, pending: Directory | None) -> None:
        """Offers the directory to every node that does not have it yet; nodes pass it on and repeat it themselves."""
        if pending is None:
            return
        refusals = []
        for report in self._observer.reachable():
            if max(report.epoch, report.pending_epoch) >= pending.epoch:
                continue
            try:
                await self._observer.client(report.node_id).publish_directory(pending)
            except AgentWorldError as error:
                refusals.append(f"{report.node_id}: {error}")
        if refusals and len(refusals) == len(self._observer.reachable()):
            self._failures.append(f"no node takes the next directory: {refusals[0]}")

    # Revocations

    def _revoke(self, topology: Topology, current: Directory) -> RevocationPlan:
        known = [statement.key_id for statement in self._home.statements()]
        plan = plan_revocations(topology.keys, current, known)
        for wish in plan.sign:
            signers = self._governance_signers()
            try:
                statement = make_statement(signers, current, wish, known=known, now_ms=now_ms())
            except AgentWorldError as error:
                self._failures.append(f"the revocation of {wish.entry.key_id} cannot be signed: {error}")
                continue
            self._home.save_statement(statement)
            log.warning("key %s of %s is revoked: %s", wish.entry.key_id, wish.key, wish.entry.reason)
        return plan

    async def _push_statements(self) -> None:
        """Sends every revocation to every node that does not confirm it."""
        forced = {
            entry.key_id
            for key in self.declared.keys
            for entry in key.spec.revoked
            if key.metadata.annotations.get(FORCE_REVOKE) == "true"
        }
        for report in self._observer.reachable():
            client = self._observer.client(report.node_id)
            for statement in self._home.statements():
                if statement.key_id in report.revoked:
                    continue
                try:
                    await client.publish_revocation(statement, force=statement.key_id in forced)
                except AgentWorldError as error:
                    self._failures.append(f"{report.node_id} refuses the revocation of {statement.key_id}: {error}")

    async def _learn_revocations(self) -> None:
        """Takes over revocations that governance has brought into the world in another way."""
        known = {statement.key_id for statement in self._home.statements()}
        for report in self._observer.reachable():
            if not known.issuperset(report.revoked):
                for statement in await self._observer.statements(report.node_id):
                    self._home.save_statement(statement)
                    known.add(statement.key_id)

    def _governance_signers(self) -> list[Ed25519Signer]:
        topology = self.declared.topology()
        governance = [key.name for key in topology.keys if key.spec.purpose == "Governance"]
        return [signer for name in governance for signer in self._home.signers(name).values()]


def is_suspended(topology: Topology, node: NodePlan) -> bool:
    """True when a person has asked this validator to stand still."""
    return node.kind == "validator" and topology.validator(node.name).spec.suspend


def has_left(node: NodePlan, seen: Pass) -> bool:
    """True when a node that should leave is no member any more, neither now nor in the epoch that is on its way."""
    if not node.leaving or seen.current is None:
        return False
    directories = [seen.current] if seen.pending is None else [seen.current, seen.pending]
    return all(find_member(directory, node.node_id) is None for directory in directories)


def now_ms() -> int:
    """Returns the wall time in milliseconds."""
    return time.time_ns() // 1_000_000
