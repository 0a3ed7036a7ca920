"""The status of a Validator: where it is in its life, and what is true of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentworld_core.topology.plan import NodePlan
from agentworld_operator.nodes.status import NodeStatus
from agentworld_operator.plan.evidence import evidence_rows
from agentworld_operator.plan.facts import WorldFacts
from agentworld_operator.resources import reasons
from agentworld_operator.resources.status import (
    FALSE,
    TRUE,
    UNKNOWN,
    Condition,
    conditions_of,
    merged_conditions,
    timestamp,
    without_empty,
)

_SILENT = "is that machine up and reached, does the process run? When they are, it comes back by itself"
_FAILED = (reasons.IMAGE_PULL_FAILED, reasons.NODE_CRASHING)


def validator_status(facts: WorldFacts, node: NodePlan, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole status of a Validator.

    ``lastSeenTime`` moves only together with something else, so that a world that stands still writes nothing.
    """
    validator = facts.topology.validator(node.name)
    status = facts.statuses.get(node.name)
    before = stored.get("status") or {}
    stage = phase(facts, node)
    conditions = _conditions(facts, node, stage)
    generation = validator.metadata.generation
    held = facts.held.get(node.key)
    active = held.by_id(facts.active.get(node.key, "")) if held else None
    result = without_empty(
        {
            "observedGeneration": generation,
            "conditions": merged_conditions(
                conditions_of(stored), conditions, generation=generation, now_ms=facts.now_ms
            ),
            "phase": stage,
            "peerId": facts.peer_ids.get(node.name, ""),
            "publicKey": active.public_key.hex() if active else "",
            "pod": node.name if facts.pod(node.name).exists else "",
            "lease": node.name,
            **_seen(facts, status, before),
            "evidence": evidence_rows(facts, before.get("evidence") or [], validator_id=node.node_id),
        }
    )
    last_seen = before.get("lastSeenTime")
    unchanged = {**result, "lastSeenTime": last_seen} == dict(before)
    if status is not None and not unchanged:
        last_seen = timestamp(facts.now_ms)
    return without_empty({**result, "lastSeenTime": last_seen})


def phase(facts: WorldFacts, node: NodePlan) -> str:
    """Returns where a validator is in its life."""
    pod, status = facts.pod(node.name), facts.statuses.get(node.name)
    member = facts.is_member(node)
    if node.leaving:
        return "Draining"
    if facts.is_suspended(node):
        return "Suspended"
    if pod.reason in _FAILED:
        return "Failed"
    if not pod.exists or pod.reason:
        return "Pending"
    if status is None or not status.sync_state:
        return "Starting"
    if not status.in_sync:
        return "Lagging" if member and status.sync_state == "lagging" else "Syncing"
    if not member:
        return "Syncing"
    return "Voting" if status.voting else "Starting"


def _conditions(facts: WorldFacts, node: NodePlan, stage: str) -> list[Condition]:
    return [_ready(facts, node, stage), _in_sync(facts, node), _member(facts, node), _key_ready(facts, node)]


def _ready(facts: WorldFacts, node: NodePlan, stage: str) -> Condition:
    kind, pod = reasons.READY, facts.pod(node.name)
    if stage == "Voting" and pod.ready:
        return Condition(type=kind, status=TRUE, reason=reasons.VOTING)
    refusal = facts.refusal
    if node.leaving and refusal is not None and node.node_id in refusal.names:
        return _no(kind, reasons.REMOVAL_REFUSED, refusal.message)
    problem = facts.complaints.keys.get(f"Validator {node.name}")
    if problem is not None:
        return _no(kind, reasons.INVALID_KEY, str(problem))
    told = {
        "Draining": (reasons.LEAVING, "it leaves the directory, then its pod goes"),
        "Suspended": (reasons.SUSPENDED, "its pod is stopped on purpose and its data kept; it remains a member"),
        "Syncing": (reasons.SYNCING, "it catches up; it votes once it has"),
        "Lagging": (reasons.SYNCING, "it is behind the head and catches up"),
        "Voting": (reasons.STARTING, "it votes, but its pod does not report ready yet"),
    }
    reason, message = told.get(stage, (reasons.STARTING, "its pod is starting"))
    if pod.reason:
        reason, message = pod.reason, pod.message
    elif stage == "Starting" and facts.is_silent(node):
        reason = reasons.NODES_UNREACHABLE
        message = f"pod {node.name} was started on {pod.place or 'a machine'} and does not answer: {_SILENT}"
    elif stage == "Starting" and facts.is_member(node) and node.name in facts.statuses:
        message = "it is in sync, but has no key that the directory trusts yet"
    return _no(kind, reason, message)


def _in_sync(facts: WorldFacts, node: NodePlan) -> Condition:
    kind, status = reasons.IN_SYNC, facts.statuses.get(node.name)
    if status is None:
        return Condition(
            type=kind, status=UNKNOWN, reason=reasons.NODES_UNREACHABLE, message="the node does not answer"
        )
    if status.in_sync:
        return Condition(type=kind, status=TRUE, reason=reasons.AS_EXPECTED)
    return _no(kind, reasons.SYNCING, f"{status.sync_state or 'starting'}")


def _member(facts: WorldFacts, node: NodePlan) -> Condition:
    kind = reasons.MEMBER
    if facts.directory is None:
        return Condition(
            type=kind, status=UNKNOWN, reason=reasons.NODES_UNREACHABLE, message="the directory cannot be read now"
        )
    if facts.is_member(node):
        if node.leaving:
            return Condition(type=kind, status=TRUE, reason=reasons.LEAVING, message="it is to leave the directory")
        return Condition(type=kind, status=TRUE, reason=reasons.AS_EXPECTED)
    if node.leaving:
        return _no(kind, reasons.VALIDATOR_LEFT, "it has left the directory")
    return _no(kind, reasons.JOINING, "the directory takes it in once it is in sync")


def _key_ready(facts: WorldFacts, node: NodePlan) -> Condition:
    kind, held = reasons.KEY_READY, facts.held.get(node.key)
    problem = facts.complaints.keys.get(f"MembershipKey {node.key}")
    if problem is not None:
        return _no(kind, reasons.INVALID_KEY, str(problem))
    active = facts.active.get(node.key, "")
    if held is None or held.by_id(active) is None:
        return _no(kind, reasons.STARTING, f"MembershipKey {node.key} has no key yet")
    if active in facts.statements:
        return _no(kind, reasons.KEY_REVOKED, f"key {active} is revoked and being replaced")
    return Condition(type=kind, status=TRUE, reason=reasons.AS_EXPECTED)


def _seen(facts: WorldFacts, status: NodeStatus | None, before: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what the node says of itself; what it said last when it does not answer."""
    if status is None:
        names = ("head", "lag", "directoryEpoch", "revokedSetHash")
        return {name: before[name] for name in names if name in before}
    top = facts.head
    behind = max(top.height - status.head.height, 0) if top else 0
    return {
        "head": without_empty({"height": status.head.height, "blockHash": status.head.block_hash}),
        "lag": max(behind, status.lag),
        "directoryEpoch": status.directory.epoch,
        "revokedSetHash": status.revoked_set_hash,
    }


def _no(kind: str, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=FALSE, reason=reason, message=message)
