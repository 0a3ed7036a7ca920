"""The definitions keep the conventions of a Kubernetes API: structural, bounded, described, listed."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from agentworld_core.codec import encode
from agentworld_core.messages import Equivocation, Proposal
from tests.chart.crd import FILES, ROOT, Schema, crd, defaulted, nodes, refusals, schema, stored, version

KINDS = list(FILES)
DURATION = "A duration such as 500ms, 15s, 1m30s or 24h."
# What a structural schema may consist of here; everything else is a surprise (nullable, oneOf, $ref, …).
KEYWORDS = {
    "additionalProperties", "anyOf", "default", "description", "enum", "format", "items", "maxItems", "maxLength",
    "maxProperties", "maximum", "minItems", "minLength", "minimum", "pattern", "properties", "required", "type",
    "x-kubernetes-int-or-string", "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-validations",
}  # fmt: skip


def of_us(kind: str) -> Iterator[tuple[str, Schema]]:
    """Every schema of spec and status; apiVersion, kind and metadata are Kubernetes'."""
    for part in ("spec", "status"):
        yield from nodes(schema(kind)["properties"][part], part)


def where(kind: str, wrong: Any) -> list[str]:
    """The places where something is wrong; empty is what a test wants to see."""
    return [f"{kind} {path}" for path, node in of_us(kind) if wrong(node)]


@pytest.mark.parametrize(
    ("kind", "plural", "short"),
    [("World", "worlds", "aw"), ("Validator", "validators", "awv"), ("MembershipKey", "membershipkeys", "awk")],
)
def test_names_of_the_kinds(kind: str, plural: str, short: str) -> None:
    spec = crd(kind)["spec"]
    assert crd(kind)["metadata"] == {"name": f"{plural}.agentworld.dev"}
    assert (spec["group"], spec["scope"]) == ("agentworld.dev", "Namespaced")
    assert spec["names"] == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["agentworld"],
    }
    assert [(v["name"], v["served"], v["storage"]) for v in spec["versions"]] == [("v1alpha1", True, True)]
    assert spec.get("preserveUnknownFields", False) is False


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_are_structural(kind: str) -> None:
    def wrong(node: Schema) -> bool:
        typed = "type" in node or node.get("x-kubernetes-int-or-string") is True
        return not typed or not set(node) <= KEYWORDS

    assert where(kind, wrong) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str) -> None:
    described = [f"{path}.{name}" for path, node in of_us(kind) for name, child in node.get("properties", {}).items()
                 if len(child.get("description", "")) < 8 or not child["description"].endswith(".")]  # fmt: skip
    assert described == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_list_map_and_number_is_bounded(kind: str) -> None:
    needs = {"string": ["maxLength"], "array": ["maxItems"], "integer": ["minimum", "maximum", "format"]}

    def wrong(node: Schema) -> bool:
        if "additionalProperties" in node:
            return "maxProperties" not in node
        if node.get("x-kubernetes-int-or-string"):
            return "maxLength" not in node
        return not all(bound in node for bound in needs.get(node["type"], []))

    assert where(kind, wrong) == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_floats(kind: str) -> None:
    assert where(kind, lambda node: node.get("type") == "number") == []


