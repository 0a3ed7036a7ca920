"""What changes nothing on one machine is said, field by field."""

from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.topology.plan import world_parameters
from agentworld_core.topology.resources import World, parse_manifest
from agentworld_node.supervisor.meaning import notices
from tests.unit.node.supervisor.fakes import key, resource, world


def paths(lines: list[str]) -> list[str]:
    return [line.split(": ", 1)[1].split(" has no ")[0] for line in lines]


@pytest.mark.parametrize("manifest", [world(4), key(), resource("Validator", "v", world="aurora")])
def test_plain_manifests_mean_everything_they_say(manifest: dict[str, object]) -> None:
    assert notices(parse_manifest(manifest), None) == []


def test_what_only_a_cluster_can_do_is_named() -> None:
    template = {"storage": {"size": "1Gi", "storageClassName": "fast"}, "nodeSelector": {"disk": "ssd"}}
    manifest = world(
        4,
        image={"tag": "v2"},
        gateway={"service": {"type": "NodePort", "annotations": {"a": "b"}}},
        network={"port": 4002, "networkPolicy": False},
    )
    manifest["spec"]["validators"]["template"] = template
    manifest["metadata"]["namespace"] = "games"

    assert paths(notices(parse_manifest(manifest), None)) == [
        "metadata.namespace",
        "spec.image",
        "spec.validators.template.storage.size",
        "spec.validators.template.storage.storageClassName",
        "spec.validators.template.nodeSelector",
        "spec.gateway.service.type",
        "spec.gateway.service.annotations",
        "spec.network.port",
        "spec.network.networkPolicy",
    ]


def test_secrets_are_said_to_be_files_here() -> None:
    lines = notices(parse_manifest(key(secretRef={"name": "mine"})), None)
    assert paths(lines) == ["spec.secretRef"]
    assert lines[0].endswith("on one machine: the key is the file g<generation>.pem of the key's folder")
    validator = resource("Validator", "v", world="aurora", identity={"secretRef": {"name": "mine"}})
    assert "the identity is the node's identity.pem" in notices(parse_manifest(validator), None)[0]


def test_what_is_not_effective_yet_is_named() -> None:
    lines = notices(parse_manifest(world(4, observers={"replicas": 2})), None)

    assert lines == ["World aurora: spec.observers.replicas has no effect yet"]


def test_what_the_genesis_has_fixed_is_named() -> None:
    first = parse_manifest(world(4))
    assert isinstance(first, World)
    parameters = dataclasses.replace(world_parameters(first), block_interval_ms=5)

    assert notices(first, parameters) == [
        "World aurora: spec.consensus.blockInterval has no effect any more: the genesis document has fixed it"
    ]
