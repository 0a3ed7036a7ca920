"""The status of a World: what is true of it now, in fields for programs and conditions for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentworld_core.membership.directory import directory_hash, quorum_weight
from agentworld_core.membership.revocation import statement_id
from agentworld_core.topology.quorum import needed_weight
from agentworld_operator.plan.evidence import evidence_rows
from agentworld_operator.plan.facts import WorldFacts
from agentworld_operator.plan.world_conditions import world_conditions
from agentworld_operator.resources import names, reasons
from agentworld_operator.resources.objects import Object, selector
from agentworld_operator.resources.status import (
    FALSE,
    TRUE,
    Condition,
    conditions_of,
    merged_conditions,
    timestamp,
    without_empty,
)


def world_status(facts: WorldFacts, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole status of a World; ``stored`` is the World as read, whose status is only a cache."""
    world = facts.topology.world
    before = stored.get("status") or {}
    conditions = world_conditions(facts, conditions_of(stored))
    return without_empty(
        {
            "observedGeneration": world.metadata.generation,
            "conditions": merged_conditions(
                conditions_of(stored), conditions, generation=world.metadata.generation, now_ms=facts.now_ms
            ),
            "phase": phase(facts, conditions),
            "genesisHash": facts.genesis_hash,
            "head": _head(facts, before.get("head") or {}),
            "sequencer": _sequencer(facts),
            "validators": _validators(facts),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(selector(world.name, "validator").items())),
            "directory": _directory(facts, before.get("directory") or {}),
            "revocations": _revocations(facts),
            "revokedKeys": len(facts.statements),
            "evidence": evidence_rows(facts, before.get("evidence") or []),
            "endpoints": _endpoints(facts),
        }
    )


def invalid_status(stored: Object, reason: str, message: str, *, now_ms: int) -> dict[str, Any]:
    """Returns the status of a resource whose spec breaks a rule: all else stays as it was, and so does what runs."""
    before = conditions_of(stored)
    generation = int(stored["metadata"].get("generation") or 0)
    ready = Condition(type=reasons.READY, status=FALSE, reason=reason, message=message)
    kept = [
        Condition(
            type=kind,
            status=str(item.get("status")),
            reason=str(item.get("reason")),
            message=str(item.get("message")),
        )
        for kind, item in before.items()
        if kind != reasons.READY
    ]
    conditions = merged_conditions(before, [ready, *kept], generation=generation, now_ms=now_ms)
    status = {**(stored.get("status") or {}), "observedGeneration": generation, "conditions": conditions}
    if stored["kind"] == "World":
        status["phase"] = "Invalid"
    return status


def phase(facts: WorldFacts, conditions: list[Condition]) -> str:
    """Returns the conditions in one word, for people."""
    by_type = {condition.type: condition for condition in conditions}
    spec = facts.topology.world.spec
    if spec.paused:
        return "Paused"
    if spec.hibernated:
        return "Hibernated"
    if by_type[reasons.READY].reason in (reasons.INVALID_SPEC, reasons.INVALID_GENESIS):
        return "Invalid"
    if by_type[reasons.INITIALIZED].status != TRUE:
        return "Pending"
    if by_type[reasons.QUORUM_AVAILABLE].reason == reasons.QUORUM_LOST:
        return "QuorumLost"
    if by_type[reasons.READY].status != TRUE:
        return "Starting"
    if by_type[reasons.DEGRADED].status == TRUE:
        return "Degraded"
    return "Progressing" if by_type[reasons.PROGRESSING].status == TRUE else "Ready"


def _head(facts: WorldFacts, before: Mapping[str, Any]) -> Mapping[str, Any]:
    head = facts.head
    if head is None or head.height < int(before.get("height") or 0):
        # Nobody who knows it answers just now; a committed head never goes back.
        return before
    return without_empty(
        {
            "height": head.height,
            "blockHash": head.block_hash,
            "stateRoot": head.state_root,
            "time": timestamp(head.time_ms) if head.time_ms else "",
            "term": head.term,
            "signers": head.signers,
        }
    )


def _sequencer(facts: WorldFacts) -> dict[str, Any]:
    holder, term = facts.writer
    trouble = facts.lease_trouble()
    return {
        # A stranger that somebody has written into the Lease writes nothing.
        "holder": "" if trouble is not None and trouble[0] == reasons.UNKNOWN_WRITER else holder,
        "term": term,
        "lease": names.sequencer_lease(facts.topology.world.name),
    }


def _validators(facts: WorldFacts) -> dict[str, Any]:
    desired = len(facts.topology.members)
    ready = sum(1 for node in facts.topology.members if facts.pod(node.name).ready and facts.can_vote(node))
    in_sync = [node for node in facts.topology.members if node.name in facts.statuses]
    if facts.directory is not None:
        quorum = quorum_weight(facts.directory)
    else:
        quorum = needed_weight(facts.topology.quorum.total_weight, facts.topology.world.spec.consensus.fault_model)
    return {
        "desired": desired,
        "ready": ready,
        "inSync": sum(1 for node in in_sync if facts.statuses[node.name].in_sync),
        "quorum": quorum,
        "tolerates": facts.topology.quorum.tolerates,
        "summary": f"{ready}/{desired}",
    }


def _directory(facts: WorldFacts, before: Mapping[str, Any]) -> Mapping[str, Any]:
    if facts.directory is None:
        return before
    return {
        "epoch": facts.directory.epoch,
        "hash": directory_hash(facts.directory),
        "appliedBy": len(facts.listeners) - len(facts.behind_directory()),
    }


def _revocations(facts: WorldFacts) -> list[dict[str, Any]]:
    rows = []
    listeners = len(facts.listeners)
    for key_id, statement in sorted(facts.statements.items()):
        pending = facts.unconfirmed(key_id)
        rows.append(
            without_empty(
                {
                    "keyId": key_id,
                    "reason": statement.reason,
                    "revokedAt": timestamp(statement.revoked_at_ms),
                    "statement": statement_id(statement),
                    "appliedBy": listeners - len(pending),
                    "pendingNodes": pending,
                }
            )
        )
    return rows


def _endpoints(facts: WorldFacts) -> dict[str, Any]:
    world = facts.topology.world
    if not world.spec.gateway.replicas:
        return {}
    host = f"{names.gateway(world.name)}.{world.metadata.namespace}.svc"
    return {"gateway": f"http://{host}:{world.spec.gateway.service_port}"}
