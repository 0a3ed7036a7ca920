"""What the membership of a world needs next: keys to make, keys to switch to, and one directory epoch to publish."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from agentworld_core.membership.builder import Changes, next_directory
from agentworld_core.membership.changes import WantedMember, plan_members
from agentworld_core.membership.directory import directory_hash, find_member
from agentworld_core.membership.rotation import (
    Confirmation,
    KeyPlan,
    Observed,
    Progress,
    Purpose,
    Rotation,
    plan_rotation,
)
from agentworld_core.membership.steps import MakeKey, PublishDirectory, Refused, Step, SwitchSigning, Wait
from agentworld_core.messages import Directory, Member, RevokedKey
from agentworld_core.topology.plan import NodePlan, Topology
from agentworld_core.topology.resources import MembershipKey
from agentworld_operator.nodes.status import NodeStatus
from agentworld_operator.plan.keys import KeyRing
from agentworld_operator.resources.objects import FORCE_REMOVE


@dataclasses.dataclass(frozen=True, kw_only=True)
class MembershipFacts:
    """Everything that decides about membership; ``active`` is the key id each MembershipKey signs with, by its name."""

    topology: Topology
    current: Directory
    pending: Directory | None
    statuses: Mapping[str, NodeStatus]
    rings: Mapping[str, KeyRing]
    active: Mapping[str, str]
    peer_ids: Mapping[str, str]
    revoked: Sequence[RevokedKey]
    replace_first: Sequence[str] = ()
    confirm_timeout_ms: int = 60_000
    now_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MembershipPlan:
    """What to do now; ``rotations`` say where each MembershipKey is, ``members`` what became of joins and leaves."""

    make: tuple[tuple[str, int], ...]
    switch: tuple[tuple[str, str], ...]
    publish: PublishDirectory | None
    rotations: Mapping[str, Rotation]
    members: Step

    @property
    def refusal(self) -> Refused | None:
        """Why members that should leave may not, None when all may."""
        return self.members if isinstance(self.members, Refused) else None


def plan_membership(facts: MembershipFacts) -> MembershipPlan:
    """Returns the next steps of all keys and of the membership as a whole; one directory is in flight at a time."""
    rotations = {key.name: _rotation(facts, key) for key in keys_in_use(facts.topology) if key.name in facts.rings}
    members = _members(facts)
    steps = [(name, rotation.step) for name, rotation in rotations.items()]
    newcomers = [name for name, step in steps if isinstance(step, Wait) and step.reason == "NotAMember"]
    urgent = [name for name, active in facts.active.items() if _is_revoked(facts, active)]
    # First what replaces a revoked key, then who belongs to the world, then ordinary rotations.
    ordered: list[Step] = [step for name, step in steps if name in urgent]
    ordered.append(members)
    ordered += [step for name, step in steps if name not in urgent]
    publish = next((step for step in ordered if isinstance(step, PublishDirectory)), None)
    if publish is None and facts.pending is None:
        publish = _rules(facts) or _list_revocations(facts)
    return MembershipPlan(
        make=(
            *((name, step.generation) for name, step in steps if isinstance(step, MakeKey)),
            *_replacements(facts, newcomers),
        ),
        switch=(
            *((name, step.key_id) for name, step in steps if isinstance(step, SwitchSigning)),
            *_fresh_starts(facts, newcomers),
        ),
        publish=publish,
        rotations=rotations,
        members=members,
    )


def keys_in_use(topology: Topology) -> list[MembershipKey]:
    """Returns the MembershipKeys that sign for the world: its governance keys, and one key for each validator."""
    used = [*topology.governance_keys, *(node.key for node in topology.nodes if node.kind == "validator")]
    return [key for key in topology.keys if key.name in used]


def wanted_generation(
    key: MembershipKey, ring: KeyRing, *, now_ms: int, replace_first: Sequence[str] = (), active: str = ""
) -> int:
    """Returns the generation that a MembershipKey should be at.

    A person asks for one by raising ``spec.generation``; the clock asks for one when the newest has signed for the
    interval; a revocation that has to wait for a replacement asks for one too. Generations that the clock made do not
    swallow the next wish of a person.
    """
    newest = ring.newest
    if newest is None:
        return key.spec.generation
    if key.spec.generation > newest.spec_generation:
        return max(newest.number + 1, key.spec.generation)
    if newest.key_id in replace_first:
        return newest.number + 1
    due = next_rotation_ms(key, ring, active=active)
    if due is not None and now_ms >= due:
        return newest.number + 1
    return newest.number


def next_rotation_ms(key: MembershipKey, ring: KeyRing, *, active: str) -> int | None:
    """Returns when the clock asks for the next generation, None when it does not or a rotation is under way."""
    rotation, newest = key.spec.rotation, ring.newest
    if not rotation.interval_ms or rotation.suspend or newest is None or newest.key_id != active:
        return None
    since = newest.progress.signing_since_ms or newest.created_ms
    return since + rotation.interval_ms


def build_next(current: Directory, step: PublishDirectory, *, now_ms: int) -> Directory:
    """Returns the unsigned next epoch; revocations that would leave a member without a key wait for its new one."""
    members = current.members if step.changes.members is None else tuple(step.changes.members)
    governance = current.governance if step.changes.governance is None else tuple(step.changes.governance)
    kept = [entry for entry in step.changes.revoked if not _leaves_somebody_bare(members, entry, step)]
    kept = [entry for entry in kept if any(key.key_id != entry.key_id for key in governance)]
    changes = dataclasses.replace(step.changes, members=members, governance=governance, revoked=tuple(kept))
    return next_directory(current, changes, now_ms=now_ms, reason=step.reason[:256])


def is_next(current: Directory, candidate: Directory, revoked: Sequence[str]) -> bool:
    """True when a directory that was signed earlier may still follow the one in force."""
    trusted = [key.key_id for member in candidate.members for key in member.keys]
    trusted += [key.key_id for key in candidate.governance]
    return (
        candidate.world_id == current.world_id
        and candidate.epoch == current.epoch + 1
        and candidate.previous_hash == directory_hash(current)
        and not any(key_id in revoked for key_id in trusted)
    )


def wanted_members(facts: MembershipFacts) -> list[WantedMember]:
    """Returns who should be a member, with the key that each would join with."""
    wanted = []
    for node in facts.topology.members:
        ring, peer_id = facts.rings.get(node.key), facts.peer_ids.get(node.name)
        if ring is None or peer_id is None or ring.newest is None:
            continue
        status = facts.statuses.get(node.name)
        known = find_member(facts.current, node.node_id)
        entry = ring.by_id(facts.active.get(node.key, "")) or ring.newest
        member = Member(
            member_id=node.node_id,
            peer_id=peer_id,
            keys=known.keys if known else (entry.entry,),
            weight=node.weight,
            roles=node.roles,
        )
        wanted.append(WantedMember(member=member, synced=status is not None and status.in_sync))
    return wanted


def _members(facts: MembershipFacts) -> Step:
    topology = facts.topology
    wanted = wanted_members(facts)
    here = [item.member.member_id for item in wanted]
    # A member whose identity or key cannot be read just now is not thereby asked to leave.
    for node in topology.members:
        known = find_member(facts.current, node.node_id)
        if known is not None and node.node_id not in here:
            wanted.append(WantedMember(member=known, synced=False))
    return plan_members(wanted, facts.current, facts.pending, revoked=facts.revoked, force=_is_forced(topology))


def _is_forced(topology: Topology) -> bool:
    """True when a person has said, on the World or on all Validators that leave, that the quorum may suffer."""
    annotations = [topology.validator(node.name).metadata.annotations for node in topology.nodes if node.leaving]
    everyone = bool(annotations) and all(given.get(FORCE_REMOVE) == "true" for given in annotations)
    return everyone or topology.world.metadata.annotations.get(FORCE_REMOVE) == "true"


def _rotation(facts: MembershipFacts, key: MembershipKey) -> Rotation:
    ring, active = facts.rings[key.name], facts.active.get(key.name, "")
    generation = wanted_generation(key, ring, now_ms=facts.now_ms, replace_first=facts.replace_first, active=active)
    node = _node_of(facts.topology, key)
    plan = KeyPlan(
        purpose=Purpose(key.spec.purpose),
        member_id=node.node_id if node else None,
        generation=generation,
        overlap_ms=key.spec.rotation.overlap_ms,
        confirm_timeout_ms=facts.confirm_timeout_ms,
    )
    newest = ring.newest
    observed = Observed(
        material=[item.material for item in ring.generations],
        active_key_id=active or None,
        current=facts.current,
        pending=facts.pending,
        confirmations=_confirmations(facts),
        revoked=facts.revoked,
        progress=newest.progress if newest else Progress(),
        now_ms=facts.now_ms,
    )
    return plan_rotation(plan, observed)


def _confirmations(facts: MembershipFacts) -> list[Confirmation]:
    """Returns what every member last said; one that does not answer has confirmed nothing."""
    names = {node.node_id: node.name for node in facts.topology.nodes if node.kind == "validator"}
    result = []
    for member in facts.current.members:
        status = facts.statuses.get(names.get(member.member_id, ""))
        result.append(
            Confirmation(
                node_id=member.member_id,
                epoch=status.directory.epoch if status else 0,
                active_key_id=(status.active_key_id or None) if status else None,
            )
        )
    return result


def _replacements(facts: MembershipFacts, newcomers: Sequence[str]) -> list[tuple[str, int]]:
    """Returns the generations to make for those who are no members yet and whose key was revoked before they joined."""
    newest = [(name, facts.rings[name].newest) for name in newcomers]
    return [(name, item.number + 1) for name, item in newest if item is not None and _is_revoked(facts, item.key_id)]


def _fresh_starts(facts: MembershipFacts, newcomers: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the keys that those who are no members yet change to: nobody trusts their old one anyway."""
    newest = [(name, facts.rings[name].newest) for name in newcomers]
    return [
        (name, item.key_id)
        for name, item in newest
        if item is not None and facts.active.get(name) not in ("", item.key_id) and not _is_revoked(facts, item.key_id)
    ]


