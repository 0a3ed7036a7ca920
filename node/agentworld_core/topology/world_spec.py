"""The spec of a World: all fields with their defaults, and the rules they keep (spec of the custom resources)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from agentworld_core.ids import is_hash
from agentworld_core.messages import MAX_ACTIONS_PER_BATCH
from agentworld_core.ordering.rate import RateLimit
from agentworld_core.topology.delivery_spec import ReplaySpec, RevocationSpec, parse_replay, parse_revocation
from agentworld_core.topology.fields import Fields
from agentworld_core.topology.node_config import MAX_RATE, MAX_WORKERS
from agentworld_core.topology.pod_template import ImageSpec, PodTemplate, parse_image, parse_pod_template

MAX_REPLICAS = 100
_HOUR = 3_600_000
FAULT_MODELS = ("Byzantine", "Crash")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtifactSpec:
    """Where the code of a module is: in a key of a ConfigMap, or wherever a file has this content id (``blob``)."""

    config_map: str = ""
    key: str = ""
    blob: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModuleSpec:
    """A module of the genesis: its id, version and where its code is; its manifest is beside the code."""

    module_id: str
    version: str
    artifact: ArtifactSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenesisSpec:
    """What the world begins with beyond the built-in kernel."""

    modules: tuple[ModuleSpec, ...] = ()
    state: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidatorsSpec:
    """How many validators are made for the world, and from what."""

    replicas: int = 1
    template: PodTemplate = dataclasses.field(default_factory=PodTemplate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsensusSpec:
    """The fault model and the size and pace of blocks."""

    fault_model: str = "Byzantine"
    block_interval_ms: int = 1_000
    max_actions: int = 512
    max_payload_bytes: int = 524_288


@dataclasses.dataclass(frozen=True, kw_only=True)
class MempoolSpec:
    """How many actions may wait, in all, of one actor and of one source, for how long, and how many threads check them.

    ``max_per_source`` None is half of ``max_actions``; there and in ``expiry_ms`` 0 means no limit.
    ``verification_workers`` 0 means one for each core, up to eight.
    """

    max_actions: int = 10_000
    max_per_actor: int = 256
    max_per_source: int | None = None
    expiry_ms: int = 600_000
    verification_workers: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequencerSpec:
    """The timings of the writer's lease."""

    lease_duration_ms: int = 15_000
    renew_deadline_ms: int = 10_000
    retry_period_ms: int = 2_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class StorageSpec:
    """What a node keeps and in which pieces."""

    snapshot_chunk_bytes: int = 262_144
    journal_events_per_segment: int = 256
    snapshot_interval: int = 64
    retain_snapshots: int = 10
    max_blob_bytes: int = 0
    object_store: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatewaySpec:
    """How clients reach the world."""

    replicas: int = 1
    service_type: str = "ClusterIP"
    service_port: int = 8080
    service_annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rate_limit: RateLimit | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """How nodes reach each other."""

    port: int = 4001
    republish_interval_ms: int = 300_000
    network_policy: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class GovernanceSpec:
    """Whose signatures change the membership; no keys means one that is made for the world."""

    keys: tuple[str, ...] = ()
    threshold: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """Everything a World's manifest says, with defaults filled in."""

    world_id: str
    image: ImageSpec = dataclasses.field(default_factory=ImageSpec)
    genesis: GenesisSpec = GenesisSpec()
    validators: ValidatorsSpec = ValidatorsSpec()
    consensus: ConsensusSpec = ConsensusSpec()
    mempool: MempoolSpec = MempoolSpec()
    sequencer: SequencerSpec = SequencerSpec()
    storage: StorageSpec = StorageSpec()
    gateway: GatewaySpec = GatewaySpec()
    observers: int = 0
    network: NetworkSpec = NetworkSpec()
    revocation: RevocationSpec = dataclasses.field(default_factory=RevocationSpec)
    replay: ReplaySpec = dataclasses.field(default_factory=ReplaySpec)
    governance: GovernanceSpec = GovernanceSpec()
    paused: bool = False
    hibernated: bool = False
    deletion_policy: str = "Retain"


