"""Reconciles one world: reads everything fresh, plans, makes what is missing, and writes each status once.

Every pass begins from nothing but the API server and the nodes. It goes as far as it can and leaves the rest to the
next: after an event, after a change that a node reports, or when a wait is over.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from agentworld_core.codec import encode
from agentworld_core.errors import InvalidField
from agentworld_core.hashing import content_id
from agentworld_core.membership.rings import wanted_generation
from agentworld_core.messages import Directory, Equivocation, Genesis
from agentworld_core.topology.plan import plan_world
from agentworld_core.topology.resources import World
from agentworld_operator.nodes.status import NodeStatus
from agentworld_operator.plan import files
from agentworld_operator.plan.facts import Complaints, WorldFacts
from agentworld_operator.plan.lease import Writer
from agentworld_operator.plan.running import PodFacts, pod_facts
from agentworld_operator.reconcile import events, observe
from agentworld_operator.reconcile.apply import Applier
from agentworld_operator.reconcile.cluster import Cluster
from agentworld_operator.reconcile.context import Context, Snapshot
from agentworld_operator.reconcile.departures import release_orphans, release_validators
from agentworld_operator.reconcile.genesis import GenesisKeeper
from agentworld_operator.reconcile.material import KeyFolders, Material
from agentworld_operator.reconcile.membership import Governed, drive_membership
from agentworld_operator.reconcile.reading import read_world
from agentworld_operator.reconcile.reporting import report, report_invalid
from agentworld_operator.reconcile.transfer import drive_transfer
from agentworld_operator.resources import names, reasons
from agentworld_operator.resources.objects import Object, digest_of, name_of

log = logging.getLogger(__name__)

SOON_SECONDS = 1.0
"""After a step of our own that the nodes have to follow."""

RETRY_SECONDS = 5.0
"""While a ConfigMap of a person is missing or wrong: nothing tells us when that is mended."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """When to come back, and where the nodes are that tell of changes in between."""

    exists: bool = True
    again_seconds: float | None = None
    pods: tuple[PodFacts, ...] = ()
    fingerprint: tuple[object, ...] = ()


async def reconcile_world(context: Context, namespace: str, name: str) -> Outcome:
    """Takes one world as far towards its manifests as it can be taken now."""
    raw = await context.kube.get("World", namespace, name)
    if raw is None or raw["metadata"].get("deletionTimestamp"):
        # Owner references take everything away; nothing of ours may hold it up.
        await release_orphans(context, namespace, name)
        return Outcome(exists=False)
    snapshot = await read_world(context.kube, raw)
    if snapshot.world is None or snapshot.invalid:
        await report_invalid(context, snapshot)
        return Outcome()
    return await _Pass(context, snapshot, snapshot.world).run()


class _Pass:
    """One pass over one world with valid manifests."""

    def __init__(self, context: Context, snapshot: Snapshot, world: World):
        self._context = context
        self._snapshot = snapshot
        self._world = world
        self._now_ms = context.now_ms()
        self._topology = plan_world(world, snapshot.validators, snapshot.keys)
        self._applier = Applier(context.kube, world.metadata, snapshot.children, context.settled)
        self._material = Material(context.kube, self._applier, world.metadata)
        self._folders = KeyFolders(self._applier, world.metadata)
        self._cluster = Cluster(self._applier, self._topology, context.settings)
        self._acting = not world.spec.paused and not self._topology.problems
        self._genesis_problems: tuple[InvalidField, ...] = ()

    async def run(self) -> Outcome:
        self._material.read(self._topology.keys)
        if self._acting:
            await self._prepare()
        else:
            await self._read_identities()
        asked = {pod.name: pod for pod in (*self._pods().values(), *self._gateways().values())}
        genesis = await self._genesis(asked)
        answers = await observe.poll(self._context.nodes, asked.values())
        genesis_hash = content_id(encode(genesis)) if genesis else ""
        statuses = observe.of_world(answers, genesis_hash)
        governed = await self._govern(genesis, statuses, asked)
        transfer = ""
        if self._acting and genesis is not None:
            await self._make_cluster(governed)
            transfer = await drive_transfer(governed, self._snapshot.raw_world)
        facts = self._facts(governed, statuses, genesis_hash, await self._evidence(governed))
        facts = dataclasses.replace(facts, transfer=transfer)
        await report(self._context, self._snapshot, facts)
        return Outcome(
            again_seconds=_again(governed, facts),
            pods=tuple(asked.values()),
            fingerprint=fingerprint(statuses),
        )

    async def _prepare(self) -> None:
        """Makes the implied resources, and a first key and an identity for everybody."""
        await self._cluster.ensure_implied()
        wanted = {
            key.name: wanted_generation(key.spec, self._material.held[key.name].ring(""), now_ms=self._now_ms)
            for key in self._topology.keys
        }
        await self._material.ensure_first(self._topology.keys, wanted)
        await self._read_identities()

    async def _read_identities(self) -> None:
        """Reads the validators' identities; makes those that are missing, unless we may not act."""
        for validator in self._topology.validators:
            if self._acting or self._applier.live("Secret", names.identity_secret(validator.name)):
                await self._material.identity(validator)

    async def _genesis(self, asked: Mapping[str, PodFacts]) -> Genesis | None:
        """Returns the genesis of the world: as stored, made when the world begins, or recovered from its nodes."""
        keeper = GenesisKeeper(self._applier, self._topology, self._material, self._snapshot.raw_world)
        stored = keeper.read()
        if stored is not None or not self._acting:
            return stored
        if keeper.has_begun:
            return await keeper.recover(self._context.nodes, asked.values())
        made = await keeper.make(self._context.kube, now_ms=self._now_ms)
        self._genesis_problems = keeper.problems
        return made

    async def _govern(
        self, genesis: Genesis | None, statuses: Mapping[str, NodeStatus], asked: Mapping[str, PodFacts]
    ) -> Governed:
        """Finds the directory in force and takes keys, members and revocations one step further."""
        directory: Directory | None = None
        addresses = {name: pod.address for name, pod in asked.items() if name in statuses}
        if genesis is not None:
            directory = await observe.current_directory(
                self._context.nodes, genesis, statuses, addresses, self._context.directories
            )
        governed = Governed(
            context=self._context,
            applier=self._applier,
            topology=self._topology,
            material=self._material,
            folders=self._folders,
            statuses=statuses,
            addresses=addresses,
            genesis=genesis,
            directory=directory,
            now_ms=self._now_ms,
        )
        await drive_membership(governed, acting=self._acting)
        return governed

    async def _make_cluster(self, governed: Governed) -> None:
        terms = [max(status.writer_term, status.head.term) for status in governed.statuses.values()]
        last_term = max([*terms, self._last_writer()[1]])
        had_lease = self._lease() is not None
        await self._cluster.ensure_shared(self._material.peer_ids, last_term=last_term)
        if last_term > 0 and not had_lease and self._lease() is not None:
            await self._tell_of_new_lease(last_term)
        config = self._applier.live("ConfigMap", names.node_config(self._world.name)) or {}
        peers = digest_of((config.get("data") or {}).get(files.PEERS_FILE))
        revisions, ready = {}, []
        for validator in self._topology.validators:
            folder = self._folders.revision(validator.name)
            revisions[validator.name] = f"{folder}.{peers}"
            if folder and validator.name in self._material.identities:
                ready.append(validator.name)
        await self._cluster.ensure_nodes(governed.directory, revisions, ready)
        await self._cluster.remove_departed(governed.directory)
        await release_validators(self._context, self._applier, self._snapshot, self._topology, governed.directory)

    async def _tell_of_new_lease(self, last_term: int) -> None:
        says = (
            f"Lease {names.sequencer_lease(self._world.name)} was deleted and is made again; a validator takes it in a"
            f" term above {last_term}"
        )
        happened = events.Happened(type=events.WARNING, reason=reasons.LEASE_MADE_AGAIN, message=says)
        await events.post(self._context.kube, self._snapshot.raw_world, happened, now_ms=self._now_ms)

    def _pods(self) -> dict[str, PodFacts]:
        live = self._applier.ours("Pod")
        return {
            node.name: pod_facts(node.name, live.get(node.name))
            for node in self._topology.nodes
            if node.kind == "validator"
        }

    def _gateways(self) -> dict[str, PodFacts]:
        return {name_of(pod): pod_facts(name_of(pod), pod) for pod in self._cluster.gateway_pods()}

    async def _evidence(self, governed: Governed) -> dict[str, Equivocation]:
        if governed.genesis is None:
            return {}
        return await observe.proven_evidence(
            self._context.nodes, governed.genesis, governed.statuses, governed.addresses, self._context.evidence
        )

    def _facts(
        self,
        governed: Governed,
        statuses: Mapping[str, NodeStatus],
        genesis_hash: str,
        evidence: Mapping[str, Equivocation],
    ) -> WorldFacts:
        governance = governed.governance
        return WorldFacts(
            topology=self._topology,
            now_ms=self._now_ms,
            genesis_hash=genesis_hash,
            genesis=governed.genesis,
            statuses=statuses,
            pods=self._pods(),
            gateways=self._gateways(),
            directory=governed.directory,
            pending=governed.pending,
            plan=governed.plan,
            held=self._material.held,
            active=governed.active,
            peer_ids=self._material.peer_ids,
            statements=governance.statements,
            revocations=governed.revocations,
            complaints=Complaints(
                foreign=tuple(dict.fromkeys(self._applier.foreign)),
                refused=tuple(self._applier.refused),
                outdated=tuple(self._cluster.outdated),
                directory=governance.complaint,
                genesis=self._genesis_problems,
                keys=self._material.problems,
                revocations=governed.refusals,
            ),
            lease=self._lease(),
            last_writer=self._last_writer(),
            evidence=evidence,
        )

    def _last_writer(self) -> Writer:
        """Returns the writer that the stored status names, which may be lost."""
        stored = (self._snapshot.raw_world.get("status") or {}).get("sequencer") or {}
        return str(stored.get("holder") or ""), int(stored.get("term") or 0)

    def _lease(self) -> Object | None:
        return self._applier.ours("Lease").get(names.sequencer_lease(self._world.name))


def fingerprint(statuses: Mapping[str, NodeStatus]) -> tuple[object, ...]:
    """Returns what, when it changes, calls for another pass."""
    return tuple((name, status.fingerprint()) for name, status in sorted(statuses.items()))


def _again(governed: Governed, facts: WorldFacts) -> float | None:
    """Returns when to look again although nothing may tell us to."""
    if governed.moved:
        return SOON_SECONDS
    if facts.complaints.genesis:
        return RETRY_SECONDS
    waits = [until for until in governed.waits if until > facts.now_ms]
    if waits:
        return max((min(waits) - facts.now_ms) / 1000, SOON_SECONDS)
    return None
