"""The governance of a running world: who may change its modules and rules, in which steps, and what each step means.

Every action here must be signed with a governance key of the directory that governs the height, except that anybody may
bring the receipt of an effect, which is signed by itself. A proposal goes from
``proposed`` over ``shadowed`` and ``approved`` to ``applied``, or to ``rejected`` from any of these. Who approves is
not the author; together their keys must reach the governance threshold, as under a directory, each counted once. Rules
of modules do not judge these actions: otherwise a bad rule could never be taken out of force.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentworld_core.codec import Value
from agentworld_core.errors import InvalidField
from agentworld_core.messages import ActionEnvelope
from agentworld_core.signing import key_id_of
from agentworld_core.world.errors import ActionRefused
from agentworld_core.world.modules import apply as events
from agentworld_core.world.modules import governance_actions as actions
from agentworld_core.world.modules.artifacts import Produced, put_piece, remove_artifact
from agentworld_core.world.modules.changes import Changes, Rollback, parse_changes
from agentworld_core.world.modules.effects import settle
from agentworld_core.world.modules.errors import SandboxMissing
from agentworld_core.world.modules.receipts import parse_receipt
from agentworld_core.world.modules.records import (
    APPROVED,
    MANIFEST_KEY,
    OPEN_STATES,
    PROPOSALS_KEY,
    PROPOSED,
    SHADOWED,
    ActiveRecord,
    CapabilityRecord,
    ChangesRecord,
    ManifestRecord,
    PreviousRecord,
    ProposalCount,
    ProposalRecord,
    ResourceRecord,
    active_key,
    capability_key,
    changes_key,
    manifest_hash,
    previous_key,
    proposal_key,
    resource_key,
)
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_core.world.modules.shadow import FAILED, Shadow
from agentworld_core.world.state import AgentRecord, Draft, agent_key

MAX_OPEN_PROPOSALS = 32

Payload = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Governance:
    """The keys that govern a height, and how many of them a change of the world's code needs."""

    key_ids: tuple[str, ...] = ()
    threshold: int = 1


NOBODY = Governance()


@dataclass(frozen=True, kw_only=True, slots=True)
class Office:
    """Where a governance action is judged: the state so far, who governs, the tick, and what checks code."""

    draft: Draft
    governance: Governance
    tick: int
    sandbox: Sandbox | None


def govern(office: Office, action: ActionEnvelope, payload: Payload) -> Produced:
    """Returns the events of a governance action; raises ActionRefused, SandboxMissing for code to check."""
    if action.action_kind not in BROUGHT_BY_ANYBODY and key_id_of(action.public_key) not in office.governance.key_ids:
        raise ActionRefused("unauthorized", f"no governance key signs {action.action_kind}")
    return _HANDLERS[action.action_kind](office, action, payload)


def _create(office: Office, action: ActionEnvelope, payload: Payload) -> Produced:
    manifest = _manifest(office)
    base = str(payload["base"])
    _check_base(base, manifest)
    count = office.draft.record(PROPOSALS_KEY, ProposalCount) or ProposalCount()
    if count.open >= MAX_OPEN_PROPOSALS:
        raise ActionRefused("invalid_state", f"{count.open} proposals are open: apply or reject one first")
    return [
        (
            events.PROPOSAL_CREATED,
            {
                "proposal": count.next,
                "author": action.actor_id,
                "key_id": key_id_of(action.public_key),
                "base": base,
                "changes": payload["changes"],
            },
        )
    ]


def _shadow(office: Office, _action: ActionEnvelope, payload: Payload) -> Produced:
    number, record = _proposal(office, payload, (PROPOSED,))
    _check_base(record.base, _manifest(office))
    document = _changes(office, number)
    changes = parse_changes(document)
    if office.sandbox is None and (changes.register or changes.upgrade):
        raise SandboxMissing("a proposal brings code that this node cannot check", field="proposal", value=number)
    report = _judge(office, changes, document, sandbox=office.sandbox)
    event: tuple[str, Payload] = (events.PROPOSAL_SHADOWED, {"proposal": number, "report": report})
    if report["status"] == FAILED:
        raise ActionRefused("shadow_failed", _first_error(report), instead=[event])
    return [event]