def parse_world_spec(fields: Fields, name: str) -> WorldSpec:
    """Reads ``spec`` of a World; what breaks a rule is noted in the reader."""
    observers = fields.section("observers")
    spec = WorldSpec(
        world_id=fields.identifier("worldId", name),
        image=parse_image(fields.section("image")),
        genesis=_genesis(fields.section("genesis")),
        validators=_validators(fields.section("validators")),
        consensus=_consensus(fields.section("consensus")),
        mempool=_mempool(fields.section("mempool")),
        sequencer=_sequencer(fields.section("sequencer")),
        storage=_storage(fields.section("storage")),
        gateway=_gateway(fields.section("gateway")),
        observers=observers.integer("replicas", 0, maximum=MAX_REPLICAS),
        network=_network(fields.section("network")),
        revocation=parse_revocation(fields.section("revocation")),
        replay=parse_replay(fields.section("replay")),
        governance=_governance(fields.section("governance")),
        paused=fields.boolean("paused"),
        hibernated=fields.boolean("hibernated"),
        deletion_policy=fields.choice("deletionPolicy", ("Retain", "Delete"), "Retain"),
    )
    observers.finish()
    fields.finish()
    return spec


def _genesis(fields: Fields) -> GenesisSpec:
    modules = []
    for item in fields.sections("modules", limit=64):
        module_id = item.identifier("moduleId", required=True)
        version = item.text("version", required=True, limit=32)
        artifact = _artifact(item.section("artifact"))
        item.finish()
        modules.append(ModuleSpec(module_id=module_id, version=version, artifact=artifact))
    if len(dict.fromkeys(module.module_id for module in modules)) != len(modules):
        fields.violate("modules", "names a module twice", remedy="give each moduleId once")
    genesis = GenesisSpec(
        modules=tuple(modules), state=fields.mapping("state"), parameters=fields.mapping("parameters")
    )
    fields.finish()
    return genesis


def _artifact(fields: Fields) -> ArtifactSpec:
    if len([name for name in ("configMapKeyRef", "blob") if fields.has(name)]) != 1:
        fields.violate("", "must name one source", remedy="give configMapKeyRef or blob")
    blob = fields.text("blob")
    if blob and not is_hash(blob):
        fields.violate("blob", "is no content id", value=blob, remedy="give the BLAKE3 of the code, 64 hex digits")
    given = fields.has("configMapKeyRef")
    reference = fields.section("configMapKeyRef")
    name = reference.text("name", required=given, limit=253)
    key = reference.text("key", required=given, limit=253)
    if name and _NAME.fullmatch(name) is None:
        reference.violate("name", "is no name of a ConfigMap", value=name, remedy="use a-z 0-9 - and . in between")
    if key and _KEY.fullmatch(key) is None:
        reference.violate("key", "is no key of a ConfigMap", value=key, remedy="use a-z A-Z 0-9 - _ .")
    reference.finish()
    fields.finish()
    return ArtifactSpec(config_map=name, key=key, blob=blob)


def _validators(fields: Fields) -> ValidatorsSpec:
    template = fields.section("template")
    spec = ValidatorsSpec(
        replicas=fields.integer("replicas", 1, maximum=MAX_REPLICAS), template=parse_pod_template(template)
    )
    template.finish()
    fields.finish()
    return spec


def _consensus(fields: Fields) -> ConsensusSpec:
    spec = ConsensusSpec(
        fault_model=fields.choice("faultModel", FAULT_MODELS, "Byzantine"),
        block_interval_ms=fields.duration("blockInterval", 1_000, minimum_ms=10, maximum_ms=_HOUR),
        max_actions=fields.integer("maxActions", 512, minimum=1, maximum=MAX_ACTIONS_PER_BATCH),
        max_payload_bytes=fields.integer("maxPayloadBytes", 524_288, minimum=1024, maximum=2**24),
    )
    fields.finish()
    return spec


def _mempool(fields: Fields) -> MempoolSpec:
    spec = MempoolSpec(
        max_actions=fields.integer("maxActions", 10_000, minimum=1, maximum=1_000_000),
        max_per_actor=fields.integer("maxPerActor", 256, minimum=1, maximum=4096),
        max_per_source=None
        if fields.raw("maxPerSource") is None
        else fields.integer("maxPerSource", 0, minimum=0, maximum=1_000_000),
        expiry_ms=fields.duration("expiry", 600_000, minimum_ms=0, maximum_ms=24 * _HOUR),
        verification_workers=fields.integer("verificationWorkers", 0, minimum=1, maximum=MAX_WORKERS),
    )
    if spec.max_per_actor > spec.max_actions:
        fields.violate(
            "maxPerActor",
            "must not exceed maxActions",
            value=spec.max_per_actor,
            remedy=f"use at most {spec.max_actions}, or raise maxActions",
        )
    fields.finish()
    return spec


