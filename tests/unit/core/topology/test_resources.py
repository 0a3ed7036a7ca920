"""A manifest gets its defaults, and everything wrong with it is said at once."""

from typing import Any

import pytest

from agentworld_core.topology.effects import not_effective
from agentworld_core.topology.fields import InvalidManifest
from agentworld_core.topology.pod_template import ImageSpec
from agentworld_core.topology.resources import parse_manifest
from tests.unit.core.topology.manifests import key, manifest, validator, world


def test_the_smallest_world_has_all_defaults() -> None:
    spec = world(validators={"replicas": 4}).spec
    assert (spec.world_id, spec.validators.replicas, spec.deletion_policy) == ("aurora", 4, "Retain")
    assert (spec.consensus.fault_model, spec.consensus.block_interval_ms) == ("Byzantine", 1_000)
    assert (spec.consensus.max_actions, spec.consensus.max_payload_bytes) == (512, 524_288)
    assert (spec.mempool.max_actions, spec.mempool.max_per_actor) == (10_000, 256)
    lease = spec.sequencer
    assert (lease.lease_duration_ms, lease.renew_deadline_ms, lease.retry_period_ms) == (15_000, 10_000, 2_000)
    assert (spec.storage.snapshot_interval, spec.storage.retain_snapshots) == (64, 10)
    assert (spec.gateway.replicas, spec.gateway.service_type, spec.gateway.service_port) == (1, "ClusterIP", 8080)
    assert (spec.network.port, spec.network.network_policy) == (4001, True)
    assert (spec.governance.keys, spec.governance.threshold) == ((), 1)
    assert (spec.replay.interval_ms, spec.revocation.delivery.max_backoff_ms) == (60_000, 300_000)