def _approve(office: Office, action: ActionEnvelope, payload: Payload) -> Produced:
    number, record = _proposal(office, payload, (SHADOWED,))
    key_id = key_id_of(action.public_key)
    if action.actor_id in _people(record):
        raise ActionRefused("unauthorized", f"{action.actor_id} is the author of this proposal, or has approved it")
    settled = _reached(office, [*_keys(record), key_id])
    approval: Payload = {"proposal": number, "approver": action.actor_id, "key_id": key_id, "settled": settled}
    return [(events.PROPOSAL_APPROVED, approval)]


def _apply(office: Office, _action: ActionEnvelope, payload: Payload) -> Produced:
    number, record = _proposal(office, payload, (APPROVED,))
    manifest = _manifest(office)
    _check_base(record.base, manifest)
    if not _reached(office, _keys(record)):
        raise ActionRefused("unauthorized", "keys that signed for this proposal govern no longer")
    document = _changes(office, number)
    changes = parse_changes(document)
    report = _judge(office, changes, document, sandbox=None)
    if report["status"] == FAILED:
        raise ActionRefused("shadow_failed", _first_error(report))
    try:
        version, content = changes.content_after(manifest)
    except InvalidField as error:  # the report has said so before
        raise ActionRefused("shadow_failed", error.message) from error
    found = manifest_hash(version, content)
    produced: Produced = [(events.PROPOSAL_APPLIED, {"proposal": number, "manifest_hash": found})]
    produced += [
        (events.MODULE_REGISTERED, {"manifest": item.manifest, "proposal": number}) for item in changes.register
    ]
    produced += [
        (events.MODULE_UPGRADED, {"from_version": item.upgrade_from, "manifest": item.manifest, "proposal": number})
        for item in changes.upgrade
    ]
    produced += [
        (events.MODULE_ACTIVATED, {"module_id": item.module_id, "version": item.version}) for item in changes.activate
    ]
    produced += [
        (events.MODULE_DEACTIVATED, {"module_id": item.module_id, "reason": item.reason}) for item in changes.deactivate
    ]
    produced += [(events.MODULE_ROLLED_BACK, _rolled_back(office, item)) for item in changes.rollback]
    updated: Payload = {"version": version, "content": content, "manifest_hash": found}
    return [*produced, (events.MANIFEST_UPDATED, updated)]


def _rolled_back(office: Office, item: Rollback) -> Payload:
    before = office.draft.record(previous_key(item.module_id), PreviousRecord)
    active = office.draft.record(active_key(item.module_id), ActiveRecord)
    assert before is not None, "the shadow report has said so"
    return {
        "module_id": item.module_id,
        "from_version": "" if active is None else active.version,
        "to_version": before.version,
        "since_tick": before.tick,
        "reason": item.reason,
    }


def _reject(office: Office, action: ActionEnvelope, payload: Payload) -> Produced:
    number, _ = _proposal(office, payload, OPEN_STATES)
    rejection: Payload = {"proposal": number, "by": action.actor_id, "reason": payload["reason"]}
    return [(events.PROPOSAL_REJECTED, rejection)]


def _grant(_office: Office, _action: ActionEnvelope, payload: Payload) -> Produced:
    return [(events.CAPABILITY_GRANTED, dict(payload))]


def _revoke(office: Office, _action: ActionEnvelope, payload: Payload) -> Produced:
    name = str(payload["capability"])
    if office.draft.record(capability_key(name), CapabilityRecord) is None:
        raise ActionRefused("not_found", f"there is no capability {name}")
    return [(events.CAPABILITY_REVOKED, dict(payload))]


def _set_policy(_office: Office, _action: ActionEnvelope, payload: Payload) -> Produced:
    return [(events.POLICY_SET, dict(payload))]


