"""Manifests, filters, change sets and patches: every wrong field is named, nothing is guessed (section 3.4, 3.5)."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentworld_core.errors import InvalidField
from agentworld_core.world.modules.changes import parse_changes
from agentworld_core.world.modules.documents import kind_matches, read_json
from agentworld_core.world.modules.filters import glob_matches, parse_filter
from agentworld_core.world.modules.governance_actions import GOVERNANCE_FIELDS
from agentworld_core.world.modules.manifest import ModuleLimits, parse_manifest
from agentworld_core.world.modules.output import CALL_CODES
from agentworld_core.world.modules.patches import Conflict, Operation, apply_patch, diff, merge, parse_patch
from agentworld_core.world.modules.shadow import REPORT_CODES
from tests.unit.core.world.modules.governed import LIMITS, manifest

HASH = "ab" * 32
GOOD = manifest("gate", HASH)


def test_a_manifest_is_read_with_its_defaults():
    needed = ("module_id", "name", "version", "kind", "wasm_hash", "interface_version", "exports")
    found = parse_manifest({name: GOOD[name] for name in needed})
    assert (found.role, found.limits, found.subscriptions, found.entry) == ("domain", ModuleLimits(), (), "call")
    assert set(dataclasses.astuple(ModuleLimits())) == {0}
    subscriptions = [
        {"event_kinds": ["a.b"]},
        {"action_kinds": ["a.*"]},
        {"action_kinds": ["*"], "stage": "post_action"},
    ]
    stages = [item.stage for item in parse_manifest({**GOOD, "subscriptions": subscriptions}).subscriptions]
    assert stages == ["post_event", "pre_action", "post_action"]


WRONG = [
    ("module_id", "Gate", "module_id"),
    ("module_id", "../gate", "module_id"),
    ("name", "", "name"),
    ("version", "1/2", "version"),
    ("version", "1" * 33, "version"),
    ("kind", "magic", "kind"),
    ("role", "king", "role"),
    ("wasm_hash", "b3:" + HASH, "wasm_hash"),
    ("interface_version", "wasm-2", "interface_version"),
    ("exports", [], "exports"),
    ("exports", ["reduce"], "exports"),
    ("exports", ["call", "a b"], "exports[1]"),
    ("required_caps", ["Mail"], "required_caps[0]"),
    ("limits", {"max_gas": -1}, "limits.max_gas"),
    ("limits", {"max_gas": True}, "limits.max_gas"),
    ("limits", {"max_time": 1}, "limits.max_time"),
    ("subscriptions", {}, "subscriptions"),
    ("subscriptions", [{}], "subscriptions[0]"),
    ("subscriptions", [{"event_kinds": ["a"], "action_kinds": ["a"]}], "subscriptions[0]"),
    ("subscriptions", [{"event_kinds": []}], "subscriptions[0].event_kinds"),
    ("subscriptions", [{"event_kinds": ["a*b"]}], "subscriptions[0].event_kinds[0]"),
    ("subscriptions", [{"event_kinds": ["a"], "stage": "pre_action"}], "subscriptions[0].stage"),
    ("subscriptions", [{"action_kinds": ["a"], "filters": []}, {"x": 1}], "subscriptions[1].x"),
    ("more", 1, "more"),
    ("name", 1.5, ""),
]


@pytest.mark.parametrize(("field", "value", "named"), WRONG)
def test_every_wrong_field_of_a_manifest_is_named(field, value, named):
    with pytest.raises(InvalidField) as caught:
        parse_manifest({**GOOD, field: value})
    assert caught.value.field == f"manifest.{named}".rstrip(".")


def test_every_needed_field_of_a_manifest_is_missed():
    for name in ("module_id", "name", "version", "kind", "wasm_hash", "interface_version", "exports"):
        with pytest.raises(InvalidField) as caught:
            parse_manifest({key: value for key, value in GOOD.items() if key != name})
        assert caught.value.field == f"manifest.{name}"
    with pytest.raises(InvalidField, match="exceed the limit"):
        parse_manifest({**GOOD, "name": "x" * 9000})


@pytest.mark.parametrize(
    ("pattern", "kind", "matches"),
    [
        ("*", "agent.move", True),
        ("agent.*", "agent.move", True),
        ("agent.*", "agents.move", False),
        ("agent.m*", "agent.move", True),
        ("agent.move", "agent.move", True),
        ("agent.move", "agent.moved", False),
    ],
)
def test_patterns_of_kinds(pattern, kind, matches):
    assert kind_matches(pattern, kind) is matches


DOCUMENT = {"kind": "trade.offer", "payload": {"n": 5, "flag": True, "list": [1, "a"], "a/b": {"~": None}}}


@pytest.mark.box("S0.3", "filters")
@pytest.mark.parametrize(
    ("rules", "matches"),
    [
        ([], True),
        ([{"path": "/payload/n", "eq": 5}], True),
        ([{"path": "/payload/n", "eq": "5"}], False),
        ([{"path": "/payload/flag", "eq": 1}], False),
        ([{"path": "/payload/flag", "eq": True}], True),
        ([{"path": "/payload/n", "ne": 4}], True),
        ([{"path": "/payload/missing", "ne": 4}], False),
        ([{"path": "/payload/n", "gt": 4}, {"path": "/payload/n", "lt": 6}], True),
        ([{"path": "/payload/n", "gt": 4}, {"path": "/payload/n", "lte": 4}], False),
        ([{"path": "/payload/flag", "gte": 0}], False),
        ([{"path": "/payload/list/1", "eq": "a"}], True),
        ([{"path": "/payload/list/01", "eq": "a"}], False),
        ([{"path": "/payload/list/2", "ne": "a"}], False),
        ([{"path": "/payload/a~1b/~0", "eq": None}], True),
        ([{"path": "/kind", "glob": "trade.*"}], True),
        ([{"path": "/payload/n", "glob": "*"}], False),
        ({"any": [{"path": "/payload/n", "eq": 1}, {"path": "/payload/n", "eq": 5}]}, True),
        ({"all": [{"path": "/payload/n", "eq": 5}], "any": [{"path": "/payload/n", "eq": 1}]}, False),
    ],
)
def test_filters_match_as_their_rules_say(rules, matches):
    assert parse_filter(rules, "filters").matches(DOCUMENT) is matches


@pytest.mark.box("S0.3", "filters")
@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({}, "filters"),
        ("all", "filters"),
        ([{"path": "/a"}], "filters[0]"),
        ([{"path": "/a", "eq": 1, "ne": 2}], "filters[0]"),
        ([{"path": "/a", "re": "(a+)+"}], "filters[0].re"),
        ([{"path": "a", "eq": 1}], "filters[0].path"),
        ([{"path": "/a~2", "eq": 1}], "filters[0].path"),
        ([{"path": "/a" * 17, "eq": 1}], "filters[0].path"),
        ([{"path": "/a", "eq": [1]}], "filters[0].eq"),
        ([{"path": "/a", "gt": "1"}], "filters[0].gt"),
        ([{"path": "/a", "glob": 1}], "filters[0].glob"),
        ({"any": [{"eq": 1}]}, "filters.any[0].path"),
        ([{"path": "", "eq": 1}] * 17, "filters"),
    ],
)
def test_filters_that_mean_nothing_are_named(rules, named):
    with pytest.raises(InvalidField) as caught:
        parse_filter(rules, "filters")
    assert caught.value.field == named


def _slow(pattern, text):
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(_slow(pattern[1:], text[place:]) for place in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and _slow(pattern[1:], text[1:])


@given(st.text("ab*?", max_size=6), st.text("ab", max_size=8))
def test_globs_match_like_their_definition(pattern, text):
    assert glob_matches(pattern, text) == _slow(pattern, text)


def test_a_json_document_is_read_as_what_it_says():
    assert parse_manifest(read_json(json.dumps(GOOD), "file")) == parse_manifest(GOOD)


@pytest.mark.parametrize(
    "text",
    ["", "{", "1.0", "1e3", "NaN", "-Infinity", '{"a": 1, "a": 1}', str(2**64), "[" * 18 + "]" * 18, "[" * 10**5],
)
def test_json_that_is_no_document_is_refused(text):
    with pytest.raises(InvalidField) as caught:
        read_json(text, "file")
    assert caught.value.field == "file"


def test_a_change_set_is_read_in_order_of_ids():
    gates = [manifest(name, HASH) for name in ("b", "a")]
    changes = parse_changes({"register": gates, "activate": [{"module_id": "a", "version": "1.0.0"}]})
    assert [item.module_id for item in changes.register] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "changes"),
        ({"install": []}, "changes.install"),
        ({"register": [1]}, "changes.register[0]"),
        ({"register": [{"module_id": "a"}]}, "changes.register[0].version"),
        ({"register": [GOOD, GOOD]}, "changes.register[1].module_id"),
        ({"activate": [{"module_id": "a", "version": ""}]}, "changes.activate[0].version"),
        ({"deactivate": [{"module_id": "a"}]}, "changes.deactivate[0].reason"),
        ({"upgrade": [{"module_id": "a"}]}, "changes.upgrade[0].from_version"),
        ({"activate": [{"module_id": f"m{n}", "version": "1"} for n in range(17)]}, "changes.activate"),
        ({"patch": [{"set": {"path": []}}]}, "changes.patch[0].set.value"),
        ({"patch": [{"set": {"path": [""], "value": 1}}]}, "changes.patch[0].set.path[0]"),
        ({"patch": [{}]}, "changes.patch[0]"),
        ({"new_version": 0}, "changes.new_version"),
    ],
)
def test_every_wrong_field_of_a_change_set_is_named(changes, named):
    with pytest.raises(InvalidField) as caught:
        parse_changes(changes)
    assert caught.value.field == named


@pytest.mark.box("S0.3", "patch")
def test_patches_set_replace_and_remove():
    content: dict[str, Any] = {"a": {"b": 1}, "c": 2}
    assert apply_patch(content, [Operation(("a", "x", "y"), 3)]) == {"a": {"b": 1, "x": {"y": 3}}, "c": 2}
    assert apply_patch(content, [Operation(("c", "d"), 3)]) == {"a": {"b": 1}, "c": {"d": 3}}
    assert apply_patch(content, [Operation((), {"z": 0})]) == {"z": 0}
    assert apply_patch(content, [Operation(("a", "b"), remove=True)]) == {"a": {}, "c": 2}
    assert content == {"a": {"b": 1}, "c": 2}


@pytest.mark.box("S0.3", "patch")
@pytest.mark.parametrize(
    "operation",
    [
        Operation(("a", "x"), remove=True),
        Operation(("c", "x"), remove=True),
        Operation((), remove=True),
        Operation((), 1),
        Operation(("module_changes",), {}),
        Operation(("a",), "x" * 40_000),
    ],
)
def test_patches_that_do_not_fit_are_refused(operation):
    with pytest.raises(InvalidField):
        apply_patch({"a": {}, "c": 2}, [operation])


def test_a_patch_cannot_nest_content_deeper_than_can_be_written():
    value: Any = 1
    for _ in range(12):
        value = {"a": value}
    with pytest.raises(InvalidField, match="nested too deep"):
        apply_patch({}, [Operation(("b", "c", "d", "e"), value)])


CONTENT = st.recursive(
    st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
CONTENTS = st.dictionaries(st.sampled_from("abc"), CONTENT, max_size=3)


@given(CONTENTS, CONTENTS)
def test_the_difference_of_two_contents_leads_from_one_to_the_other(before, after):
    operations = diff(before, after)
    assert apply_patch(before, operations) == after
    assert tuple(operations) == parse_patch([operation.to_value() for operation in operations], "patch")
    assert diff(after, after) == []


@pytest.mark.box("S0.3", "patch")
def test_merging_names_conflicts():
    one = [Operation(("a",), 1), Operation(("b", "c"), 2), Operation(("e",), 5)]
    other = [Operation(("a",), 3), Operation(("b",), 4), Operation(("d",), 4), Operation(("e",), 5)]
    merged, conflicts = merge(one, other)
    assert conflicts == [Conflict("same_path", ("a",), ("a",)), Conflict("prefix_overlap", ("b", "c"), ("b",))]
    assert Operation(("d",), 4) in merged
    assert merged.count(Operation(("e",), 5)) == 1


def test_the_guide_tells_what_there_is():
    text = (Path(__file__).parents[5] / "docs" / "governance.md").read_text(encoding="utf-8")
    example = text.split("```json")[1].split("```")[0]
    found = parse_manifest(read_json(re.sub("<content id.*>", HASH, example), "example"))
    assert (found.module_id, len(found.subscriptions)) == ("market", 2)
    for name in (*GOVERNANCE_FIELDS, *CALL_CODES, *REPORT_CODES, *GOOD, *LIMITS):
        assert f"`{name}`" in text or f'"{name}"' in text, name
    for fields in GOVERNANCE_FIELDS.values():
        assert all(f"`{field}`" in text for field in fields), fields
