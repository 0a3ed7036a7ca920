"""Whatever a module returns and whatever governance signs, a step comes to events and receipts and to no error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentworld_core.codec import encode, encode_value
from agentworld_core.messages import EventSegment
from agentworld_core.world.kernel import replay_events
from agentworld_core.world.modules.governance import GOVERNANCE_KINDS, Governance
from agentworld_core.world.modules.governance_actions import GOVERNANCE_FIELDS
from agentworld_core.world.modules.output import CALL_CODES
from agentworld_core.world.modules.receipts import make_receipt, sign_receipt
from agentworld_core.world.modules.records import EffectRecord, read_manifest
from tests.unit.core.world.agents import WORLD, signer
from tests.unit.core.world.modules.governed import APPROVER, AUTHOR, GovernedWorld, manifest

UNKNOWN = make_receipt(
    EffectRecord("mod-a", "mail.send", 1, "post", "0" * 64, 0),
    world_id=WORLD,
    intent=1,
    status="done",
    result={"a": 1},
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from(
        ["rule.decision", "talk.a", "allow", "deny", "modify", "agent.move", "post", "0" * 64, 0, 1, 2**63]
    ),
)
WORDS = st.sampled_from(["new_state", "effects", "emits", "kind", "payload", "params", "verdict", "cost", "power"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=5)),
    max_leaves=12,
)


def fields(like: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A map with these fields, each of which may be anything else."""
    return st.fixed_dictionaries({key: mostly(like=item) for key, item in like.items()})


def mostly(*, like: Any) -> st.SearchStrategy[Any]:
    """The value, or one in which anything may be anything else."""
    if isinstance(like, dict):
        inner: st.SearchStrategy[Any] = fields(like)
    elif isinstance(like, list):
        inner = st.tuples(*[mostly(like=item) for item in like]).map(list)
    else:
        inner = st.just(like)
    return st.one_of(inner, inner, inner, inner, VALUES)


OUTPUT = {
    "new_state": b"s",
    "effects": [{"kind": "mail.send", "params": {"to": "x"}, "cap_ref": "post"}],
    "emits": [
        {"kind": "talk.a", "payload": [1]},
        {
            "kind": "rule.decision",
            "payload": {
                "action_id": "",
                "verdict": "modify",
                "override_action": {"kind": "agent.move", "payload": {"to": [1, 2]}},
                "cost": {"power": 1},
                "notes": "n",
            },
        },
    ],
}


@given(st.one_of(st.binary(max_size=40), mostly(like=OUTPUT)), st.sampled_from(["pre_action", "post_action"]))
@settings(max_examples=80)
def test_no_output_of_a_module_breaks_a_step(output, stage):
    world = GovernedWorld()
    world.enter("ada")
    world.do(AUTHOR, "capability.grant", {"capability": "post", "kinds": ["*"], "expires_tick": 0})
    world.do(AUTHOR, "policy.set", {"rules": [{"effect": "*", "module": "*", "decision": "allow", "reason": ""}]})

    def odd(given: dict[str, Any]) -> Any:
        if isinstance(output, dict) and isinstance(output.get("emits"), list):
            for emit in output["emits"]:
                if isinstance(emit, dict) and isinstance(emit.get("payload"), dict) and "action_id" in emit["payload"]:
                    emit["payload"]["action_id"] = given["action"]["action_id"]
        return output

    subscriptions = [{"action_kinds": ["*", "trade.*"], "stage": stage}]
    world.install("odd", odd, kind="reducer", subscriptions=subscriptions, required_caps=["post"])
    for kind, payload in (("agent.move", {"to": [1, 1]}), ("trade.offer", {})):
        result = world.step(world.signed("ada", kind, payload))
        assert encode(EventSegment(result.events))
    failures: list[Any] = [event.payload for event in world.events if event.kind == "module.call_failed"]
    assert {failure["code"] for failure in failures} <= set(CALL_CODES)
    assert replay_events(world.first, world.events) == world.tree


MANIFEST = manifest("gate", "ab" * 32, subscriptions=[{"action_kinds": ["*"], "filters": [{"path": "/kind", "eq": 1}]}])
PAYLOADS: dict[str, dict[str, Any]] = {
    "artifact.put": {"artifact": "0" * 64, "index": 0, "count": 1, "data": b"x"},
    "artifact.remove": {"artifact": "0" * 64},
    "proposal.create": {
        "base": "0" * 64,
        "changes": {
            "register": [MANIFEST],
            "upgrade": [
                {
                    "module_id": "other",
                    "from_version": "1",
                    "to_version": "2",
                    "wasm_hash": "0" * 64,
                    "manifest": manifest("other", "0" * 64, version="2"),
                }
            ],
            "activate": [{"module_id": "gate", "version": "1.0.0"}],
            "deactivate": [{"module_id": "else", "reason": "r"}],
            "patch": [{"set": {"path": ["a", "b"], "value": 1}}, {"remove": {"path": ["a"]}}],
            "new_version": 7,
        },
    },
    "proposal.shadow": {"proposal": 1},
    "proposal.approve": {"proposal": 1},
    "proposal.apply": {"proposal": 1},
    "proposal.reject": {"proposal": 1, "reason": "r"},
    "capability.grant": {"capability": "post", "kinds": ["a.*"], "expires_tick": 1},
    "capability.revoke": {"capability": "post"},
    "policy.set": {"rules": [{"effect": "*", "module": "gate", "decision": "allow", "reason": "r"}]},
    "resource.grant": {"agent_id": AUTHOR, "kind": "power", "amount": 1},
    "effect.settle": {"receipt": sign_receipt(UNKNOWN, signer(AUTHOR))},
}


