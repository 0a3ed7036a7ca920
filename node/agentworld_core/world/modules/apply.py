"""What the events of modules and of their governance mean: the part of ``apply_event`` that is about them.

Events that only report (a decision, a failed call, what a module emitted) change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agentworld_core.codec import Value
from agentworld_core.errors import StateMismatch
from agentworld_core.messages import WorldEvent
from agentworld_core.world.event_fields import existing, take
from agentworld_core.world.modules.receipts import params_hash_of
from agentworld_core.world.modules.records import (
    APPLIED,
    APPROVED,
    ARTIFACTS_KEY,
    EFFECTS_KEY,
    MANIFEST_KEY,
    POLICIES_KEY,
    PROPOSALS_KEY,
    PROPOSED,
    REJECTED,
    SHADOWED,
    ActiveRecord,
    ArtifactPiece,
    ArtifactRecord,
    ArtifactTotal,
    CapabilityRecord,
    ChangesRecord,
    EffectCount,
    EffectDue,
    EffectRecord,
    ManifestRecord,
    ModuleStateRecord,
    PolicyRecord,
    PreviousRecord,
    ProposalCount,
    ProposalRecord,
    RegistryRecord,
    ResourceRecord,
    active_key,
    artifact_key,
    capability_key,
    changes_key,
    effect_due_key,
    effect_key,
    module_state_key,
    piece_key,
    previous_key,
    proposal_key,
    registry_key,
    resource_key,
)
from agentworld_core.world.state import Draft

ARTIFACT_PUT = "artifact.put"
ARTIFACT_DISCARDED = "artifact.discarded"
ARTIFACT_REMOVED = "artifact.removed"
PROPOSAL_CREATED = "proposal.created"
PROPOSAL_SHADOWED = "proposal.shadowed"
PROPOSAL_APPROVED = "proposal.approved"
PROPOSAL_APPLIED = "proposal.applied"
PROPOSAL_REJECTED = "proposal.rejected"
MODULE_REGISTERED = "module.registered"
MODULE_UPGRADED = "module.upgraded"
MODULE_ACTIVATED = "module.activated"
MODULE_DEACTIVATED = "module.deactivated"
MODULE_ROLLED_BACK = "module.rolled_back"
MANIFEST_UPDATED = "manifest.updated"
CAPABILITY_GRANTED = "capability.granted"
CAPABILITY_REVOKED = "capability.revoked"
POLICY_SET = "policy.set"
RESOURCES_GRANTED = "resources.granted"
RESOURCES_CHARGED = "resources.charged"
EFFECT_QUEUED = "effect.queued"
EFFECT_SETTLED = "effect.settled"
EFFECT_EXPIRED = "effect.expired"
MODULE_STATE_UPDATED = "module.state_updated"
MODULE_CALL_FAILED = "module.call_failed"
MODULE_EMITTED = "module.emitted"
POLICY_DECIDED = "policy.decided"
RULE_DECIDED = "rule.decided"
ACTION_OVERRIDDEN = "action.overridden"
ACTION_TAKEN = "action.taken"

Payload = dict[str, Value]


def _artifact_put(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    artifact, index = take(payload, "artifact", str), take(payload, "index", int)
    count, data = take(payload, "count", int), take(payload, "data", bytes)
    key = artifact_key(artifact)
    record = draft.record(key, ArtifactRecord) or ArtifactRecord(count)
    if index != record.received or count != record.count or index >= count:
        raise StateMismatch("is not the next piece of this artifact", field="payload.index", value=index)
    draft.put(piece_key(artifact, index), ArtifactPiece(data))
    draft.put(key, replace(record, received=index + 1, size=record.size + len(data)))
    _grow_artifacts(draft, len(data))


def _artifact_gone(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    artifact = take(payload, "artifact", str)
    record = existing(draft, artifact_key(artifact), ArtifactRecord)
    if record.uses:
        raise StateMismatch("registered modules need it", field="payload.artifact", value=artifact)
    for index in range(record.received):
        draft.put(piece_key(artifact, index), None)
    draft.put(artifact_key(artifact), None)
    _grow_artifacts(draft, -record.size)


def _grow_artifacts(draft: Draft, by: int) -> None:
    total = draft.record(ARTIFACTS_KEY, ArtifactTotal) or ArtifactTotal()
    draft.put(ARTIFACTS_KEY, ArtifactTotal(total.size + by))


def _proposal_created(draft: Draft, event: WorldEvent, payload: Payload) -> None:
    number = take(payload, "proposal", int)
    count = draft.record(PROPOSALS_KEY, ProposalCount) or ProposalCount()
    if number != count.next:
        raise StateMismatch(f"the next proposal is {count.next}", field="payload.proposal", value=number)
    record = ProposalRecord(
        state=PROPOSED,
        author=take(payload, "author", str),
        key_id=take(payload, "key_id", str),
        base=take(payload, "base", str),
        report={},
        approvals=[],
        reason="",
        tick=event.tick,
    )
    draft.put(proposal_key(number), record)
    draft.put(changes_key(number), ChangesRecord(take(payload, "changes", dict)))
    draft.put(PROPOSALS_KEY, ProposalCount(number + 1, count.open + 1))


def _proposal_shadowed(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    key = proposal_key(take(payload, "proposal", int))
    report = take(payload, "report", dict)
    state = SHADOWED if report.get("status") == "ok" else PROPOSED
    draft.put(key, replace(existing(draft, key, ProposalRecord), report=report, state=state))


def _proposal_approved(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    key = proposal_key(take(payload, "proposal", int))
    record = existing(draft, key, ProposalRecord)
    approval: Payload = {name: take(payload, name, str) for name in ("approver", "key_id")}
    state = APPROVED if take(payload, "settled", bool) else record.state
    draft.put(key, replace(record, approvals=[*record.approvals, approval], state=state))


def _proposal_applied(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    _close(draft, take(payload, "proposal", int), APPLIED, "")


def _proposal_rejected(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    _close(draft, take(payload, "proposal", int), REJECTED, take(payload, "reason", str))


def _close(draft: Draft, number: int, state: str, reason: str) -> None:
    record = existing(draft, proposal_key(number), ProposalRecord)
    draft.put(proposal_key(number), replace(record, state=state, reason=reason))
    draft.put(changes_key(number), None)
    count = existing(draft, PROPOSALS_KEY, ProposalCount)
    draft.put(PROPOSALS_KEY, replace(count, open=count.open - 1))


def _module_registered(draft: Draft, event: WorldEvent, payload: Payload) -> None:
    manifest = take(payload, "manifest", dict)
    key = registry_key(take(manifest, "module_id", str), take(manifest, "version", str))
    draft.put(key, RegistryRecord(manifest, event.tick, take(payload, "proposal", int)))
    artifact = artifact_key(take(manifest, "wasm_hash", str))
    record = existing(draft, artifact, ArtifactRecord)
    draft.put(artifact, replace(record, uses=record.uses + 1))


def _module_activated(draft: Draft, event: WorldEvent, payload: Payload) -> None:
    module_id, version = take(payload, "module_id", str), take(payload, "version", str)
    active = draft.record(active_key(module_id), ActiveRecord)
    if active is None or active.version != version:
        _switch(draft, module_id, ActiveRecord(version), tick=event.tick)


def _module_deactivated(draft: Draft, event: WorldEvent, payload: Payload) -> None:
    module_id = take(payload, "module_id", str)
    existing(draft, active_key(module_id), ActiveRecord)
    _switch(draft, module_id, None, tick=event.tick)


def _module_rolled_back(draft: Draft, event: WorldEvent, payload: Payload) -> None:
    module_id = take(payload, "module_id", str)
    before = existing(draft, previous_key(module_id), PreviousRecord)
    _switch(draft, module_id, ActiveRecord(before.version) if before.version else None, tick=event.tick)
    draft.put(module_state_key(module_id), ModuleStateRecord(before.state) if before.state else None)


def _switch(draft: Draft, module_id: str, to: ActiveRecord | None, *, tick: int) -> None:
    """Puts another version of a module in force, or none, and keeps what a rollback needs."""
    active = draft.record(active_key(module_id), ActiveRecord)
    state = draft.record(module_state_key(module_id), ModuleStateRecord)
    kept = PreviousRecord(
        version="" if active is None else active.version, state=b"" if state is None else state.state, tick=tick
    )
    draft.put(previous_key(module_id), kept)
    draft.put(active_key(module_id), to)
    if (to is None) != (active is None):
        _count_active(draft, 1 if active is None else -1)


def _count_active(draft: Draft, by: int) -> None:
    record = draft.record(MANIFEST_KEY, ManifestRecord) or ManifestRecord()
    draft.put(MANIFEST_KEY, replace(record, active=record.active + by))


def _manifest_updated(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    record = draft.record(MANIFEST_KEY, ManifestRecord) or ManifestRecord()
    version, content = take(payload, "version", int), take(payload, "content", dict)
    draft.put(MANIFEST_KEY, replace(record, version=version, content=content))


def _capability_granted(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    signers = take(payload, "signers", list) if "signers" in payload else []
    record = CapabilityRecord(take(payload, "kinds", list), take(payload, "expires_tick", int), signers)
    draft.put(capability_key(take(payload, "capability", str)), record)


def _capability_revoked(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    key = capability_key(take(payload, "capability", str))
    existing(draft, key, CapabilityRecord)
    draft.put(key, None)


def _policy_set(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    draft.put(POLICIES_KEY, PolicyRecord(take(payload, "rules", list)))


def _resources_granted(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    _add_resource(draft, take(payload, "agent_id", str), take(payload, "kind", str), take(payload, "amount", int))


def _resources_charged(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    cost = take(payload, "cost", dict)
    for kind in sorted(cost):
        _add_resource(draft, take(payload, "actor_id", str), kind, -take(cost, kind, int))


def _add_resource(draft: Draft, agent_id: str, kind: str, amount: int) -> None:
    key = resource_key(agent_id, kind)
    found = (draft.record(key, ResourceRecord) or ResourceRecord()).amount + amount
    if found < 0:
        raise StateMismatch("the agent has less than that", field="payload", value=kind)
    draft.put(key, ResourceRecord(found) if found else None)


def _module_state_updated(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    record = ModuleStateRecord(take(payload, "state", bytes))
    draft.put(module_state_key(take(payload, "module_id", str)), record)


def _effect_queued(draft: Draft, event: WorldEvent, payload: Payload) -> None:
    number = take(payload, "intent", int)
    count = draft.record(EFFECTS_KEY, EffectCount) or EffectCount()
    if number != count.next:
        raise StateMismatch(f"the next intent is {count.next}", field="payload.intent", value=number)
    record = EffectRecord(
        module_id=take(payload, "module_id", str),
        kind=take(payload, "kind", str),
        tick=event.tick,
        cap_ref=take(payload, "cap_ref", str),
        params_hash=params_hash_of(payload.get("params")),
        expires_tick=take(payload, "expires_tick", int),
        ref=take(payload, "ref", str),
    )
    draft.put(effect_key(number), record)
    if record.expires_tick:
        draft.put(effect_due_key(record.expires_tick, number), EffectDue(number))
    draft.put(EFFECTS_KEY, EffectCount(number + 1, count.pending + 1))


def _effect_closed(draft: Draft, _event: WorldEvent, payload: Payload) -> None:
    number = take(payload, "intent", int)
    record = existing(draft, effect_key(number), EffectRecord)
    count = existing(draft, EFFECTS_KEY, EffectCount)
    draft.put(effect_key(number), None)
    if record.expires_tick:
        draft.put(effect_due_key(record.expires_tick, number), None)
    draft.put(EFFECTS_KEY, replace(count, pending=count.pending - 1))


def _reported(_draft: Draft, _event: WorldEvent, _payload: Payload) -> None:
    """Changes nothing: the event tells what happened, and others say what it changed."""


MODULE_EVENTS: dict[str, Callable[[Draft, WorldEvent, Payload], None]] = {
    ARTIFACT_PUT: _artifact_put,
    ARTIFACT_DISCARDED: _artifact_gone,
    ARTIFACT_REMOVED: _artifact_gone,
    PROPOSAL_CREATED: _proposal_created,
    PROPOSAL_SHADOWED: _proposal_shadowed,
    PROPOSAL_APPROVED: _proposal_approved,
    PROPOSAL_APPLIED: _proposal_applied,
    PROPOSAL_REJECTED: _proposal_rejected,
    MODULE_REGISTERED: _module_registered,
    MODULE_UPGRADED: _module_registered,
    MODULE_ACTIVATED: _module_activated,
    MODULE_DEACTIVATED: _module_deactivated,
    MODULE_ROLLED_BACK: _module_rolled_back,
    MANIFEST_UPDATED: _manifest_updated,
    CAPABILITY_GRANTED: _capability_granted,
    CAPABILITY_REVOKED: _capability_revoked,
    POLICY_SET: _policy_set,
    RESOURCES_GRANTED: _resources_granted,
    RESOURCES_CHARGED: _resources_charged,
    MODULE_STATE_UPDATED: _module_state_updated,
    EFFECT_QUEUED: _effect_queued,
    EFFECT_SETTLED: _effect_closed,
    EFFECT_EXPIRED: _effect_closed,
    MODULE_CALL_FAILED: _reported,
    MODULE_EMITTED: _reported,
    POLICY_DECIDED: _reported,
    RULE_DECIDED: _reported,
    ACTION_OVERRIDDEN: _reported,
    ACTION_TAKEN: _reported,
}
