"""What an edit may change: the cases that a real API server judges by CEL are judged the same by ``check_change``."""

from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.topology.changes import check_change, without_effect
from agentworld_core.topology.plan import world_parameters
from agentworld_core.topology.resources import MembershipKey, Validator, World, parse_manifest
from tests.chart.cases import CASES, Case, key, validator, world

EDITS = [case for case in CASES if case.before is not None]


def settled(case: Case) -> bool:
    status = (case.before or {}).get("status", {})
    initialized = any(item["status"] == "True" for item in status.get("conditions", ()))
    return bool(status.get("genesisHash") or status.get("keys") or initialized)


@pytest.mark.parametrize("case", EDITS, ids=lambda case: case.name)
def test_an_edit_is_judged_as_the_schema_judges_it(case: Case) -> None:
    violations = check_change(parse_manifest(case.before), parse_manifest(case.manifest), settled=settled(case))

    if case.says:
        assert any(case.says in violation.message for violation in violations)
        assert all(violation.field and violation.field.startswith("spec.") for violation in violations)
        assert all(violation.remedy for violation in violations)
    else:
        assert violations == []


def test_the_schema_has_no_rule_that_is_not_judged_here() -> None:
    assert len([case for case in EDITS if case.says]) >= 20


@pytest.mark.parametrize("manifest", [world(), validator(), key()], ids=["World", "Validator", "MembershipKey"])
def test_the_same_manifest_again_is_allowed(manifest: dict[str, object]) -> None:
    assert check_change(parse_manifest(manifest), parse_manifest(manifest)) == []


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [("10Gi", "10Gi", True), ("10Gi", "10240Mi", True), ("1.5Gi", "1536Mi", True), ("1Gi", "1G", False),
     ("1000m", "1", True), ("1", "999m", False), ("1Ti", "1023Gi", False), ("2k", "2000", True)],
)  # fmt: skip
def test_sizes_are_compared_by_their_amount(before: str, after: str, allowed: bool) -> None:
    old = parse_manifest(world("validators.template.storage.size", before))
    new = parse_manifest(world("validators.template.storage.size", after))

    assert (check_change(old, new) == []) is allowed


def test_all_violations_are_named_at_once() -> None:
    old = parse_manifest(key(generation=4))
    new = parse_manifest(key(generation=2, validator="aurora-1", world="borealis"))

    assert [violation.field for violation in check_change(old, new)] == [
        "spec.world",
        "spec.validator",
        "spec.generation",
    ]


def test_different_objects_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different objects"):
        check_change(parse_manifest(key(name="a")), parse_manifest(key(name="b")))
    with pytest.raises(ValueError, match="different objects"):
        check_change(parse_manifest(validator(name="a")), parse_manifest(key(name="a")))


def test_what_the_genesis_has_fixed_is_named_when_it_is_asked_for_otherwise() -> None:
    first = parse_manifest(world())
    assert isinstance(first, World)
    parameters = world_parameters(first)
    edited = parse_manifest(world(consensus={"blockInterval": "2s"}, storage={"snapshotInterval": 9}))
    assert isinstance(edited, World)

    assert without_effect(first, parameters) == []
    assert without_effect(edited, parameters) == ["spec.consensus.blockInterval", "spec.storage.snapshotInterval"]


def test_every_parameter_of_the_genesis_is_compared() -> None:
    first = parse_manifest(world())
    assert isinstance(first, World)
    assert not isinstance(first, Validator | MembershipKey)
    parameters = world_parameters(first)
    other = {
        field.name: getattr(parameters, field.name) + 1
        for field in dataclasses.fields(parameters)
        if field.name != "leaseless"
    }

    assert len(without_effect(first, dataclasses.replace(parameters, **other))) == len(other)