def test_every_governance_action_is_tried():
    assert set(PAYLOADS) == set(GOVERNANCE_FIELDS) == set(GOVERNANCE_KINDS)


@given(st.lists(st.sampled_from(sorted(PAYLOADS)), min_size=1, max_size=6).flatmap(
    lambda names: st.tuples(*[st.tuples(st.just(name), fields(PAYLOADS[name])) for name in names])
))  # fmt: skip
@settings(max_examples=80)
def test_no_governance_action_breaks_a_step(actions):
    world = GovernedWorld()
    for kind, payload in actions:
        if payload.get("base") == "0" * 64:
            payload["base"] = read_manifest(world.tree).hash
        result = world.step(world.signed(AUTHOR, kind, payload))
        assert encode(EventSegment(result.events))
        if kind == "proposal.create" and result.receipts[0].ok:
            world.do(AUTHOR, "proposal.shadow", {"proposal": 1})
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        ("capability.grant", {"capability": "Post", "kinds": ["*"], "expires_tick": 0}, "invalid_field"),
        ("capability.grant", {"capability": "post", "kinds": [], "expires_tick": 0}, "invalid_field"),
        ("capability.grant", {"capability": "post", "kinds": ["*"], "expires_tick": -1}, "invalid_field"),
        ("capability.revoke", {"capability": "post"}, "not_found"),
        ("policy.set", {"rules": [{"effect": "*", "module": "*", "decision": "maybe", "reason": ""}]}, "invalid_field"),
        ("policy.set", {"rules": [{"effect": "*", "module": "A", "decision": "deny", "reason": ""}]}, "invalid_field"),
        ("resource.grant", {"agent_id": "nobody", "kind": "power", "amount": 1}, "not_found"),
        ("resource.grant", {"agent_id": AUTHOR, "kind": "power", "amount": 0}, "invalid_field"),
        ("resource.grant", {"agent_id": AUTHOR, "kind": "p" * 33, "amount": 1}, "invalid_field"),
        ("capability.grant", {"capability": "c", "kinds": ["*"], "expires_tick": 0, "signers": ["a"]}, "invalid_field"),
        ("capability.grant", {"capability": "c", "kinds": ["*"], "signers": []}, "invalid_field"),
        ("effect.settle", {"receipt": sign_receipt(UNKNOWN, signer(AUTHOR))}, "not_found"),
        ("effect.settle", {"receipt": b"\x80"}, "invalid_field"),
        ("effect.settle", {"receipt": "text"}, "invalid_field"),
        ("effect.settle", {"receipt": bytes(20_000)}, "too_large"),
        ("proposal.create", {"base": "0" * 64, "changes": {"patch": [], "x": 1}}, "invalid_field"),
        ("proposal.create", {"base": "0" * 64, "changes": {"register": ["x" * 41_000]}}, "too_large"),
    ],
)
def test_governance_payloads_are_judged_field_by_field(kind, payload, code):
    world = GovernedWorld()
    assert world.do(AUTHOR, kind, payload).code == code


def test_an_agent_cannot_be_given_more_than_can_be_counted():
    world = GovernedWorld()
    grant = {"agent_id": AUTHOR, "kind": "power", "amount": 2**53 - 1}
    assert [world.do(AUTHOR, "resource.grant", grant).code for _ in range(2)] == ["", "too_large"]


def test_more_modules_than_a_world_may_run_are_kept_out(monkeypatch):
    monkeypatch.setattr("agentworld_core.world.modules.shadow.MAX_ACTIVE_MODULES", 1)
    world = GovernedWorld()
    artifact = world.install("one", lambda _given: {})
    two = {
        "register": [manifest("two", artifact)],
        "activate": [{"module_id": "two", "version": "1.0.0"}],
    }
    number = world.propose(two)
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).code == "shadow_failed"
    assert [error["code"] for error in world.report(number)["errors"]] == ["LIMITS_EXCEEDED"]
    replaced = {**two, "deactivate": [{"module_id": "one", "reason": "makes room"}]}
    world.decide(replaced)
    assert encode_value(world.report(number + 1))


def test_the_largest_change_set_with_the_longest_report_fits_the_state():
    keys = tuple(f"key-{number}" for number in range(40))
    world = GovernedWorld(keys=(AUTHOR, APPROVER, *keys))
    world.governance = Governance(world.governance.key_ids, 41)
    strange = "\U0001f409" * 64
    ids = [f"{'m' * 58}-{number:02d}" for number in range(16)]
    version = "9" * 32
    registers = [{**manifest(name, "ab" * 32), "version": version, strange: "x" * 800} for name in ids]
    upgrade = {"from_version": "8" * 32, "to_version": version, "wasm_hash": "ab" * 32}
    changes = {
        "register": registers,
        "upgrade": [{**upgrade, "module_id": name, "manifest": {strange: name}} for name in ids],
        "activate": [{"module_id": name, "version": "7" * 32} for name in ids],
        "deactivate": [{"module_id": f"x{name[1:]}", "reason": "\U0001f409" * 40} for name in ids],
    }
    number = world.propose(changes)
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).code == "shadow_failed"
    assert {error["code"] for error in world.report(number)["errors"]} >= {"INVALID_MANIFEST", "VERSION_CONFLICT"}
    assert world.do(AUTHOR, "proposal.reject", {"proposal": number, "reason": "\U0001f409" * 256}).ok
    number = world.propose({"patch": [{"set": {"path": ["a"], "value": "x" * 31_000}}]})
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok
    for name in (APPROVER, *keys):
        assert world.do(name, "proposal.approve", {"proposal": number}).ok or name == keys[-1]
    assert world.do(AUTHOR, "proposal.apply", {"proposal": number}).ok
    assert replay_events(world.first, world.events) == world.tree
