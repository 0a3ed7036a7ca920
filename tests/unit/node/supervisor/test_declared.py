"""What is declared: merging manifests, and what a merge refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agentworld_node.supervisor.declared import Declared, Outcome, declare
from agentworld_node.supervisor.manifests import RefusedManifests, parse_documents
from tests.unit.node.supervisor.fakes import declared, key, resource, world


def apply(
    current: Declared | None, *manifests: dict[str, Any], settled: bool = True, signing: Mapping[str, str] | None = None
) -> tuple[Declared, list[Outcome]]:
    given = parse_documents(("file.yaml", manifest) for manifest in manifests).given
    return declare(current, given, settled=settled, signing_keys=signing or {})


def complaints(current: Declared | None, *manifests: dict[str, Any], **options: Any) -> list[str]:
    with pytest.raises(RefusedManifests) as caught:
        apply(current, *manifests, **options)
    return [str(complaint) for complaint in caught.value.complaints]


def test_each_object_is_created_configured_or_unchanged() -> None:
    first, outcomes = apply(None, world(4), key())
    assert [(item.kind, item.name, item.change) for item in outcomes] == [
        ("World", "aurora", "created"),
        ("MembershipKey", "aurora-0", "created"),
    ]
    second, outcomes = apply(first, world(4), key(generation=2), key("aurora-1", "aurora-1"))
    assert [item.change for item in outcomes] == ["unchanged", "configured", "created"]
    assert len(second.items) == 3
    assert [item.change for item in apply(second, key(generation=2))[1]] == ["unchanged"]


def test_what_is_not_given_again_stays() -> None:
    first, _ = apply(None, world(4), key())

    assert apply(first, world(5))[0].keys == first.keys


def test_stored_manifests_are_read_back() -> None:
    first, _ = apply(None, world(4), key(), resource("Validator", "extra", world="aurora", weight=2))

    again = Declared.load(first.manifests(), source="world.json")
    assert (again.world, again.validators, again.keys) == (first.world, first.validators, first.keys)


def test_immutable_fields_are_refused_all_at_once() -> None:
    first, _ = apply(None, world(4), key(generation=2))

    said = complaints(first, world(4, worldId="b"), key(generation=1), key("aurora-1", "aurora-1"))
    assert len(said) == 2
    assert said[0].startswith("file.yaml: World aurora: spec.worldId: worldId cannot be changed")
    assert said[1].startswith("file.yaml: MembershipKey aurora-0: spec.generation: generation never goes back")


def test_genesis_may_change_until_it_is_made() -> None:
    first, _ = apply(None, world(4))
    edited = world(4, genesis={"parameters": {"gravity": 2}})

    assert apply(first, edited, settled=False)[1][0].change == "configured"
    assert "genesis cannot be changed once" in complaints(first, edited)[0]


@pytest.mark.parametrize(
    ("manifests", "says"),
    [
        ([key()], "there is no World"),
        ([world(4), resource("World", "borealis")], "one supervisor runs one World, and this one runs aurora"),
        ([world(4), key(world="borealis")], "names a World that does not run here"),
        ([world(0)], "leaves the world without validators"),
        ([world(4, governance={"keys": ["gone"]})], "names a MembershipKey that does not exist"),
        ([world(4), key(), key("second")], "is named by more than one MembershipKey"),
        ([world(4, gateway={"replicas": 1}), resource("Validator", "x", world="aurora", validatorId="aurora-0")],
         "is the id of more than one node"),
    ],
)  # fmt: skip
def test_a_world_that_could_not_start_is_refused(manifests: list[dict[str, Any]], says: str) -> None:
    assert any(says in complaint for complaint in complaints(None, *manifests))


def test_a_validator_keeps_the_name_of_its_key() -> None:
    first, _ = apply(None, world(4))
    signing = {"aurora-0": "aurora-0"}

    said = complaints(first, key("aurora-0-signing"), signing=signing)
    assert "Validator aurora-0 has signed with the keys of MembershipKey aurora-0" in said[0]
    assert "name the MembershipKey aurora-0" in said[0]
    assert apply(first, key("aurora-0", generation=2), signing=signing)[1][0].change == "created"


def test_a_replica_that_is_no_longer_asked_for_is_leaving() -> None:
    what = declared(world(4), resource("Validator", "extra", world="aurora"))

    topology = what.topology(["aurora-0", "aurora-3", "aurora-4", "extra"])
    assert [(node.node_id, node.leaving) for node in topology.nodes] == [
        ("aurora-0", False), ("aurora-1", False), ("aurora-2", False), ("aurora-3", False), ("aurora-4", True),
        ("extra", False),
    ]  # fmt: skip


def test_a_revocation_needs_a_time_that_can_be_read() -> None:
    said = complaints(None, world(4), key(revoked=[{"keyId": "a" * 32, "at": "yesterday"}]))

    assert "is not a time (got 'yesterday'); write it as 2026-01-31T12:00:00Z" in said[0]
