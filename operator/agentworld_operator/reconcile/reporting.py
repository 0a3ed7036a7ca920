"""Writes statuses, each at most once a pass and only when it differs, and the events that follow from that.

A status differs from what was written before, not from what a server with older definitions has kept of it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from agentworld_operator.errors import KubernetesError
from agentworld_operator.plan.facts import WorldFacts
from agentworld_operator.plan.key_status import key_status
from agentworld_operator.plan.validator_status import validator_status
from agentworld_operator.plan.world_status import invalid_status, world_status
from agentworld_operator.reconcile import events
from agentworld_operator.reconcile.context import Context, Snapshot
from agentworld_operator.resources import reasons
from agentworld_operator.resources.objects import Object, name_of
from agentworld_operator.resources.status import merge_patch

log = logging.getLogger(__name__)

Differ = Callable[[Object, Mapping[str, Any]], list[events.Happened]]


async def report(context: Context, snapshot: Snapshot, facts: WorldFacts) -> None:
    """Writes the statuses of a World and of its Validators and MembershipKeys."""
    topology = facts.topology
    raw, seen = snapshot.raw_world, context.reported.seen(snapshot.raw_world)
    status = world_status(facts, seen)
    told = events.world_events(seen, status)
    await _write(context, raw, status)
    epoch = facts.directory.epoch if facts.directory is not None else 0
    validator_events = functools.partial(events.validator_events, epoch=epoch)
    for node in facts.validators:
        stored = snapshot.raw_validators.get(node.name)
        if stored is not None:
            status = validator_status(facts, node, context.reported.seen(stored))
            told += await _tell(context, stored, status, validator_events)
    for key in topology.keys:
        stored = snapshot.raw_keys.get(key.name)
        if stored is not None:
            status = key_status(facts, key, context.reported.seen(stored))
            told += await _tell(context, stored, status, events.key_events)
    for happened in told:
        await events.post(context.kube, raw, happened, now_ms=facts.now_ms)


async def report_invalid(context: Context, snapshot: Snapshot) -> None:
    """Says what is wrong with the manifests of a world; everything that runs is left as it is."""
    resources = [snapshot.raw_world, *snapshot.raw_validators.values(), *snapshot.raw_keys.values()]
    for raw in resources:
        error = snapshot.invalid.get(f"{raw['kind']} {name_of(raw)}")
        if error is not None:
            message = "; ".join(str(violation) for violation in error.violations)
        elif raw["kind"] == "World":
            message = "; ".join(str(invalid) for invalid in snapshot.invalid.values())
        else:
            continue
        status = invalid_status(raw, reasons.INVALID_SPEC, message, now_ms=context.now_ms())
        differ = events.world_events if raw["kind"] == "World" else events.key_events
        told = differ(raw, status)
        if await _write(context, raw, status):
            for happened in told:
                await events.post(context.kube, raw, happened, now_ms=context.now_ms())


async def _tell(context: Context, stored: Object, status: Mapping[str, Any], differ: Differ) -> list[events.Happened]:
    """Writes a status and returns what changed, after posting it about the resource itself."""
    told = differ(context.reported.seen(stored), status)
    if not await _write(context, stored, status):
        return []
    for happened in told:
        await events.post(context.kube, stored, happened, now_ms=context.now_ms())
    return told


async def _write(context: Context, stored: Object, status: Mapping[str, Any]) -> bool:
    """Patches the status where it differs from what we gave it, and returns whether; a resource may be gone by then."""
    patch = merge_patch(stored.get("status") or {}, status)
    if not patch or status == context.reported.seen(stored).get("status"):
        return False
    kind, namespace = stored["kind"], stored["metadata"]["namespace"]
    try:
        answer = await context.kube.patch_status(kind, namespace, name_of(stored), patch)
    except KubernetesError as error:
        if error.status != 404:
            raise
        log.debug("%s %s went before its status was written", kind, name_of(stored))
    else:
        context.reported.remember(answer, status)
    return True