@pytest.mark.parametrize("kind", KINDS)
def test_maps_have_typed_values_and_no_fields_of_their_own(kind: str) -> None:
    def wrong(node: Schema) -> bool:
        values = node.get("additionalProperties")
        return values is not None and (not isinstance(values, dict) or "properties" in node)

    assert where(kind, wrong) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_list_says_how_it_merges(kind: str) -> None:
    def wrong(node: Schema) -> bool:
        if node.get("type") != "array":
            return False
        merge, items = node.get("x-kubernetes-list-type"), node["items"]
        keys = node.get("x-kubernetes-list-map-keys", [])
        if merge == "map":
            return not keys or not set(keys) <= set(items["required"])
        return merge not in ("set", "atomic") or (merge == "set" and items["type"] != "string")

    assert where(kind, wrong) == []


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_are_durations_with_bounds(kind: str) -> None:
    named = re.compile(r"(Interval|Duration|Deadline|Period|Window|Backoff|\.backoff|\.interval|\.overlap)$")
    for path, node in nodes(schema(kind)["properties"]["spec"], "spec"):
        if named.search(path) and path != "spec.storage.snapshotInterval":
            assert node["description"].endswith(DURATION), path
            assert node["x-kubernetes-validations"], path


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_the_standard_ones(kind: str) -> None:
    conditions = schema(kind)["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["required"]) == {"type", "status", "lastTransitionTime", "reason", "message"}
    assert "observedGeneration" in conditions["items"]["properties"]


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_pass_their_own_schema_and_agree_with_the_fields(kind: str) -> None:
    """A default of an object repeats those of its fields: the API server checks rules before it fills them in."""
    for path, node in of_us(kind):
        default = node.get("default")
        if isinstance(default, dict) and default:
            declared = {name: child["default"] for name, child in node["properties"].items() if "default" in child}
            assert not declared or default == declared, path
            assert defaulted(default, node) == default, path


@pytest.mark.parametrize("kind", KINDS)
def test_rules_have_sentences(kind: str) -> None:
    for path, node in nodes(schema(kind)):
        for rule in node.get("x-kubernetes-validations", []):
            assert 15 < len(rule["message"]) < 200, path
            assert not rule["message"].endswith("."), path


def test_validators_of_a_world_and_by_hand_are_described_alike() -> None:
    template = schema("World")["properties"]["spec"]["properties"]["validators"]["properties"]["template"]
    by_hand = schema("Validator")["properties"]["spec"]["properties"]
    assert {name: by_hand[name] for name in template["properties"]} == template["properties"]


def test_the_largest_proof_fits_into_both_rows_of_evidence() -> None:
    top = 2**64 - 1
    signed = Proposal("w" * 63, top, top, top, top, top, "f" * 64, top, "v" * 63, "a" * 32, b"s" * 64)
    proof = base64.b64encode(encode(Equivocation(signed, signed))).decode()
    row = {"hash": "f" * 64, "proof": proof}
    metadata = {"name": "aurora", "namespace": "default"}
    manifests: list[Any] = [
        {"kind": "World", "spec": {}, "status": {"evidence": [{**row, "validator": "v"}]}},
        {"kind": "Validator", "spec": {"world": "aurora"}, "status": {"evidence": [row]}},
    ]
    for manifest in manifests:
        manifest |= {"apiVersion": "agentworld.dev/v1alpha1", "metadata": metadata}
        assert stored(manifest)["status"]["evidence"][0]["proof"] == proof, "it is not pruned"
        assert refusals(manifest) == []
        manifest["status"]["evidence"][0]["proof"] = "no base64"
        assert any("evidence[0].proof" in refusal for refusal in refusals(manifest))


def test_rows_of_evidence_are_described_alike() -> None:
    rows = [
        schema(kind)["properties"]["status"]["properties"]["evidence"]["items"]["properties"]
        for kind in ("World", "Validator")
    ]
    assert {name: child for name, child in rows[0].items() if name != "validator"} == rows[1]


def test_subresources() -> None:
    assert version("World")["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.validators.replicas",
            "statusReplicasPath": ".status.validators.ready",
            "labelSelectorPath": ".status.selector",
        },
    }
    assert version("Validator")["subresources"] == {"status": {}}
    assert version("MembershipKey")["subresources"] == {"status": {}}


@pytest.mark.parametrize(
    ("kind", "always", "wide"),
    [
        ("World", "Ready Phase Validators Height Writer Age", "State root,Epoch,Revoked,Dead letters"),
        ("Validator", "World Ready Phase Height Lag Age", "Weight,Epoch,Pod,Peer ID"),
        (
            "MembershipKey",
            "World,Purpose,Ready,Generation,Active key,Age",
            "Validator,Rotating,Converged,Next rotation",
        ),
    ],
)
def test_printer_columns(kind: str, always: str, wide: str) -> None:
    columns = version(kind)["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown == (always.split(",") if "," in always else always.split())
    assert [column["name"] for column in columns if column.get("priority") == 1] == wide.split(",")


@pytest.mark.parametrize("kind", KINDS)
def test_printer_columns_point_at_fields_of_their_type(kind: str) -> None:
    at = dict(nodes(schema(kind)))
    for column in version(kind)["additionalPrinterColumns"]:
        path = re.sub(r"\[\?\(@\.type==\"\w+\"\)\]", "[]", column["jsonPath"])
        if path.startswith(".metadata"):
            continue
        assert at[path]["type"] == column["type"], column["name"]


def test_the_smallest_world_is_six_lines_and_taken() -> None:
    text = (ROOT / "examples" / "kubernetes" / "world.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 6
    assert refusals(yaml.safe_load(text)) == []
    assert text.rstrip() in (ROOT / "docs" / "resources.md").read_text(encoding="utf-8")
