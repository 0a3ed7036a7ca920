"""Which fields of a manifest are accepted and checked but do not change anything yet.

They are reported in one condition, so that nobody believes in an effect that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentworld_core.genesis_module import GenesisModule, manifest_of
from agentworld_core.messages import Parameters
from agentworld_core.topology.node_config import ROLES
from agentworld_core.topology.resources import Resource, Validator, World
from agentworld_core.topology.world_spec import GenesisSpec, WorldSpec

_FIXED = {
    "block_interval_ms": "spec.consensus.blockInterval",
    "max_batch_actions": "spec.consensus.maxActions",
    "max_batch_bytes": "spec.consensus.maxPayloadBytes",
    "journal_events_per_segment": "spec.storage.journalEventsPerSegment",
    "snapshot_interval": "spec.storage.snapshotInterval",
}


def fixed_by_genesis(wanted: Parameters, genesis: Parameters) -> list[str]:
    """Returns the paths of fields that were changed after the genesis document had fixed them for ever."""
    return [path for name, path in _FIXED.items() if getattr(wanted, name) != getattr(genesis, name)]


def fixed_modules(wanted: GenesisSpec, genesis: Sequence[GenesisModule]) -> bool:
    """True when the spec names other modules than those that the genesis document has."""
    documents = [manifest_of(module, "modules") for module in genesis]
    has = [(document["module_id"], document["version"]) for document in documents]
    return sorted(has, key=str) != sorted([(item.module_id, item.version) for item in wanted.modules], key=str)


def not_effective(resource: Resource) -> list[str]:
    """Returns the paths of fields that are set to something other than their default and have no effect yet."""
    if isinstance(resource, Validator):
        return ["spec.roles"] if any(role not in ROLES for role in resource.spec.roles) else []
    if not isinstance(resource, World):
        return []
    given, plain = resource.spec, WorldSpec(world_id=resource.spec.world_id)
    candidates: list[tuple[str, object, object]] = [
        ("spec.genesis.state", dict(given.genesis.state), {}),
        ("spec.genesis.parameters", dict(given.genesis.parameters), {}),
        ("spec.observers.replicas", given.observers, 0),
        ("spec.network.republishInterval", given.network.republish_interval_ms, plain.network.republish_interval_ms),
        ("spec.storage.snapshotChunkBytes", given.storage.snapshot_chunk_bytes, plain.storage.snapshot_chunk_bytes),
        ("spec.storage.objectStore", dict(given.storage.object_store), {}),
    ]
    for section, spec_path in (("revocation", "spec.revocation"), ("replay", "spec.replay")):
        candidates.append((spec_path, getattr(given, section), getattr(plain, section)))
    return [path for path, value, default in candidates if value != default]
