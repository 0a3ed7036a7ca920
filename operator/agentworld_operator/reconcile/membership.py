"""Takes keys, members and revocations of one world one step further, through its governance."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping

from agentworld_core.errors import AgentWorldError, InvalidField
from agentworld_core.membership.rings import KeyRing, next_rotation_ms
from agentworld_core.membership.rotation import KeyState
from agentworld_core.membership.steps import PublishDirectory, Wait
from agentworld_core.membership.upkeep import NodeWord, Upkeep, UpkeepPlan, keys_in_use, plan_upkeep
from agentworld_core.membership.wishes import FORCE_REVOKE, RevocationPlan, Wish, plan_revocations
from agentworld_core.messages import Directory, Genesis, Revocation
from agentworld_core.topology.plan import Topology
from agentworld_operator.nodes.status import NodeStatus
from agentworld_operator.reconcile.apply import Applier
from agentworld_operator.reconcile.context import Context
from agentworld_operator.reconcile.governance import Governance
from agentworld_operator.reconcile.material import KeyFolders, Material
from agentworld_operator.resources.status import milliseconds_of

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
    plan: UpkeepPlan | None = None
    revocations: RevocationPlan = dataclasses.field(default_factory=RevocationPlan)
    refusals: dict[str, str] = dataclasses.field(default_factory=dict)
    active: dict[str, str] = dataclasses.field(default_factory=dict)
    waits: list[int] = dataclasses.field(default_factory=list)
    moved: bool = False

    def __post_init__(self) -> None:
        self.governance = Governance(self.context.nodes, self.applier, self.topology, self.material.held)
        self.active = {key.name: self._active(key.name, key.spec.validator) for key in keys_in_use(self.topology)}

    def ring(self, name: str) -> KeyRing:
        """Returns the generations of a MembershipKey as the plans know them."""
        return self.material.held[name].ring(self.active.get(name, ""))

    def _active(self, name: str, validator: str) -> str:
        """Returns the key id that a MembershipKey signs with, as its home was told."""
        if validator:
            return self.folders.active(validator)
        noted = self.governance.active.get(name, "")
        directory = self.directory or (self.genesis.directory if self.genesis else None)
        trusted = [entry.key_id for entry in directory.governance] if directory else []
        held = self.material.held.get(name)
        ids = [key.key_id for key in held.keys if key.key_id in trusted] if held else []
        return noted or (ids[-1] if ids else "")


async def drive_membership(governed: Governed, *, acting: bool) -> None:
    """Signs and publishes what is due, switches keys, and makes key folders as they should be."""
    if governed.directory is None:
        if acting and governed.genesis is not None:
            await _fill_folders(governed)
        return
    current = governed.directory
    governance = governed.governance
    known = [item.key_id for item in governance.revoked(current)]
    governed.revocations = plan_revocations(governed.topology.keys, current, known)
    if acting:
        await _revoke(governed, current)
    governed.pending = governance.pending(current)
    governed.plan = plan_upkeep(_upkeep(governed, current))
    if acting:
        await _carry_out(governed, current, governed.plan)
        await _fill_folders(governed)


async def _revoke(governed: Governed, current: Directory) -> None:
    """Signs what is to be revoked and tells every node at once; everything else can wait."""
    await _sign_revocations(governed, current)
    forced = [
        entry.key_id
        for key in governed.topology.keys
        if key.metadata.annotations.get(FORCE_REVOKE) == "true"
        for entry in key.spec.revoked
    ]
    governed.refusals = await governed.governance.push_revocations(governed.statuses, governed.addresses, forced=forced)


def _upkeep(governed: Governed, current: Directory) -> Upkeep:
    node_ids = {node.name: node.node_id for node in governed.topology.nodes if node.kind == "validator"}
    words = {
        node_ids[name]: NodeWord(
            epoch=status.directory.epoch, active_key_id=status.active_key_id, in_sync=status.in_sync
        )
        for name, status in governed.statuses.items()
        if name in node_ids
    }
    return Upkeep(
        topology=governed.topology,
        current=current,
        pending=governed.pending,
        words=words,
        rings={name: governed.ring(name) for name in governed.material.held},
        peer_ids={node_ids[name]: peer for name, peer in governed.material.peer_ids.items() if name in node_ids},
        revoked=governed.governance.revoked(current),
        replace_first=governed.revocations.replace_first,
        confirm_timeout_ms=governed.context.settings.acknowledge_timeout_ms,
        now_ms=governed.now_ms,
    )


async def _sign_revocations(governed: Governed, current: Directory) -> None:
    for wish in governed.revocations.sign:
        try:
            governed.governance.sign_revocation(_statement(governed, current, wish), current)
        except AgentWorldError as error:
            log.warning("revocation of %s cannot be signed: %s", wish.entry.key_id, error)
            governed.material.problems[f"MembershipKey {wish.key}"] = InvalidField(
                f"the revocation of {wish.entry.key_id} cannot be signed: {error}",
                remedy="restore the Secrets of the governance keys",
            )
            continue
        log.info("key %s of world %s is revoked", wish.entry.key_id, current.world_id)
        governed.moved = True
    await governed.governance.store()


def _statement(governed: Governed, current: Directory, wish: Wish) -> Revocation:
    return Revocation(
        world_id=current.world_id,
        key_id=wish.entry.key_id,
        reason=wish.entry.reason,
        revoked_at_ms=milliseconds_of(wish.entry.at) or governed.now_ms,
        requester_id=wish.key,
        signatures=(),
    )


async def _carry_out(governed: Governed, current: Directory, plan: UpkeepPlan) -> None:
    """Does what the plan asks for; whatever fails is tried again in the next pass."""
    material, keys = governed.material, {key.name: key for key in governed.topology.keys}
    for name, rotation in plan.rotations.items():
        await material.keep_progress(name, rotation.progress)
        if isinstance(rotation.step, Wait) and rotation.step.until_ms is not None:
            governed.waits.append(rotation.step.until_ms)
        due = next_rotation_ms(keys[name].spec, governed.ring(name))
        if due is not None:
            governed.waits.append(due)
    for name, generation in (*plan.make, *_replacements(governed, plan)):
        log.info("make generation %d of key %s", generation, name)
        await material.make(keys[name], generation)
        governed.moved = True
    for name, key_id in (*plan.switch, *_fresh_starts(governed, plan)):
        log.info("key %s signs with %s", name, key_id)
        governed.active[name] = key_id
        governed.moved = True
    for name, key_id in governed.active.items():
        if keys[name].spec.purpose == "Governance" and key_id:
            governed.governance.active[name] = key_id
    await _publish(governed, current, plan.publish)
    await governed.governance.store()
    if governed.pending is not None:
        await governed.governance.submit(governed.pending, governed.addresses)
        if governed.governance.complaint:
            # Refused for good by everybody: nothing can put it in force, so another may be signed for its epoch.
            governed.governance.candidate = None
            await governed.governance.store()
    await _destroy_ended(governed, current, plan)


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


async def _destroy_ended(governed: Governed, current: Directory, plan: UpkeepPlan) -> None:
    """Destroys the private half of keys that nothing trusts any more."""
    trusted = [entry.key_id for member in current.members for entry in member.keys]
    trusted += [entry.key_id for entry in current.governance]
    for name, rotation in plan.rotations.items():
        ended = [
            row.key_id
            for row in rotation.keys
            if row.state in (KeyState.RETIRED, KeyState.REVOKED)
            and row.key_id not in trusted
            and row.key_id != governed.active.get(name)
        ]
        await governed.material.destroy(name, ended)


async def _fill_folders(governed: Governed) -> None:
    """Makes each validator's key folder hold its usable keys; one that was told nothing yet begins with the newest."""
    for node in governed.topology.nodes:
        held = governed.material.held.get(node.key) if node.kind == "validator" else None
        if held is None or not held.usable:
            continue
        active = governed.active.get(node.key, "") or held.usable[-1].key_id
        governed.active[node.key] = active
        await governed.folders.ensure(node.name, held, active)


def _newcomers(plan: UpkeepPlan) -> Iterator[str]:
    """Yields the keys of validators that are no members yet, whose rotation therefore has not begun."""
    for name, rotation in plan.rotations.items():
        if isinstance(rotation.step, Wait) and rotation.step.reason == "NotAMember":
            yield name


def _replacements(governed: Governed, plan: UpkeepPlan) -> list[tuple[str, int]]:
    """Returns the generations to make for validators whose key was revoked before they joined."""
    newest = [(name, governed.material.held[name].newest) for name in _newcomers(plan)]
    return [(name, key.number + 1) for name, key in newest if key and key.key_id in governed.governance.statements]


def _fresh_starts(governed: Governed, plan: UpkeepPlan) -> list[tuple[str, str]]:
    """Returns the keys that validators that are no members yet change to: nobody trusts their old one anyway."""
    newest = [(name, governed.material.held[name].newest) for name in _newcomers(plan)]
    return [
        (name, key.key_id)
        for name, key in newest
        if key
        and governed.active.get(name) not in ("", key.key_id)
        and key.key_id not in governed.governance.statements
    ]
