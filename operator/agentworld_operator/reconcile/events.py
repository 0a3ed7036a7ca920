"""Events for people: one for each change of fact, found by comparing the stored status with the new one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from agentworld_operator.errors import KubernetesError
from agentworld_operator.kube.port import KubeApi
from agentworld_operator.resources import reasons
from agentworld_operator.resources.objects import MANAGER, Object, digest_of, name_of, uid_of
from agentworld_operator.resources.status import FALSE, TRUE, conditions_of, timestamp

log = logging.getLogger(__name__)

NORMAL, WARNING = "Normal", "Warning"
_STALLED = (reasons.KEY_REFUSED, reasons.REVOCATION_REFUSED, reasons.REVOCATION_STALLED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Happened:
    """One change of fact."""

    type: str
    reason: str
    message: str


def world_events(stored: Object, status: Mapping[str, Any]) -> list[Happened]:
    """Returns what changed for a World between its stored status and the new one."""
    before = stored.get("status") or {}
    return [*_world_conditions(stored, status), *_writer(before, status), *_revocations(before, status)]


def validator_events(stored: Object, status: Mapping[str, Any], *, epoch: int) -> list[Happened]:
    """Returns what changed for a Validator; ``epoch`` is that of the directory by which it is a member or not."""
    name, before = name_of(stored), stored.get("status") or {}
    result = list(_invalid(stored, status))
    old, new = _condition(stored, reasons.MEMBER), _of(status, reasons.MEMBER)
    if new.get("status") == TRUE and old.get("status") != TRUE:
        says = f"{name} is a member of the directory of epoch {epoch}"
        result.append(Happened(type=NORMAL, reason=reasons.VALIDATOR_JOINED, message=says))
    if new.get("status") == FALSE and old.get("status") == TRUE:
        result.append(Happened(type=NORMAL, reason=reasons.VALIDATOR_LEFT, message=f"{name} has left the directory"))
    known = [row.get("hash") for row in before.get("evidence") or []]
    for row in status.get("evidence") or []:
        if row["hash"] in known:
            continue
        says = (
            f"{name} signed twice at height {row['height']} (evidence {row['hash']}): revoke its key"
            f" (spec.revoked of its MembershipKey) and find out who else holds it"
        )
        result.append(Happened(type=WARNING, reason=reasons.EQUIVOCATION, message=says))
    return result


def key_events(stored: Object, status: Mapping[str, Any]) -> list[Happened]:
    """Returns what changed for a MembershipKey."""
    before = stored.get("status") or {}
    result = list(_invalid(stored, status))
    old, new = before.get("activeKeyId"), status.get("activeKeyId")
    if old and new and old != new:
        says = f"{name_of(stored)} signs with key {new} instead of {old}"
        result.append(Happened(type=NORMAL, reason=reasons.KEY_ROTATED, message=says))
    return result


async def post(kube: KubeApi, about: Object, happened: Happened, *, now_ms: int) -> None:
    """Stores an Event about an object; an event that cannot be stored is logged and lost, the fact is in the status."""
    metadata = about["metadata"]
    moment = timestamp(now_ms)
    name = f"{name_of(about)[:200]}.{digest_of([uid_of(about), happened.reason, happened.message, now_ms])}"
    event: Object = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": name_of(about),
            "namespace": metadata["namespace"],
            "uid": uid_of(about),
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": happened.type,
        "reason": happened.reason,
        "message": happened.message[:1000],
        "count": 1,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "reportingInstance": MANAGER,
    }
    try:
        await kube.create(event)
    except KubernetesError as error:
        log.warning("event %s of %s: %s", happened.reason, name_of(about), error)


def _world_conditions(stored: Object, status: Mapping[str, Any]) -> Iterator[Happened]:
    yield from _invalid(stored, status)
    new = _of(status, reasons.INITIALIZED)
    if new.get("status") == TRUE and _condition(stored, reasons.INITIALIZED).get("status") != TRUE:
        yield Happened(type=NORMAL, reason=reasons.WORLD_INITIALIZED, message=str(new.get("message")))
    quorum = _of(status, reasons.QUORUM_AVAILABLE)
    had_quorum = _condition(stored, reasons.QUORUM_AVAILABLE).get("reason") != reasons.QUORUM_LOST
    if quorum.get("reason") == reasons.QUORUM_LOST and had_quorum:
        yield Happened(type=WARNING, reason=reasons.QUORUM_LOST, message=str(quorum.get("message")))
    degraded, was = _of(status, reasons.DEGRADED), _condition(stored, reasons.DEGRADED)
    quiet = (reasons.INVALID_SPEC, reasons.NODES_NOT_READY)
    news = degraded.get("reason") not in (*quiet, was.get("reason"))
    if degraded.get("status") == TRUE and news:
        yield Happened(type=WARNING, reason=str(degraded.get("reason")), message=str(degraded.get("message")))


def _invalid(stored: Object, status: Mapping[str, Any]) -> Iterator[Happened]:
    new, old = _of(status, reasons.READY), _condition(stored, reasons.READY)
    named = (reasons.INVALID_SPEC, reasons.INVALID_KEY, reasons.INVALID_GENESIS)
    if new.get("reason") in named and (new.get("reason"), new.get("message")) != (
        old.get("reason"),
        old.get("message"),
    ):
        yield Happened(type=WARNING, reason=str(new.get("reason")), message=str(new.get("message")))


def _writer(before: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Happened]:
    old, new = before.get("sequencer") or {}, status.get("sequencer") or {}
    if int(new.get("term") or 0) < int(old.get("term") or 0):
        return  # The term of nobody: see the condition Degraded.
    if new.get("holder") and (new.get("holder"), new.get("term")) != (old.get("holder"), old.get("term")):
        says = f"{new['holder']} orders the actions (term {new.get('term')})"
        yield Happened(type=NORMAL, reason=reasons.WRITER_CHANGED, message=says)


def _revocations(before: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Happened]:
    old = {row.get("keyId"): row for row in before.get("revocations") or []}
    for row in status.get("revocations") or []:
        known, pending = old.get(row["keyId"]), row.get("pendingNodes") or []
        if known is None:
            says = f"key {row['keyId']} is revoked ({row.get('reason', 'unspecified')})"
            yield Happened(type=NORMAL, reason=reasons.KEY_REVOKED, message=says)
        if not pending and (known is None or known.get("pendingNodes")):
            says = f"key {row['keyId']} is refused by all {row.get('appliedBy', 0)} nodes"
            yield Happened(type=NORMAL, reason=reasons.REVOCATION_CONVERGED, message=says)
    new = _of(status, reasons.REVOCATIONS_CONVERGED)
    was = {str(item.get("type")): item for item in before.get("conditions") or []}.get(
        reasons.REVOCATIONS_CONVERGED, {}
    )
    if new.get("reason") in _STALLED and new.get("reason") != was.get("reason"):
        yield Happened(type=WARNING, reason=reasons.REVOCATION_STALLED, message=str(new.get("message")))


def _condition(stored: Object, kind: str) -> Mapping[str, Any]:
    return conditions_of(stored).get(kind, {})


def _of(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    for item in status.get("conditions") or []:
        if item.get("type") == kind:
            return dict(item)
    return {}