def _node_of(topology: Topology, key: MembershipKey) -> NodePlan | None:
    for node in topology.nodes:
        if node.kind == "validator" and node.key == key.name:
            return node
    return None


def _rules(facts: MembershipFacts) -> PublishDirectory | None:
    """Returns the epoch that takes over a changed fault model, threshold, or list of governance keys."""
    spec, current = facts.topology.world.spec, facts.current
    rings = [facts.rings[name] for name in facts.topology.governance_keys if name in facts.rings]
    kept = tuple(key for key in current.governance if any(ring.by_id(key.key_id) for ring in rings))
    threshold = spec.governance.threshold
    if len(rings) < len(facts.topology.governance_keys) or len(kept) < threshold:
        # Keys that are still to be trusted come first; the rotation brings them in.
        return None
    same = len(kept) == len(current.governance) and threshold == current.governance_threshold
    if same and spec.consensus.fault_model == current.fault_model:
        return None
    changes = Changes(
        governance=kept,
        governance_threshold=threshold,
        fault_model=spec.consensus.fault_model,
        revoked=tuple(facts.revoked),
    )
    return PublishDirectory(changes, "take over the rules of the World")


def _list_revocations(facts: MembershipFacts) -> PublishDirectory | None:
    """Returns the epoch that lists revocations which no epoch lists yet, once nothing else carries them."""
    listed = [entry.key_id for entry in facts.current.revoked]
    missing = tuple(entry for entry in facts.revoked if entry.key_id not in listed)
    step = PublishDirectory(Changes(revoked=missing), "list revoked keys")
    if not missing or not build_next(facts.current, step, now_ms=facts.now_ms).revoked[len(listed) :]:
        return None
    return step


def _is_revoked(facts: MembershipFacts, key_id: str) -> bool:
    return any(entry.key_id == key_id for entry in facts.revoked)


def _leaves_somebody_bare(members: Sequence[Member], entry: RevokedKey, step: PublishDirectory) -> bool:
    revoked = [item.key_id for item in step.changes.revoked]
    return any(
        any(key.key_id == entry.key_id for key in member.keys) and all(key.key_id in revoked for key in member.keys)
        for member in members
    )
