"""What the membership of a world needs next: keys to make, keys to switch to, and one directory epoch to publish.

Joins the plans of members (``changes``) and of keys (``rotation``) for a whole world, level-based: it is given what is
wished for and what is seen, and never counts on having run before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from agentworld_core.membership.builder import Changes, next_directory
from agentworld_core.membership.changes import WantedMember, plan_members, why_it_stalls
from agentworld_core.membership.directory import directory_hash, find_member
from agentworld_core.membership.rings import KeyRing, wanted_generation
from agentworld_core.membership.rotation import Confirmation, KeyPlan, Observed, Purpose, Rotation, plan_rotation
from agentworld_core.membership.steps import Done, MakeKey, PublishDirectory, Refused, Step, SwitchSigning
from agentworld_core.messages import Directory, Member, RevokedKey
from agentworld_core.topology.plan import NodePlan, Topology
from agentworld_core.topology.resources import MembershipKey

FORCE_REMOVE = "agentworld.dev/force-remove"
"""Set to ``true`` on Validators that leave, or on the World: they may leave although the quorum suffers."""

MAX_REASON = 256


@dataclass(frozen=True, kw_only=True)
class NodeWord:
    """What a node last said of itself: the epoch it is in, the key it signs with, and whether it has caught up."""

    epoch: int
    active_key_id: str = ""
    in_sync: bool = False


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """Everything that decides about membership.

    ``words`` and ``peer_ids`` are by node id, ``rings`` by name of the MembershipKey. ``current`` is in force,
    ``pending`` is signed and on its way. ``replace_first`` are key ids whose revocation waits for their replacement.
    """

    topology: Topology
    current: Directory
    pending: Directory | None
    words: Mapping[str, NodeWord]
    rings: Mapping[str, KeyRing]
    peer_ids: Mapping[str, str]
    revoked: Sequence[RevokedKey] = ()
    replace_first: Sequence[str] = ()
    confirm_timeout_ms: int = 60_000
    now_ms: int


@dataclass(frozen=True, kw_only=True)
class UpkeepPlan:
    """What to do now: (key, generation) to make, (key, key id) to switch to, the epoch to publish; and where all is."""

    make: tuple[tuple[str, int], ...]
    switch: tuple[tuple[str, str], ...]
    publish: PublishDirectory | None
    rotations: Mapping[str, Rotation]
    members: Step


def plan_upkeep(facts: Upkeep) -> UpkeepPlan:
    """Returns the next steps of all keys and of the membership as a whole; one directory is in flight at a time."""
    rotations = {key.name: _rotation(facts, key) for key in keys_in_use(facts.topology) if key.name in facts.rings}
    members = _members(facts)
    urgent = [name for name in rotations if _is_revoked(facts, facts.rings[name].active_key_id)]
    # First what replaces a revoked key, then who belongs to the world, then ordinary rotations.
    ordered: list[Step] = [rotations[name].step for name in urgent]
    ordered.append(members)
    ordered += [rotation.step for name, rotation in rotations.items() if name not in urgent]
    publish = next((step for step in ordered if isinstance(step, PublishDirectory)), None)
    stalled = _stalled_model(facts)
    if publish is None and facts.pending is None:
        publish = _rules(facts, stalled=stalled is not None) or _unlisted_revocations(facts)
    steps = [(name, rotation.step) for name, rotation in rotations.items()]
    return UpkeepPlan(
        make=tuple((name, step.generation) for name, step in steps if isinstance(step, MakeKey)),
        switch=tuple((name, step.key_id) for name, step in steps if isinstance(step, SwitchSigning)),
        publish=publish,
        rotations=rotations,
        members=stalled if stalled is not None and isinstance(members, Done) else members,
    )


def keys_in_use(topology: Topology) -> list[MembershipKey]:
    """Returns the MembershipKeys that sign for the world: its governance keys, and one key for each validator."""
    used = [*topology.governance_keys, *(node.key for node in topology.nodes if node.kind == "validator")]
    return [key for key in topology.keys if key.name in used]


def node_of_key(topology: Topology, key_name: str) -> NodePlan | None:
    """Returns the validator that signs with a MembershipKey, None for one of governance."""
    return next((node for node in topology.nodes if node.kind == "validator" and node.key == key_name), None)


def build_next(current: Directory, step: PublishDirectory, *, now_ms: int) -> Directory:
    """Returns the unsigned next epoch of a step; revocations that would leave a member without any key are left out."""
    members = current.members if step.changes.members is None else tuple(step.changes.members)
    governance = current.governance if step.changes.governance is None else tuple(step.changes.governance)
    asked = tuple(step.changes.revoked)
    gone = [entry.key_id for entry in asked]
    kept = [
        entry
        for entry in asked
        if not any(_is_bare_without(member, entry.key_id, gone) for member in members)
        and any(key.key_id != entry.key_id for key in governance)
    ]
    changes = dataclasses.replace(step.changes, members=members, governance=governance, revoked=tuple(kept))
    return next_directory(current, changes, now_ms=now_ms, reason=step.reason[:MAX_REASON])


def may_follow(current: Directory, candidate: Directory, revoked: Collection[str]) -> bool:
    """True when a directory that was signed earlier may still follow ``current`` and trusts no revoked key."""
    trusted = [key.key_id for member in candidate.members for key in member.keys]
    trusted += [key.key_id for key in candidate.governance]
    return (
        candidate.world_id == current.world_id
        and candidate.epoch == current.epoch + 1
        and candidate.previous_hash == directory_hash(current)
        and not any(key_id in revoked for key_id in trusted)
    )


def _members(facts: Upkeep) -> Step:
    wanted = []
    for node in facts.topology.members:
        known = find_member(facts.current, node.node_id)
        ring, peer_id = facts.rings.get(node.key), facts.peer_ids.get(node.node_id)
        signing = None if ring is None else ring.active or ring.newest
        if signing is not None and peer_id is not None:
            member = Member(
                member_id=node.node_id,
                peer_id=peer_id,
                keys=known.keys if known else (signing.entry,),
                weight=node.weight,
                roles=node.roles,
            )
            word = facts.words.get(node.node_id)
            wanted.append(WantedMember(member=member, synced=word is not None and word.in_sync))
        elif known is not None:
            # A member whose identity or key cannot be read just now is not thereby asked to leave.
            wanted.append(WantedMember(member=known, synced=False))
    return plan_members(wanted, facts.current, facts.pending, revoked=facts.revoked, force=_is_forced(facts.topology))


def _is_forced(topology: Topology) -> bool:
    leaving = [topology.validator(node.name).metadata for node in topology.nodes if node.leaving]
    everyone = bool(leaving) and all(metadata.annotations.get(FORCE_REMOVE) == "true" for metadata in leaving)
    return everyone or topology.world.metadata.annotations.get(FORCE_REMOVE) == "true"


def _rotation(facts: Upkeep, key: MembershipKey) -> Rotation:
    ring = facts.rings[key.name]
    node = node_of_key(facts.topology, key.name)
    plan = KeyPlan(
        purpose=Purpose(key.spec.purpose),
        member_id=None if node is None else node.node_id,
        generation=wanted_generation(key.spec, ring, now_ms=facts.now_ms, replace_first=facts.replace_first),
        overlap_ms=key.spec.rotation.overlap_ms,
        confirm_timeout_ms=facts.confirm_timeout_ms,
    )
    observed = Observed(
        material=[item.material for item in ring.generations],
        active_key_id=ring.active_key_id or None,
        current=facts.current,
        pending=facts.pending,
        confirmations=[_confirmation(facts, member) for member in facts.current.members],
        revoked=facts.revoked,
        progress=ring.progress,
        now_ms=facts.now_ms,
    )
    return plan_rotation(plan, observed)


def _confirmation(facts: Upkeep, member: Member) -> Confirmation:
    """Returns what a member last said; one that does not answer has confirmed nothing."""
    word = facts.words.get(member.member_id)
    if word is None:
        return Confirmation(node_id=member.member_id, epoch=0)
    return Confirmation(node_id=member.member_id, epoch=word.epoch, active_key_id=word.active_key_id or None)


def _stalled_model(facts: Upkeep) -> Refused | None:
    """Returns why the fault model of the World does not come into force now, None when it may."""
    wished = facts.topology.world.spec.consensus.fault_model
    if wished == facts.current.fault_model or _is_forced(facts.topology):
        return None
    changed = dataclasses.replace(facts.current, fault_model=wished)
    stalls = why_it_stalls(changed, present=[name for name, word in facts.words.items() if word.in_sync])
    return None if stalls is None else Refused("OthersAway", stalls, ("the fault model",), "may not change")


def _rules(facts: Upkeep, *, stalled: bool) -> PublishDirectory | None:
    """Returns the epoch that takes over a changed fault model, unless stalled, threshold, or governance keys."""
    spec, current = facts.topology.world.spec, facts.current
    rings = [facts.rings[name] for name in facts.topology.governance_keys if name in facts.rings]
    kept = tuple(key for key in current.governance if any(ring.by_id(key.key_id) for ring in rings))
    threshold = spec.governance.threshold
    if len(rings) < len(facts.topology.governance_keys) or len(kept) < threshold:
        # Keys that are still to be trusted come first; the rotation brings them in.
        return None
    same = len(kept) == len(current.governance) and threshold == current.governance_threshold
    fault_model = current.fault_model if stalled else spec.consensus.fault_model
    if same and fault_model == current.fault_model:
        return None
    changes = Changes(
        governance=kept,
        governance_threshold=threshold,
        fault_model=fault_model,
        revoked=tuple(facts.revoked),
    )
    return PublishDirectory(changes, "take over the rules of the World")


def _unlisted_revocations(facts: Upkeep) -> PublishDirectory | None:
    """Returns the epoch that lists revocations which no epoch lists yet, where nothing else carries them."""
    listed = [entry.key_id for entry in facts.current.revoked]
    missing = tuple(entry for entry in facts.revoked if entry.key_id not in listed)
    step = PublishDirectory(Changes(revoked=missing), "list revoked keys")
    if not missing or len(build_next(facts.current, step, now_ms=facts.now_ms).revoked) == len(listed):
        return None
    return step


def _is_revoked(facts: Upkeep, key_id: str) -> bool:
    return any(entry.key_id == key_id for entry in facts.revoked)


def _is_bare_without(member: Member, key_id: str, gone: list[str]) -> bool:
    """True when this key is one of the member's, and all of the member's keys go."""
    return any(key.key_id == key_id for key in member.keys) and all(key.key_id in gone for key in member.keys)
