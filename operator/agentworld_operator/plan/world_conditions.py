"""The conditions of a World: stable reasons, and messages that say what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from agentworld_core.membership.directory import quorum_weight, total_weight
from agentworld_core.membership.steps import Done, Wait
from agentworld_core.membership.upkeep import FORCE_REMOVE
from agentworld_core.topology.effects import fixed_by_genesis, fixed_modules, not_effective
from agentworld_core.topology.plan import NodePlan
from agentworld_operator.plan.facts import WorldFacts
from agentworld_operator.resources import reasons
from agentworld_operator.resources.status import FALSE, TRUE, UNKNOWN, Condition, listing, milliseconds_of

STALLED_MS = 300_000
"""A revocation that some node has not confirmed for this long deserves attention."""

Stored = Mapping[str, Mapping[str, Any]]


def world_conditions(facts: WorldFacts, stored: Stored) -> list[Condition]:
    """Returns all conditions of a World."""
    quorum = _quorum(facts, stored)
    return [
        _ready(facts, quorum),
        _initialized(facts),
        _progressing(facts),
        _degraded(facts, stored),
        quorum,
        _moving(facts),
        _directory(facts),
        _revocations(facts, stored),
        _paused(facts),
        _fault_tolerant(facts),
        _effective(facts),
    ]


def _ready(facts: WorldFacts, quorum: Condition) -> Condition:
    if facts.topology.problems:
        says = "; ".join(str(problem) for problem in facts.topology.problems)
        return _no(reasons.READY, reasons.INVALID_SPEC, f"{says}. What runs is left as it is")
    if facts.topology.world.spec.hibernated:
        return _no(reasons.READY, reasons.HIBERNATED, "the pods are stopped and the data kept; set hibernated to false")
    if not facts.genesis_hash:
        return _unmade(facts, reasons.READY)
    if quorum.status != TRUE:
        return _no(reasons.READY, quorum.reason, quorum.message)
    wanted = facts.topology.world.spec.gateway.replicas
    if wanted and not any(pod.ready for pod in facts.gateways.values()):
        return _no(reasons.READY, reasons.STARTING, "no gateway is ready yet: clients cannot reach the world")
    return _yes(reasons.READY)


def _initialized(facts: WorldFacts) -> Condition:
    if facts.genesis_hash:
        return _yes(reasons.INITIALIZED, f"genesis {facts.genesis_hash}")
    return _unmade(facts, reasons.INITIALIZED)


def _unmade(facts: WorldFacts, kind: str) -> Condition:
    """Returns the condition of a world without a genesis: what keeps it from being made, if anything does."""
    if facts.complaints.genesis:
        says = "; ".join(str(problem) for problem in facts.complaints.genesis)
        return _no(kind, reasons.INVALID_GENESIS, f"{says}. It is looked at again every few seconds")
    return _no(kind, reasons.STARTING, "keys and genesis are being made")


def _quorum(facts: WorldFacts, stored: Stored) -> Condition:
    kind = reasons.QUORUM_AVAILABLE
    if facts.topology.world.spec.hibernated:
        return _no(kind, reasons.HIBERNATED, "the world is hibernated")
    before = stored.get(kind, {})
    was_there = before.get("status") == TRUE or before.get("reason") == reasons.QUORUM_LOST
    if facts.directory is None:
        if was_there:
            return _no(kind, reasons.QUORUM_LOST, "no node answers; see the conditions of the Validators")
        return _no(kind, reasons.STARTING, "no node answers yet")
    able = [node for node in facts.validators if facts.can_vote(node)]
    weights = {member.member_id: member.weight for member in facts.directory.members}
    weight = sum(weights[node.node_id] for node in able)
    needed = quorum_weight(facts.directory)
    if weight >= needed:
        return _yes(kind)
    ids = [node.node_id for node in able]
    missing = [member for member in weights if member not in ids]
    says = (
        f"weight {weight} of {total_weight(facts.directory)} can vote and {needed} is needed;"
        f" not able to: {listing(missing)}"
    )
    if was_there:
        return _no(kind, reasons.QUORUM_LOST, f"{says}. No block is committed until they return; nothing is lost")
    return _no(kind, reasons.STARTING, says)


def _moving(facts: WorldFacts) -> Condition:
    kind = reasons.MOVING
    if facts.topology.world.spec.hibernated:
        return _no(kind, reasons.HIBERNATED, "the world is hibernated")
    found = facts.progress()
    if found is None:
        says = "no member of the directory answers"
        return Condition(type=kind, status=UNKNOWN, reason=reasons.NODES_UNREACHABLE, message=says)
    if not found.stalled:
        # Whether it is idle or busy changes with every action, and is no matter for a status.
        return _yes(kind)
    return _no(kind, found.state, f"{found.message}. See `agentworld consensus status` of a validator; nothing is lost")


def _progressing(facts: WorldFacts) -> Condition:
    kind = reasons.PROGRESSING
    if not facts.genesis_hash:
        return dataclasses.replace(_unmade(facts, kind), status=FALSE if facts.complaints.genesis else TRUE)
    if facts.transfer:
        return _so(kind, reasons.WRITER_TRANSFER, facts.transfer)
    return _settling(facts) or _no(kind, reasons.AS_EXPECTED, "")


def _settling(facts: WorldFacts) -> Condition | None:
    """Returns what is under way with members, keys and pods, None when nothing is."""
    kind = reasons.PROGRESSING
    if facts.pending is not None:
        says = f"directory epoch {facts.pending.epoch} ({facts.pending.reason}) is signed and not in force yet"
        return _so(kind, reasons.DIRECTORY_PENDING, says)
    leaving = [node.name for node in facts.validators if node.leaving]
    if leaving and facts.refusal is None:
        return _so(kind, reasons.LEAVING, f"leaving: {listing(leaving)}")
    joining = [node.name for node in facts.topology.members if facts.directory and not facts.is_member(node)]
    if joining:
        return _so(kind, reasons.JOINING, f"syncing before they vote: {listing(joining)}")
    starting = [node.name for node in facts.topology.members if not _is_settled(facts, node.name)]
    if starting:
        return _so(kind, reasons.STARTING, f"not ready yet: {listing(starting)}")
    rotating = _rotating(facts)
    if rotating:
        return _so(kind, reasons.ROTATION, f"keys under way: {listing(rotating)}")
    if facts.complaints.outdated:
        return _no(
            kind,
            reasons.ROLLOUT_PENDING,
            f"pods that run an older template: {listing(list(facts.complaints.outdated))}. They are not restarted by"
            " themselves; delete them one at a time, and wait until the World is Ready in between",
        )
    return None


def _degraded(facts: WorldFacts, stored: Stored) -> Condition:
    for reason, message in _obstacles(facts, stored):
        return _so(reasons.DEGRADED, reason, message)
    return _no(reasons.DEGRADED, reasons.AS_EXPECTED, "")


def _obstacles(facts: WorldFacts, stored: Stored) -> Iterator[tuple[str, str]]:
    """Yields what stands in the way, the most pressing first."""
    complaints, refusal = facts.complaints, facts.refusal
    if complaints.foreign:
        names = listing(list(complaints.foreign))
        says = f"objects under our names that we did not make: {names}. Rename or delete them; they are never adopted"
        yield reasons.FOREIGN_OBJECT, says
    if facts.topology.problems:
        yield reasons.INVALID_SPEC, "; ".join(str(problem) for problem in facts.topology.problems)
    for pod in (*facts.pods.values(), *facts.gateways.values()):
        if pod.reason:
            yield pod.reason, pod.message
    if complaints.refused:
        yield reasons.OBJECTS_REFUSED, f"refused by the API server: {'; '.join(complaints.refused)}"
    if complaints.keys:
        says = "; ".join(f"{name}: {problem}" for name, problem in sorted(complaints.keys.items()))
        yield reasons.INVALID_KEY, says
    if refusal is not None:
        says = f"{listing(list(refusal.names))} {refusal.what}: {refusal.message}"
        remedy = f'To have it done anyway, annotate the World, or all who leave, with {FORCE_REMOVE}: "true"'
        yield reasons.REMOVAL_REFUSED, f"{says}. {remedy}"
    if facts.revocations.refused:
        yield reasons.REVOCATION_REFUSED, "; ".join(facts.revocations.refused.values())
    if complaints.directory:
        yield reasons.DIRECTORY_REFUSED, f"the nodes refuse the next directory: {complaints.directory}"
    trouble = facts.lease_trouble()
    if trouble is not None:
        yield trouble
    started = stored.get(reasons.QUORUM_AVAILABLE, {}).get("reason") in (reasons.AS_EXPECTED, reasons.QUORUM_LOST)
    away = [
        _named(facts, node)
        for node in facts.topology.members
        if facts.is_member(node) and not facts.can_vote(node) and not facts.is_suspended(node)
    ]
    if started and away:
        yield reasons.NODES_NOT_READY, f"cannot vote now: {listing(away)}. See the conditions of these Validators"


def _named(facts: WorldFacts, node: NodePlan) -> str:
    """Returns the name of a node that cannot vote, with its place where that may be the reason."""
    place = facts.pod(node.name).place or "a machine"
    return f"{node.name} (does not answer, on {place})" if facts.is_silent(node) else node.name


def _directory(facts: WorldFacts) -> Condition:
    kind = reasons.DIRECTORY_CONVERGED
    if facts.directory is None:
        return Condition(type=kind, status=UNKNOWN, reason=reasons.NODES_UNREACHABLE, message="no node answers")
    if facts.complaints.directory:
        return _no(kind, reasons.DIRECTORY_REFUSED, facts.complaints.directory)
    if facts.pending is not None:
        return _no(kind, reasons.DIRECTORY_PENDING, f"epoch {facts.pending.epoch} is not in force yet")
    behind = facts.behind_directory()
    if behind:
        return _no(kind, reasons.NODES_PENDING, f"epoch {facts.directory.epoch} is not applied by {listing(behind)}")
    return _yes(kind)


def _revocations(facts: WorldFacts, stored: Stored) -> Condition:
    kind = reasons.REVOCATIONS_CONVERGED
    if facts.revocations.refused:
        return _no(kind, reasons.REVOCATION_REFUSED, "; ".join(facts.revocations.refused.values()))
    if facts.revocations.replace_first:
        says = f"replaced before they are revoked, to keep the quorum: {listing(list(facts.revocations.replace_first))}"
        return _no(kind, reasons.REPLACED_FIRST, says)
    if facts.complaints.revocations:
        says = "; ".join(f"{key}: {why}" for key, why in sorted(facts.complaints.revocations.items()))
        return _no(kind, reasons.KEY_REFUSED, says)
    pending = {name: None for key_id in facts.statements for name in facts.unconfirmed(key_id)}
    if pending:
        says = f"not confirmed by {listing(list(pending))}; they refuse the keys before they speak again"
        before = stored.get(kind, {})
        since = milliseconds_of(before.get("lastTransitionTime")) if before.get("status") == FALSE else facts.now_ms
        if facts.now_ms - since >= STALLED_MS:
            return _no(kind, reasons.REVOCATION_STALLED, f"{says}. Bring these nodes back, or remove them")
        return _no(kind, reasons.NODES_PENDING, says)
    return _yes(kind)


def _paused(facts: WorldFacts) -> Condition:
    if facts.topology.world.spec.paused:
        return _so(reasons.PAUSED, reasons.PAUSED, "nothing is changed until spec.paused is false; the nodes run on")
    return _no(reasons.PAUSED, reasons.AS_EXPECTED, "")


def _fault_tolerant(facts: WorldFacts) -> Condition:
    kind = reasons.FAULT_TOLERANT
    if facts.topology.warnings:
        return _no(kind, reasons.NO_FAULT_TOLERATED, "; ".join(facts.topology.warnings))
    return _yes(kind)


def _effective(facts: WorldFacts) -> Condition:
    topology = facts.topology
    paths = not_effective(topology.world)
    paths += [f"Validator {item.name} {path}" for item in topology.validators for path in not_effective(item)]
    fixed = fixed_by_genesis(topology.parameters, facts.genesis.parameters) if facts.genesis else []
    if facts.genesis and fixed_modules(topology.world.spec.genesis, facts.genesis.modules):
        fixed.append("spec.genesis.modules")
    says = []
    if fixed:
        says.append(f"fixed by the genesis, make another World to change them: {listing(fixed, limit=20)}")
    if paths:
        says.append(f"accepted, but without effect yet: {listing(paths, limit=20)}")
    if not says:
        return _yes(reasons.FIELDS_EFFECTIVE)
    return _no(reasons.FIELDS_EFFECTIVE, reasons.NOT_YET_EFFECTIVE, "; ".join(says))


def _rotating(facts: WorldFacts) -> list[str]:
    """Returns the keys whose rotation has more to do than to wait for the end of the overlap."""
    rotations = facts.plan.rotations if facts.plan else {}
    names = []
    for name, rotation in rotations.items():
        step = rotation.step
        idle = isinstance(step, Done) or (isinstance(step, Wait) and step.reason in ("Overlap", "NotAMember"))
        if not idle:
            names.append(name)
    return names


def _is_settled(facts: WorldFacts, name: str) -> bool:
    node = _node(facts, name)
    return facts.is_suspended(node) or (facts.pod(name).ready and facts.can_vote(node))


def _node(facts: WorldFacts, name: str) -> NodePlan:
    return next(node for node in facts.topology.nodes if node.name == name)


def _yes(kind: str, message: str = "") -> Condition:
    return Condition(type=kind, status=TRUE, reason=reasons.AS_EXPECTED, message=message)


def _so(kind: str, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=TRUE, reason=reason, message=message)


def _no(kind: str, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=FALSE, reason=reason, message=message)