def _grant_resource(office: Office, _action: ActionEnvelope, payload: Payload) -> Produced:
    agent_id, kind, amount = str(payload["agent_id"]), str(payload["kind"]), payload["amount"]
    assert isinstance(amount, int)
    if office.draft.record(agent_key(agent_id), AgentRecord) is None:
        raise ActionRefused("not_found", f"{agent_id} is not registered")
    has = (office.draft.record(resource_key(agent_id, kind), ResourceRecord) or ResourceRecord()).amount
    if has + amount > actions.MAX_AMOUNT:
        raise ActionRefused("too_large", f"{agent_id} would have more than {actions.MAX_AMOUNT} of {kind}")
    return [(events.RESOURCES_GRANTED, dict(payload))]


def _settle_effect(office: Office, action: ActionEnvelope, payload: Payload) -> Produced:
    receipt = parse_receipt(payload["receipt"])
    governors = office.governance.key_ids
    return settle(office.draft, receipt, world_id=action.world_id, tick=office.tick, governors=governors)


def _manifest(office: Office) -> ManifestRecord:
    return office.draft.record(MANIFEST_KEY, ManifestRecord) or ManifestRecord()


def _check_base(base: str, manifest: ManifestRecord) -> None:
    if base != manifest.hash:
        raise ActionRefused(
            "stale_base", f"base: the manifest is {manifest.hash}, version {manifest.version}; propose again"
        )


def _proposal(office: Office, payload: Payload, states: Sequence[str]) -> tuple[int, ProposalRecord]:
    number = payload["proposal"]
    assert isinstance(number, int)
    record = office.draft.record(proposal_key(number), ProposalRecord)
    if record is None:
        raise ActionRefused("not_found", f"there is no proposal {number}")
    if record.state not in states:
        raise ActionRefused("invalid_state", f"proposal {number} is {record.state}, not {' or '.join(states)}")
    return number, record


def _changes(office: Office, number: int) -> Payload:
    record = office.draft.record(changes_key(number), ChangesRecord)
    assert record is not None, "an open proposal has its changes"
    return record.changes


def _judge(office: Office, changes: Changes, document: Payload, *, sandbox: Sandbox | None) -> Payload:
    shadow = Shadow(draft=office.draft, changes=changes, sandbox=sandbox, tick=office.tick)
    return shadow.judge(document)


def _first_error(report: Payload) -> str:
    match report["errors"]:
        case [{"code": code, "path": path, "message": message}, *_]:
            return f"{code} {path}: {message}"
    raise AssertionError("a failed report has errors")


def _people(record: ProposalRecord) -> list[str]:
    return [record.author, *(str(item["approver"]) for item in record.approvals)]


def _keys(record: ProposalRecord) -> list[str]:
    return [record.key_id, *(str(item["key_id"]) for item in record.approvals)]


def _reached(office: Office, key_ids: Sequence[str]) -> bool:
    return len({key for key in key_ids if key in office.governance.key_ids}) >= office.governance.threshold


_HANDLERS: dict[str, Callable[[Office, ActionEnvelope, Payload], Produced]] = {
    actions.ARTIFACT_PUT: lambda office, _action, payload: put_piece(office.draft, payload),
    actions.ARTIFACT_REMOVE: lambda office, _action, payload: remove_artifact(office.draft, payload),
    actions.PROPOSAL_CREATE: _create,
    actions.PROPOSAL_SHADOW: _shadow,
    actions.PROPOSAL_APPROVE: _approve,
    actions.PROPOSAL_APPLY: _apply,
    actions.PROPOSAL_REJECT: _reject,
    actions.CAPABILITY_GRANT: _grant,
    actions.CAPABILITY_REVOKE: _revoke,
    actions.POLICY_SET: _set_policy,
    actions.RESOURCE_GRANT: _grant_resource,
    actions.EFFECT_SETTLE: _settle_effect,
}
GOVERNANCE_KINDS = frozenset(_HANDLERS)
BROUGHT_BY_ANYBODY = frozenset({actions.EFFECT_SETTLE})
"""The kinds that any agent may bring: what counts is who signed what they carry."""
