"""The state of a world on one machine, as the control endpoint, the live table and ``agentworld status`` show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeState:
    """One node: its process, and what it said last."""

    name: str
    node_id: str
    kind: str
    phase: str
    pid: int | None = None
    restarts: int = 0
    url: str = ""
    height: int = 0
    lag: int = 0
    state_root: str = ""
    epoch: int = 0
    active_key_id: str = ""
    message: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyState:
    """One MembershipKey: its generations as (key id, generation, state), and what its rotation waits for."""

    name: str
    purpose: str
    validator: str
    active_key_id: str
    generations: tuple[Mapping[str, Any], ...] = ()
    waits_for: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RevocationState:
    """One revoked key and who has not confirmed it."""

    key_id: str
    reason: str
    applied_by: int
    pending_nodes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldState:
    """A whole world; ``problems`` need a person, ``notes`` say what is being waited for."""

    world: str
    world_id: str
    genesis_hash: str
    gateway: str
    data: str
    phase: str = "Starting"
    height: int = 0
    block_hash: str = ""
    state_root: str = ""
    writer: str = ""
    term: int = 0
    epoch: int = 0
    pending_epoch: int = 0
    voting: int = 0
    members: int = 0
    tolerates: int = 0
    nodes: tuple[NodeState, ...] = ()
    keys: tuple[KeyState, ...] = ()
    revocations: tuple[RevocationState, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settled: bool = False
    stalled: bool = False
    progress: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> WorldState:
        """Returns the state of a JSON form."""
        fields = dict(data)
        fields["nodes"] = tuple(NodeState(**item) for item in data["nodes"])
        fields["keys"] = tuple(KeyState(**{**item, "generations": tuple(item["generations"])}) for item in data["keys"])
        fields["revocations"] = tuple(
            RevocationState(**{**item, "pending_nodes": tuple(item["pending_nodes"])}) for item in data["revocations"]
        )
        fields["problems"], fields["notes"] = tuple(data["problems"]), tuple(data["notes"])
        return WorldState(**fields)


def differences(before: WorldState, after: WorldState) -> list[str]:
    """Returns a sentence for each change that a person who watches wants to read; heights are not among them."""
    lines: list[str] = []
    old_nodes = {node.node_id: node for node in before.nodes}
    for node in after.nodes:
        old = old_nodes.get(node.node_id)
        if old is None or old.phase != node.phase:
            lines.append(f"{node.kind} {node.node_id}: {node.phase.lower()}{_because(node.message)}")
        elif node.restarts > old.restarts:
            lines.append(f"{node.kind} {node.node_id} was started again{_because(node.message)}")
    gone = [node_id for node_id in old_nodes if node_id not in [node.node_id for node in after.nodes]]
    lines += [f"{old_nodes[node_id].kind} {node_id} has left" for node_id in gone]
    if after.writer and (after.writer, after.term) != (before.writer, before.term):
        lines.append(f"{after.writer} writes, term {after.term}")
    if after.epoch > before.epoch > 0:
        lines.append(f"directory epoch {after.epoch} is in force")
    old_keys = {key.name: key for key in before.keys}
    for key in after.keys:
        was = old_keys.get(key.name)
        if was is not None and key.active_key_id and was.active_key_id not in ("", key.active_key_id):
            lines.append(f"{key.name} signs with the key {key.active_key_id}")
    lines += _revocation_lines(before, after)
    lines += [f"problem: {problem}" for problem in after.problems if problem not in before.problems]
    lines += [f"no longer: {problem}" for problem in before.problems if problem not in after.problems]
    lines += [note for note in after.notes if note not in before.notes]
    if after.stalled and after.progress != before.progress:
        lines.append(f"stalled: {after.progress}")
    elif before.stalled and not after.stalled:
        lines.append("no longer stalled")
    if after.phase != before.phase:
        lines.append(f"world {after.world}: {after.phase.lower()}")
    return lines


def _revocation_lines(before: WorldState, after: WorldState) -> list[str]:
    lines = []
    known = {revocation.key_id: revocation for revocation in before.revocations}
    for revocation in after.revocations:
        old = known.get(revocation.key_id)
        if old is not None and revocation.pending_nodes == old.pending_nodes:
            continue
        waiting = ", ".join(revocation.pending_nodes)
        confirmed = f"not yet confirmed by {waiting}" if waiting else f"confirmed by all {revocation.applied_by} nodes"
        lines.append(f"key {revocation.key_id} is revoked, {confirmed}")
    return lines


def _because(message: str) -> str:
    return f" ({message})" if message else ""
