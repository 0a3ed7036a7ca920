"""Lets go of Validators and MembershipKeys that have left, and never holds up the end of a World."""

from __future__ import annotations

from agentworld_core.membership.directory import find_member
from agentworld_core.messages import Directory
from agentworld_core.topology.plan import IMPLIED_LABEL, Topology, is_surplus
from agentworld_operator.plan.keys import KEY_LABEL
from agentworld_operator.reconcile.apply import Applier
from agentworld_operator.reconcile.context import Context, Snapshot
from agentworld_operator.reconcile.reading import members_of
from agentworld_operator.resources import reasons
from agentworld_operator.resources.objects import (
    Object,
    belongs_to,
    data_of,
    is_deleting,
    label,
    name_of,
    uid_of,
)
from agentworld_operator.resources.status import FALSE, Condition, conditions_of, merge_patch, merged_conditions

FINALIZER = "agentworld.dev/leave"
"""Keeps a Validator that a person made until it has left the directory; those of replicas need none."""


async def release_orphans(context: Context, namespace: str, world: str) -> None:
    """Takes our finalizer from the Validators of a World that goes or is gone, and says so on what remains."""
    for kind in ("Validator", "MembershipKey"):
        for raw in members_of(world, await context.kube.find(kind, namespace)):
            if FINALIZER in (raw["metadata"].get("finalizers") or []):
                await _set_finalizer(context, raw, wanted=False)
            if is_deleting(raw):
                continue
            message = f"there is no World {world} in this namespace: make it, or delete this {kind}"
            condition = Condition(type=reasons.READY, status=FALSE, reason=reasons.WORLD_MISSING, message=message)
            stored = raw.get("status") or {}
            conditions = merged_conditions(
                conditions_of(raw),
                [condition],
                generation=int(raw["metadata"].get("generation") or 0),
                now_ms=context.now_ms(),
            )
            patch = merge_patch(stored, {**stored, "conditions": conditions})
            if patch:
                await context.kube.patch_status(kind, namespace, name_of(raw), patch)


async def release_validators(
    context: Context, applier: Applier, snapshot: Snapshot, topology: Topology, directory: Directory | None
) -> None:
    """Lets go of every Validator that has left the directory and whose pod is gone, with what was made for it."""
    pods = applier.ours("Pod")
    for name, raw in snapshot.raw_validators.items():
        node = next((node for node in topology.nodes if node.name == name and node.kind == "validator"), None)
        if node is None:
            continue
        implied = label(raw, IMPLIED_LABEL) == "true"
        member = directory is None or find_member(directory, node.node_id) is not None
        if not implied and not is_deleting(raw) and directory is not None:
            await _set_finalizer(context, raw, wanted=member)
        if member or name in pods or not node.leaving:
            continue
        if is_deleting(raw):
            await _set_finalizer(context, raw, wanted=False)
        elif implied and is_surplus(topology.world, topology.validator(name)):
            await _delete(context, raw)
    await _release_keys(context, applier, snapshot, topology, directory)


async def _release_keys(
    context: Context, applier: Applier, snapshot: Snapshot, topology: Topology, directory: Directory | None
) -> None:
    """Deletes implied MembershipKeys of validators that are gone, and the Secrets of keys that nothing trusts."""
    if directory is None:
        return
    validators = [validator.name for validator in topology.validators]
    for raw in snapshot.raw_keys.values():
        implied = label(raw, IMPLIED_LABEL) == "true" and belongs_to(raw, topology.world.metadata.uid)
        owner = str((raw.get("spec") or {}).get("validator", ""))
        if implied and owner and owner not in validators and not is_deleting(raw):
            await _delete(context, raw)
    trusted = [entry.key_id for member in directory.members for entry in member.keys]
    trusted += [entry.key_id for entry in directory.governance]
    existing = [key.name for key in topology.keys]
    for secret in list(applier.ours("Secret").values()):
        key = label(secret, KEY_LABEL)
        if key and key not in existing and _key_id(secret) not in trusted:
            await applier.remove(secret)


async def _set_finalizer(context: Context, raw: Object, *, wanted: bool) -> None:
    present = list(raw["metadata"].get("finalizers") or [])
    if (FINALIZER in present) == wanted:
        return
    finalizers = [*present, FINALIZER] if wanted else [item for item in present if item != FINALIZER]
    patch = {"metadata": {"finalizers": finalizers or None, "resourceVersion": raw["metadata"]["resourceVersion"]}}
    await context.kube.patch(raw["kind"], raw["metadata"]["namespace"], name_of(raw), patch)


async def _delete(context: Context, raw: Object) -> None:
    await context.kube.delete(raw["kind"], raw["metadata"]["namespace"], name_of(raw), uid=uid_of(raw))


def _key_id(secret: Object) -> str:
    return data_of(secret).get("key-id", b"").decode(errors="replace").strip()
