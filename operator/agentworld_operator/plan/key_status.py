"""The status of a MembershipKey: every generation with its state, and who has confirmed it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentworld_core.membership.rings import next_rotation_ms
from agentworld_core.membership.rotation import KeyState, Rotation
from agentworld_core.membership.steps import Done, MakeKey, PublishDirectory, SwitchSigning, Wait
from agentworld_core.membership.upkeep import keys_in_use
from agentworld_core.topology.resources import MembershipKey
from agentworld_operator.plan.facts import WorldFacts
from agentworld_operator.plan.keys import HeldKey, HeldKeys
from agentworld_operator.resources import reasons
from agentworld_operator.resources.status import (
    FALSE,
    TRUE,
    Condition,
    conditions_of,
    listing,
    merged_conditions,
    timestamp,
    without_empty,
)


def key_status(facts: WorldFacts, key: MembershipKey, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole status of a MembershipKey; ``stored`` is the resource as read."""
    held = facts.held.get(key.name) or HeldKeys(name=key.name)
    rotation = facts.plan.rotations.get(key.name) if facts.plan else None
    before = {row.get("keyId"): row for row in (stored.get("status") or {}).get("keys") or []}
    active = held.by_id(facts.active.get(key.name, ""))
    rows = [_row(facts, key, item, rotation, before.get(item.key_id) or {}) for item in held.keys]
    conditions = [_ready(facts, key, active), _rotating(rotation), _revocations(facts, key)]
    due = next_rotation_ms(key.spec, held.ring(facts.active.get(key.name, "")))
    generation = key.metadata.generation
    return without_empty(
        {
            "observedGeneration": generation,
            "conditions": merged_conditions(
                conditions_of(stored), conditions, generation=generation, now_ms=facts.now_ms
            ),
            "activeKeyId": active.key_id if active else "",
            "publicKey": active.public_key.hex() if active else "",
            "keys": rows[-64:],
            "nextRotationTime": timestamp(due) if due is not None else "",
        }
    )


def _row(
    facts: WorldFacts, key: MembershipKey, item: HeldKey, rotation: Rotation | None, before: Mapping[str, Any]
) -> dict[str, Any]:
    state = _state(facts, key, item, rotation, before)
    statement = facts.statements.get(item.key_id)
    pending = facts.unconfirmed(item.key_id) if statement else facts.behind_directory()
    if state is KeyState.RETIRED or facts.directory is None:
        pending = []
    since = item.progress.signing_since_ms if item.progress.signing_key_id == item.key_id else None
    return without_empty(
        {
            "keyId": item.key_id,
            "generation": item.number,
            "publicKey": item.public_key.hex(),
            "state": state.value,
            "notBefore": timestamp(since) if since else before.get("notBefore"),
            "notAfter": _not_after(facts, key, state, before),
            "revokedAt": timestamp(statement.revoked_at_ms) if statement else "",
            "reason": statement.reason if statement else "",
            "acknowledgedBy": len(facts.listeners) - len(pending),
            "pendingNodes": pending,
        }
    )


def _state(
    facts: WorldFacts, key: MembershipKey, item: HeldKey, rotation: Rotation | None, before: Mapping[str, Any]
) -> KeyState:
    if item.key_id in facts.statements:
        return KeyState.REVOKED
    for row in rotation.keys if rotation else ():
        if row.key_id == item.key_id:
            return row.state
    if before.get("state") in KeyState._value2member_map_:
        # The directory cannot be read just now: what was known stands.
        return KeyState(before["state"])
    return KeyState.ACTIVE if facts.active.get(key.name) == item.key_id else KeyState.PENDING


def _not_after(facts: WorldFacts, key: MembershipKey, state: KeyState, before: Mapping[str, Any]) -> str:
    """Returns until when a key is trusted, known once its successor signs."""
    held = facts.held.get(key.name)
    newest = held.newest if held else None
    if state is KeyState.RETIRING and newest is not None and newest.progress.signing_since_ms:
        return timestamp(newest.progress.signing_since_ms + key.spec.rotation.overlap_ms)
    return str(before.get("notAfter") or "") if state in (KeyState.RETIRED, KeyState.REVOKED) else ""


def _ready(facts: WorldFacts, key: MembershipKey, active: HeldKey | None) -> Condition:
    kind = reasons.READY
    problem = facts.complaints.keys.get(f"MembershipKey {key.name}")
    if problem is not None:
        return _no(kind, reasons.INVALID_KEY, str(problem))
    if key.name not in [used.name for used in keys_in_use(facts.topology)]:
        return _no(
            kind,
            reasons.NOT_IN_USE,
            "nothing signs with this key: name it in governance.keys of the World, or make the Validator that it names",
        )
    if active is None:
        return _no(kind, reasons.STARTING, "the key is being made")
    if active.key_id in facts.statements:
        return _no(kind, reasons.KEY_REVOKED, f"key {active.key_id} is revoked and being replaced")
    return Condition(type=kind, status=TRUE, reason=reasons.AS_EXPECTED)


def _rotating(rotation: Rotation | None) -> Condition:
    kind = reasons.ROTATING
    step = rotation.step if rotation else Done()
    if isinstance(step, MakeKey):
        return _so(kind, "MakeKey", f"generation {step.generation} is being made")
    if isinstance(step, PublishDirectory):
        return _so(kind, "PublishDirectory", f"a directory epoch is to {step.reason}")
    if isinstance(step, SwitchSigning):
        return _so(kind, "SwitchSigning", f"key {step.key_id} begins to sign")
    if isinstance(step, Wait) and step.reason != "NotAMember":
        until = f" until {timestamp(step.until_ms)}" if step.until_ms else ""
        waits_for = f": {listing(list(step.missing))}" if step.missing else ""
        told = {
            "NodesToConfirm": "every node has to confirm the directory that trusts the new key",
            "SignerToSwitch": "the validator has to sign with the new key before the old one may go",
            "Overlap": "the old key stays trusted for the overlap",
            "DirectoryPending": "a directory epoch is on its way",
            "AnotherChangePending": "another directory epoch is on its way first",
        }
        return _so(kind, step.reason, f"{told.get(step.reason, 'waiting')}{until}{waits_for}")
    return _no(kind, reasons.AS_EXPECTED, "")


def _revocations(facts: WorldFacts, key: MembershipKey) -> Condition:
    kind = reasons.REVOCATIONS_CONVERGED
    wanted = [entry.key_id for entry in key.spec.revoked]
    refused = [facts.revocations.refused[key_id] for key_id in wanted if key_id in facts.revocations.refused]
    if refused:
        return _no(kind, reasons.REVOCATION_REFUSED, "; ".join(refused))
    waiting = [key_id for key_id in wanted if key_id in facts.revocations.replace_first]
    if waiting:
        return _no(kind, reasons.REPLACED_FIRST, "a new key comes first: without it the world would have no quorum")
    unsigned = [key_id for key_id in wanted if key_id not in facts.statements]
    if unsigned:
        return _no(kind, reasons.NODES_PENDING, f"to be signed: {listing(unsigned)}")
    pending = list(dict.fromkeys(name for key_id in wanted for name in facts.unconfirmed(key_id)))
    if pending:
        return _no(kind, reasons.NODES_PENDING, f"not confirmed by {listing(pending)}")
    return Condition(type=kind, status=TRUE, reason=reasons.AS_EXPECTED)


def _so(kind: str, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=TRUE, reason=reason, message=message)


def _no(kind: str, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=FALSE, reason=reason, message=message)