def test_a_validator_and_a_key_have_all_defaults() -> None:
    spec = validator("aurora-0").spec
    assert (spec.validator_id, spec.weight, spec.roles) == ("aurora-0", 1, ("validator", "storage"))
    assert (spec.suspend, spec.drain, spec.template.storage_size) == (False, False, "10Gi")
    own = key("k", validator="aurora-0").spec
    assert (own.purpose, own.algorithm, own.generation) == ("Validator", "Ed25519", 1)
    assert (own.rotation.interval_ms, own.rotation.overlap_ms, own.revoked) == (0, 86_400_000, ())


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("World", {"worldId": "Aurora"}, "spec.worldId"),
        ("World", {"validators": {"replicas": -1}}, "spec.validators.replicas"),
        ("World", {"validators": {"replicas": True}}, "spec.validators.replicas"),
        ("World", {"validators": []}, "spec.validators"),
        ("World", {"sequencer": {"leaseDuration": "10s"}}, "spec.sequencer.leaseDuration"),
        ("World", {"sequencer": {"retryPeriod": "9s"}}, "spec.sequencer.renewDeadline"),
        ("World", {"sequencer": {"retryPeriod": "soon"}}, "spec.sequencer.retryPeriod"),
        ("World", {"mempool": {"maxActions": 5}}, "spec.mempool.maxPerActor"),
        ("World", {"mempool": {"maxPerSource": -1}}, "spec.mempool.maxPerSource"),
        ("World", {"mempool": {"expiry": "25h"}}, "spec.mempool.expiry"),
        ("World", {"mempool": {"verificationWorkers": 65}}, "spec.mempool.verificationWorkers"),
        ("World", {"consensus": {"faultModel": "Optimist"}}, "spec.consensus.faultModel"),
        ("World", {"consensus": {"maxActions": 4097}}, "spec.consensus.maxActions"),
        ("World", {"governance": {"threshold": 2}}, "spec.governance.threshold"),
        ("World", {"governance": {"keys": ["a", "a"]}}, "spec.governance.keys"),
        ("World", {"gateway": {"service": {"type": "Pigeon"}}}, "spec.gateway.service.type"),
        ("World", {"gateway": {"rateLimit": {}}}, "spec.gateway.rateLimit.requestsPerSecond"),
        ("World", {"gateway": {"rateLimit": {"burst": 9}}}, "spec.gateway.rateLimit.requestsPerSecond"),
        ("World", {"gateway": {"rateLimit": {"requestsPerSecond": 1, "burst": 0}}}, "spec.gateway.rateLimit.burst"),
        ("World", {"gateway": {"rateLimit": {"requestsPerSecond": 1, "per": 1}}}, "spec.gateway.rateLimit.per"),
        ("World", {"network": {"port": 8080}}, "spec.network.port"),
        ("World", {"genesis": {"modules": [{"moduleId": "m", "version": "1"}]}}, "spec.genesis.modules[0].artifact"),
        ("World", {"revocation": {"delivery": {"sinks": [{"pigeon": {}}]}}}, "spec.revocation.delivery.sinks[0]"),
        (
            "World",
            {"revocation": {"delivery": {"sinks": [{"webhook": {}}]}}},
            "spec.revocation.delivery.sinks[0].webhook.url",
        ),
        ("World", {"revocation": {"delivery": {"maxBackoff": "1s"}}}, "spec.revocation.delivery.maxBackoff"),
        ("World", {"storage": {"maxBlobBytes": "many"}}, "spec.storage.maxBlobBytes"),
        ("World", {"image": {"digest": "latest"}}, "spec.image.digest"),
        ("World", {"validatorz": {}}, "spec.validatorz"),
        ("Validator", {}, "spec.world"),
        ("Validator", {"world": "w", "weight": 0}, "spec.weight"),
        ("Validator", {"world": "w", "roles": ["storage"]}, "spec.roles"),
        ("Validator", {"world": "w", "roles": ["validator", "king"]}, "spec.roles"),
        ("Validator", {"world": "w", "identity": {"secretRef": {}}}, "spec.identity.secretRef.name"),
        ("MembershipKey", {"world": "w"}, "spec.validator"),
        ("MembershipKey", {"world": "w", "purpose": "Governance", "validator": "v"}, "spec.validator"),
        ("MembershipKey", {"world": "w", "validator": "v", "generation": 0}, "spec.generation"),
        ("MembershipKey", {"world": "w", "validator": "v", "algorithm": "RSA"}, "spec.algorithm"),
        ("MembershipKey", {"world": "w", "validator": "v", "rotation": {"interval": "47h"}}, "spec.rotation.interval"),
        ("MembershipKey", {"world": "w", "validator": "v", "revoked": [{"keyId": "x"}]}, "spec.revoked[0].keyId"),
        (
            "MembershipKey",
            {"world": "w", "validator": "v", "revoked": [{"keyId": "0" * 32}, {"keyId": "0" * 32}]},
            "spec.revoked[1].keyId",
        ),
    ],
)
def test_a_broken_rule_names_its_field(kind: str, spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(manifest(kind, "thing", spec))
    assert [violation.field for violation in caught.value.violations] == [field]
    assert field in str(caught.value)


def test_all_violations_are_collected() -> None:
    spec = {"worldId": "NO", "paused": "yes", "sequencer": {"retryPeriod": "1y"}, "nonsense": 1}
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(manifest("World", "aurora", spec))
    assert sorted(str(violation.field) for violation in caught.value.violations) == [
        "spec.nonsense",
        "spec.paused",
        "spec.sequencer.retryPeriod",
        "spec.worldId",
    ]


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"apiVersion": "v1", "kind": "World", "metadata": {"name": "a"}}, "apiVersion"),
        ({"apiVersion": "agentworld.dev/v1alpha1", "kind": "Planet", "metadata": {"name": "a"}}, "kind"),
        ({"apiVersion": "agentworld.dev/v1alpha1", "kind": "World", "metadata": {}}, "metadata.name"),
        ({"apiVersion": "agentworld.dev/v1alpha1", "kind": "World", "metadata": {"name": "a" * 53}}, "metadata.name"),
        ({"apiVersion": "agentworld.dev/v1alpha1", "kind": "World", "metadata": {"name": "a"}, "data": {}}, "data"),
    ],
)
def test_what_is_no_manifest_of_ours_is_refused(broken: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(broken)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize("junk", [None, [], "World", 7])
def test_junk_is_refused_with_an_error_not_a_crash(junk: object) -> None:
    with pytest.raises(InvalidManifest):
        parse_manifest(junk)


def test_metadata_of_an_api_server_is_read() -> None:
    given = manifest(
        "World", "aurora", {}, uid="u", generation=7, deletionTimestamp="2026-01-01T00:00:00Z", managedFields=[]
    )
    parsed = parse_manifest({**given, "status": {"phase": "Ready"}})
    assert (parsed.metadata.uid, parsed.metadata.generation, parsed.metadata.deleting) == ("u", 7, True)


def test_fields_without_effect_are_named_only_when_set() -> None:
    assert not_effective(world(gateway={"rateLimit": {"requestsPerSecond": 5}})) == []
    genesis = {
        "modules": [{"moduleId": "m", "version": "1", "artifact": {"blob": "0" * 64}}],
        "state": {"blob": "0" * 64},
        "parameters": {"a": 1},
    }
    assert not_effective(world(observers={"replicas": 1}, genesis=genesis, replay={"suspend": True})) == [
        "spec.genesis.state",
        "spec.genesis.parameters",
        "spec.observers.replicas",
        "spec.replay",
    ]
    assert not_effective(validator("v")) == []


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (ImageSpec(), "reg:5000/node:1"),
        (ImageSpec(tag="2"), "reg:5000/node:2"),
        (ImageSpec(digest="sha256:ab"), "reg:5000/node@sha256:ab"),
        (ImageSpec(repository="mine"), "mine:latest"),
        (ImageSpec(repository="mine", tag="3", digest="sha256:cd"), "mine@sha256:cd"),
    ],
)
def test_an_image_overrides_what_it_gives(image: ImageSpec, expected: str) -> None:
    assert image.reference("reg:5000/node:1") == expected
