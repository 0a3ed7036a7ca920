"""The parser and the schemas of the API server accept and refuse the same values, and fill in the same defaults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentworld_core.topology.durations import format_duration, parse_duration
from agentworld_core.topology.fields import InvalidManifest
from agentworld_core.topology.resources import parse_manifest
from tests.unit.core.topology.manifests import manifest

CRDS = Path(__file__).parents[4] / "crds"
FILES = {"World": "world", "Validator": "validator", "MembershipKey": "membershipkey"}
SMALLEST: dict[str, dict[str, Any]] = {
    "World": {},
    "Validator": {"world": "w"},
    "MembershipKey": {"world": "w", "validator": "v"},
}
BOUNDS = re.compile(r"duration\(self\) >= duration\('(\w+)'\) && duration\(self\) <= duration\('(\w+)'\)")
# Kubernetes, not we, reads what is below these.
OPAQUE = (
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "resources",
    "objectStore",
    "artifact",
    "state",
    "secretRef",
)


def schema(kind: str) -> dict[str, Any]:
    document = yaml.safe_load((CRDS / f"{FILES[kind]}.yaml").read_text())
    spec: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return spec


def leaves(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yields every leaf outside of lists with its path."""
    for name, child in node.get("properties", {}).items():
        if name not in OPAQUE:
            yield from leaves(child, (*path, name)) if "properties" in child else [((*path, name), child)]


def nested(path: tuple[str, ...], value: object) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def violations(kind: str, path: tuple[str, ...], value: object) -> list[str]:
    """Returns the fields that the parser refuses when one field of the smallest manifest has the value."""
    try:
        parse_manifest(manifest(kind, "thing", SMALLEST[kind] | nested(path, value)))
    except InvalidManifest as error:
        return [str(violation.field) for violation in error.violations]
    return []


LEAVES = [(kind, path, leaf) for kind in FILES for path, leaf in leaves(schema(kind))]
INTEGERS = [(kind, path, leaf) for kind, path, leaf in LEAVES if leaf.get("type") == "integer"]
DURATIONS = [
    (kind, path, matched.groups())
    for kind, path, leaf in LEAVES
    for rule in leaf.get("x-kubernetes-validations", [])
    if (matched := BOUNDS.fullmatch(rule["rule"]))
]


def name(value: object) -> str:
    return ".".join(value) if isinstance(value, tuple) else str(value) if isinstance(value, str) else ""


@pytest.mark.parametrize(("kind", "path", "leaf"), LEAVES, ids=name)
def test_every_field_of_the_schema_is_known_and_its_default_is_fine(
    kind: str, path: tuple[str, ...], leaf: dict[str, Any]
) -> None:
    if "default" in leaf:
        assert violations(kind, path, leaf["default"]) == []
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(manifest(kind, "thing", SMALLEST[kind] | nested(path, object())))
    assert "is not a field" not in str(caught.value)


@pytest.mark.parametrize(("kind", "path", "leaf"), INTEGERS, ids=name)
def test_integers_have_the_same_bounds(kind: str, path: tuple[str, ...], leaf: dict[str, Any]) -> None:
    field = "spec." + ".".join(path)
    for outside in (leaf["minimum"] - 1, leaf["maximum"] + 1):
        assert field in violations(kind, path, outside)
    for inside in (leaf["minimum"], leaf["maximum"]):
        # A rule between two fields may speak up, naming one of them; the range itself must not.
        assert all("out of range" not in text for text in messages(kind, path, inside))


@pytest.mark.parametrize(("kind", "path", "bounds"), DURATIONS, ids=name)
def test_durations_have_the_same_bounds(kind: str, path: tuple[str, ...], bounds: tuple[str, str]) -> None:
    low, high = (parse_duration(bound, field="") for bound in bounds)
    for outside in [high + 1] + ([low - 1] if low else []):
        assert any("out of range" in text for text in messages(kind, path, format_duration(outside)))
    for inside in (low, high):
        assert all("out of range" not in text for text in messages(kind, path, format_duration(inside)))


def messages(kind: str, path: tuple[str, ...], value: object) -> list[str]:
    try:
        parse_manifest(manifest(kind, "thing", SMALLEST[kind] | nested(path, value)))
    except InvalidManifest as error:
        return [violation.message for violation in error.violations]
    return []


@pytest.mark.parametrize("kind", FILES)
def test_a_manifest_with_all_defaults_of_the_schema_means_the_same_as_one_without(kind: str) -> None:
    def filled(node: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for child_name, child in node.get("properties", {}).items():
            if isinstance(child.get("default"), dict):
                values[child_name] = {**child["default"], **filled(child)}
            elif "default" in child:
                values[child_name] = child["default"]
        return values

    spec = {**filled(schema(kind)), **SMALLEST[kind]}
    assert parse_manifest(manifest(kind, "thing", spec)) == parse_manifest(manifest(kind, "thing", SMALLEST[kind]))