def _sequencer(fields: Fields) -> SequencerSpec:
    spec = SequencerSpec(
        lease_duration_ms=fields.duration("leaseDuration", 15_000, minimum_ms=1_000, maximum_ms=_HOUR),
        renew_deadline_ms=fields.duration("renewDeadline", 10_000, minimum_ms=500, maximum_ms=_HOUR),
        retry_period_ms=fields.duration("retryPeriod", 2_000, minimum_ms=100, maximum_ms=_HOUR),
    )
    if spec.lease_duration_ms <= spec.renew_deadline_ms:
        fields.violate(
            "leaseDuration",
            "must be longer than renewDeadline",
            value=fields.raw("leaseDuration"),
            remedy="leaseDuration > renewDeadline > retryPeriod x 1.2; the defaults are 15s, 10s, 2s",
        )
    if spec.renew_deadline_ms * 10 <= spec.retry_period_ms * 12:
        fields.violate(
            "renewDeadline",
            "must be longer than retryPeriod x 1.2",
            value=fields.raw("renewDeadline"),
            remedy="leaseDuration > renewDeadline > retryPeriod x 1.2; the defaults are 15s, 10s, 2s",
        )
    fields.finish()
    return spec


def _storage(fields: Fields) -> StorageSpec:
    spec = StorageSpec(
        snapshot_chunk_bytes=fields.integer("snapshotChunkBytes", 262_144, minimum=4096, maximum=2**22),
        journal_events_per_segment=fields.integer("journalEventsPerSegment", 256, minimum=1, maximum=65_536),
        snapshot_interval=fields.integer("snapshotInterval", 64, minimum=1, maximum=1_000_000),
        retain_snapshots=fields.integer("retainSnapshots", 10, minimum=1, maximum=1_000),
        max_blob_bytes=fields.integer("maxBlobBytes", 0, minimum=2**20, maximum=2**53 - 1),
        object_store=fields.mapping("objectStore"),
    )
    fields.finish()
    return spec


def _gateway(fields: Fields) -> GatewaySpec:
    service = fields.section("service")
    spec = GatewaySpec(
        replicas=fields.integer("replicas", 1, maximum=MAX_REPLICAS),
        service_type=service.choice("type", ("ClusterIP", "NodePort", "LoadBalancer"), "ClusterIP"),
        service_port=service.integer("port", 8080, minimum=1, maximum=65_535),
        service_annotations=service.labels("annotations"),
        rate_limit=_rate_limit(fields.section("rateLimit"), given=fields.has("rateLimit")),
    )
    service.finish()
    fields.finish()
    return spec


def _rate_limit(fields: Fields, *, given: bool) -> RateLimit | None:
    if given and not fields.has("requestsPerSecond"):
        fields.violate("requestsPerSecond", "is required", remedy=f"give 1 to {MAX_RATE} a second")
    per_second = fields.integer("requestsPerSecond", 1, minimum=1, maximum=MAX_RATE)
    limit = RateLimit(per_second=per_second, burst=fields.integer("burst", per_second, minimum=1, maximum=MAX_RATE))
    fields.finish()
    return limit if given else None


def _network(fields: Fields) -> NetworkSpec:
    spec = NetworkSpec(
        port=fields.integer("port", 4001, minimum=1024, maximum=65_535),
        republish_interval_ms=fields.duration("republishInterval", 300_000, minimum_ms=1_000, maximum_ms=24 * _HOUR),
        network_policy=fields.boolean("networkPolicy", True),
    )
    if spec.port == 8080:
        fields.violate("port", "is the port of the node's HTTP server", value=8080, remedy="use another, such as 4001")
    fields.finish()
    return spec


def _governance(fields: Fields) -> GovernanceSpec:
    keys = fields.texts("keys", limit=16)
    spec = GovernanceSpec(keys=keys, threshold=fields.integer("threshold", 1, minimum=1, maximum=16))
    if spec.threshold > max(len(keys), 1):
        fields.violate(
            "threshold",
            "asks for more signatures than there are keys",
            value=spec.threshold,
            remedy=f"use at most {max(len(keys), 1)}, or name more keys in governance.keys",
        )
    fields.finish()
    return spec
