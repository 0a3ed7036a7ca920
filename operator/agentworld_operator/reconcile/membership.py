"""Takes keys, members and revocations of one world one step further, through its governance."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from agentworld_core.errors import AgentWorldError, InvalidField
from agentworld_core.membership.rotation import KeyState
from agentworld_core.membership.steps import PublishDirectory, Wait
from agentworld_core.messages import Directory, Genesis
from agentworld_core.topology.plan import Topology
from agentworld_operator.nodes.status import NodeStatus
from agentworld_operator.plan.membership import (
    MembershipFacts,
    MembershipPlan,
    keys_in_use,
    next_rotation_ms,
    plan_membership,
)
from agentworld_operator.plan.revocations import RevocationPlan, plan_revocations
from agentworld_operator.reconcile.apply import Applier
from agentworld_operator.reconcile.context import Context
from agentworld_operator.reconcile.governance import Governance
from agentworld_operator.reconcile.material import KeyFolders, Material
from agentworld_operator.resources.objects import FORCE_REVOKE

log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class Governed:
    """What one pass knows and finds out about the membership of a world."""

    context: Context
    applier: Applier
    topology: Topology
    material: Material
    folders: KeyFolders
    statuses: Mapping[str, NodeStatus]
    addresses: Mapping[str, str]
    genesis: Genesis | None
    directory: Directory | None
    now_ms: int
    pending: Directory | None = None
    plan: MembershipPlan | None = None
    revocations: RevocationPlan = dataclasses.field(default_factory=RevocationPlan)
    refusals: dict[str, str] = dataclasses.field(default_factory=dict)
    active: dict[str, str] = dataclasses.field(default_factory=dict)
    waits: list[int] = dataclasses.field(default_factory=list)
    moved: bool = False

    def __post_init__(self) -> None:
        self.governance = Governance(self.context.nodes, self.applier, self.topology, self.material.rings)
        self.active = self._active()

    def _active(self) -> dict[str, str]:
        """Returns the key id that each MembershipKey in use signs with, as its home was told."""
        result: dict[str, str] = {}
        for key in keys_in_use(self.topology):
            if key.spec.purpose == "Governance":
                result[key.name] = self.governance.active.get(key.name, "") or self._trusted_governance(key.name)
            else:
                result[key.name] = self.folders.active(key.spec.validator)
        return result

    def _trusted_governance(self, name: str) -> str:
        """Returns the newest generation of a governance key that the directory trusts."""
        directory = self.directory or (self.genesis.directory if self.genesis else None)
        trusted = [entry.key_id for entry in directory.governance] if directory else []
        ring = self.material.rings.get(name)
        ids = [item.key_id for item in ring.generations if item.key_id in trusted] if ring else []
        return ids[-1] if ids else ""


async def drive_membership(governed: Governed, *, acting: bool) -> None:
    """Signs and publishes what is due, switches keys, and makes key folders as they should be."""
    if governed.directory is None:
        if acting and governed.genesis is not None:
            await _fill_folders(governed)
        return
    current = governed.directory
    governance = governed.governance
    known = [item.key_id for item in governance.revoked(current)]
    governed.revocations = plan_revocations(governed.topology.keys, current, known, now_ms=governed.now_ms)
    if acting:
        await _sign_revocations(governed, current)
    governed.pending = governance.pending(current)
    governed.plan = plan_membership(_facts(governed, current))
    if not acting:
        return
    await _carry_out(governed, current, governed.plan)
    await _fill_folders(governed)
    forced = [
        entry.key_id
        for key in governed.topology.keys
        if key.metadata.annotations.get(FORCE_REVOKE) == "true"
        for entry in key.spec.revoked
    ]
    governed.refusals = await governance.push_revocations(governed.statuses, governed.addresses, forced=forced)


def _facts(governed: Governed, current: Directory) -> MembershipFacts:
    return MembershipFacts(
        topology=governed.topology,
        current=current,
        pending=governed.pending,
        statuses=governed.statuses,
        rings=governed.material.rings,
        active=governed.active,
        peer_ids=governed.material.peer_ids,
        revoked=governed.governance.revoked(current),
        replace_first=governed.revocations.replace_first,
        confirm_timeout_ms=governed.context.settings.acknowledge_timeout_ms,
        now_ms=governed.now_ms,
    )


async def _sign_revocations(governed: Governed, current: Directory) -> None:
    for statement in governed.revocations.sign:
        try:
            governed.governance.sign_revocation(statement, current)
        except AgentWorldError as error:
            log.warning("revocation of %s cannot be signed: %s", statement.key_id, error)
            governed.material.problems[f"MembershipKey {statement.requester_id}"] = InvalidField(
                f"the revocation of {statement.key_id} cannot be signed: {error}",
                remedy="restore the Secrets of the governance keys",
            )
            continue
        log.info("key %s of world %s is revoked", statement.key_id, current.world_id)
        governed.moved = True
    await governed.governance.store()


async def _carry_out(governed: Governed, current: Directory, plan: MembershipPlan) -> None:
    """Does what the plan asks for; whatever fails is tried again in the next pass."""
    material, keys = governed.material, {key.name: key for key in governed.topology.keys}
    for name, rotation in plan.rotations.items():
        await material.keep_progress(name, rotation.progress)
        if isinstance(rotation.step, Wait) and rotation.step.until_ms is not None:
            governed.waits.append(rotation.step.until_ms)
        due = next_rotation_ms(keys[name], material.rings[name], active=governed.active.get(name, ""))
        if due is not None:
            governed.waits.append(due)
    for name, generation in plan.make:
        log.info("make generation %d of key %s", generation, name)
        await material.make(keys[name], generation)
        governed.moved = True
    for name, key_id in plan.switch:
        log.info("key %s signs with %s", name, key_id)
        governed.active[name] = key_id
        governed.moved = True
    for name, key_id in governed.active.items():
        if keys[name].spec.purpose == "Governance" and key_id:
            governed.governance.set_active(name, key_id)
    await _publish(governed, current, plan.publish)
    await governed.governance.store()
    if governed.pending is not None:
        await governed.governance.submit(governed.pending, governed.addresses)
        if governed.governance.complaint:
            governed.governance.forget_candidate()
    for name, rotation in plan.rotations.items():
        trusted = [entry.key_id for member in current.members for entry in member.keys]
        trusted += [entry.key_id for entry in current.governance]
        ended = [
            row.key_id
            for row in rotation.keys
            if row.state in (KeyState.RETIRED, KeyState.REVOKED)
            and row.key_id not in trusted
            and row.key_id != governed.active.get(name)
        ]
        await material.destroy(name, ended)


async def _publish(governed: Governed, current: Directory, step: PublishDirectory | None) -> None:
    """Signs the next epoch when one is due and none is on its way."""
    in_flight = any(status.pending is not None for status in governed.statuses.values())
    if step is None or governed.pending is not None or in_flight:
        return
    try:
        proposed = governed.governance.sign_directory(current, step, now_ms=governed.now_ms)
    except AgentWorldError as error:
        governed.governance.complaint = f"cannot be signed: {error}"
        log.warning("directory epoch %d of %s cannot be signed: %s", current.epoch + 1, current.world_id, error)
        return
    log.info("directory epoch %d of %s: %s", proposed.epoch, proposed.world_id, proposed.reason)
    governed.pending = proposed
    governed.moved = True


async def _fill_folders(governed: Governed) -> None:
    """Makes each validator's key folder hold its usable keys; one that was told nothing yet begins with the newest."""
    for node in governed.topology.nodes:
        ring = governed.material.rings.get(node.key) if node.kind == "validator" else None
        if ring is None or not ring.usable:
            continue
        active = governed.active.get(node.key, "") or ring.usable[-1].key_id
        governed.active[node.key] = active
        await governed.folders.ensure(node.name, ring, active)
