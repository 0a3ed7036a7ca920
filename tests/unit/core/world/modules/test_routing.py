"""How modules are called and what comes of it (runtime spec sections 3.3 and 3.4)."""

from __future__ import annotations

from typing import Any

import pytest

from agentworld_core.codec import encode, encode_value
from agentworld_core.errors import Unsupported
from agentworld_core.messages import EventSegment
from agentworld_core.world.actions import check_admission
from agentworld_core.world.kernel import StepInput, replay_events, step
from agentworld_core.world.modules import execution, loading
from agentworld_core.world.modules.errors import SandboxMissing
from agentworld_core.world.modules.manifest import POST_ACTION
from agentworld_core.world.modules.records import EffectCount, ModuleStateRecord, read_manifest
from agentworld_core.world.modules.sandbox import SandboxFault
from agentworld_core.world.state import read, read_agent
from tests.unit.core.world.agents import WORLD, World, action, register
from tests.unit.core.world.modules.governed import AUTHOR, LIMITS, GovernedWorld, a_receipt, failing, kinds, payload_of


def verdict(given, **fields):
    return {"emits": [{"kind": "rule.decision", "payload": {"action_id": given["action"]["action_id"], **fields}}]}


def deciding(**fields):
    return lambda given: verdict(given, **fields)


def answering(output):
    return lambda _given: output


def count(given):
    """A reducer that counts its calls."""
    return {"new_state": str(int(given["state"] or b"0") + 1).encode()}


def a_world(*names: str) -> GovernedWorld:
    world = GovernedWorld()
    world.enter(*(names or ("ada",)))
    return world


def state_of(world, module_id):
    record = read(world.tree, f"modstate/{module_id}".encode(), ModuleStateRecord)
    return None if record is None else record.state


@pytest.mark.box("S0.3", "module-call")
def test_a_reducer_keeps_state_that_events_carry():
    world = a_world()
    world.install("counter", count, kind="reducer")
    result = world.move("ada")
    assert kinds(result) == ["module.state_updated", "agent.moved"]
    assert payload_of(result, "module.state_updated")["state"] == b"1"
    world.move("ada", 2)
    assert state_of(world, "counter") == b"2"
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.box("S0.3", "module-call")
def test_a_call_is_given_what_the_interface_says():
    world = a_world()
    artifact = world.install("watcher", lambda _given: {}, kind="reducer")
    before = read_manifest(world.tree).hash
    moved = world.signed("ada", "agent.move", {"to": [7, 8]})
    world.step(moved)
    call = world.sandbox.calls[-1]
    assert (call.artifact, call.entry) == (artifact, "reduce")
    limits = (call.limits.fuel, call.limits.memory_bytes, call.limits.output_bytes)
    assert limits == (LIMITS["max_gas"], LIMITS["max_mem_bytes"], LIMITS["max_output_bytes"])
    document = {
        "action_id": moved.action_id, "actor_id": "ada", "kind": "agent.move", "payload": {"to": [7, 8]},
    }  # fmt: skip
    expected = {
        "ctx": {
            "v": "wasm-1",
            "module_id": "watcher",
            "trace_id": f"action-{moved.action_id}-watcher",
            "stage": "pre_action",
            "time": world.height,
            "time_ms": world.height * 100,
            "origin": {"kind": "action", "id": moved.action_id},
            "limits": LIMITS,
            "world_config_hash": before,
        },
        "action": encode_value(document),
        "state": b"",
    }
    assert call.input == encode_value(expected)


@pytest.mark.box("S0.3", "outcome")
def test_the_receipt_names_all_events_that_came_of_the_action():
    world = a_world("ada", "bob")
    world.install("counter", count, kind="reducer", subscriptions=[{"event_kinds": ["agent.moved"]}])
    result = world.step(*[world.signed(name, "agent.move", {"to": [1, 1]}) for name in ("ada", "bob")])
    assert [event.kind for event in result.events] == [
        "step.started", "agent.moved", "module.state_updated", "agent.moved", "module.state_updated", "nonces.used",
    ]  # fmt: skip
    first, second = result.receipts
    assert (first.event_count, second.event_count) == (2, 2)
    assert [first.first_event_id, second.first_event_id] == [result.events[1].event_id, result.events[3].event_id]
    for receipt, caused in ((first, result.events[1:3]), (second, result.events[3:5])):
        assert [event.caused_by for event in caused] == [receipt.action_id] * 2


@pytest.mark.box("S0.3", "routing")
def test_stages_patterns_and_order():
    world = a_world()
    stages = {
        "b-after": [{"action_kinds": ["agent.*"], "stage": "post_action"}],
        "a-before": [{"action_kinds": ["agent.move"]}],
        "c-event": [{"event_kinds": ["*"]}],
        "d-other": [{"action_kinds": ["agent.moved", "object.*"]}, {"event_kinds": ["agent.move", "object.*"]}],
    }
    for name, subscriptions in stages.items():
        world.install(name, lambda _given: {}, subscriptions=subscriptions)
    world.sandbox.calls.clear()
    world.move("ada")
    seen = [(call.artifact, call.entry) for call in world.sandbox.calls]
    names = {artifact: name for name in stages for artifact in [world.sandbox.add(name.encode() + b" 1.0.0", count)]}
    assert [names[artifact] for artifact, _ in seen] == ["c-event", "a-before", "b-after", "c-event"]
    assert POST_ACTION == "post_action"


@pytest.mark.box("S0.3", "routing")
def test_filters_decide_whether_a_module_is_called():
    world = a_world()
    subscriptions = [{"action_kinds": ["agent.move"], "filters": [{"path": "/payload/to/0", "gte": 5}]}]
    world.install("far", count, kind="reducer", subscriptions=subscriptions)
    world.move("ada", 4)
    assert state_of(world, "far") is None
    world.move("ada", 5)
    assert state_of(world, "far") == b"1"


@pytest.mark.box("S0.3", "rules")
def test_a_rule_denies_and_the_action_is_refused_with_a_receipt():
    world = a_world()
    world.install("gate", deciding(verdict="deny", notes="closed"), role="rule")
    result = world.move("ada")
    assert kinds(result) == ["rule.decided", "action.rejected"]
    assert (result.receipts[0].code, result.receipts[0].message) == ("denied", "gate denies it: closed")
    assert result.receipts[0].event_count == 2
    assert world.codes(world.signed("ada", "object.create", {"object_id": "o", "data": 1})) == ["ok"]


def test_no_rule_keeps_an_agent_of_governance_out():
    world = a_world()
    world.install("gate", deciding(verdict="deny"), role="rule", subscriptions=[{"action_kinds": ["*"]}])
    assert world.codes(world.signed("eve", "agent.register", {})) == ["denied"]
    assert world.codes(world.signed("successor", "agent.register", {}, key=AUTHOR)) == ["ok"]


@pytest.mark.box("S0.3", "rules")
def test_a_rule_puts_another_action_in_place():
    world = a_world()
    override = {"kind": "agent.move", "payload": {"to": [0, 9]}}
    world.install("bend", deciding(verdict="modify", override_action=override), role="rule")
    result = world.move("ada")
    assert kinds(result) == ["rule.decided", "action.overridden", "agent.moved"]
    agent = read_agent(world.tree, "ada")
    assert agent is not None
    assert (agent.x, agent.y) == (0, 9)


@pytest.mark.parametrize(
    ("override", "code"),
    [
        (None, "denied"),
        ({"kind": "proposal.apply", "payload": {"proposal": 1}}, "denied"),
        ({"kind": "agent.move", "payload": {"to": "nowhere"}}, "invalid_field"),
        ({"kind": "dragon.summon", "payload": {}}, "unsupported"),
    ],
)
def test_a_rule_cannot_put_just_anything_in_place(override, code):
    world = a_world()
    world.install("bend", deciding(verdict="modify", override_action=override), role="rule")
    assert world.move("ada").receipts[0].code == code
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.box("S0.3", "rules")
def test_conflicting_modifications_deny_and_deny_beats_modify():
    world = a_world()
    for name, x in (("one", 1), ("two", 2)):
        override = {"kind": "agent.move", "payload": {"to": [x, 0]}}
        world.install(name, deciding(verdict="modify", override_action=override))
    assert world.move("ada").receipts[0].code == "denied"
    world.install("zero", deciding(verdict="deny"))
    assert "zero denies it" in world.move("ada").receipts[0].message


@pytest.mark.box("S0.3", "every-change-is-an-event", "rules")
def test_costs_add_up_and_are_charged_only_when_the_action_is_taken():
    world = a_world()
    world.install("fee", deciding(verdict="allow", cost={"power": 2}))
    world.install("tax", deciding(verdict="allow", cost={"power": 1, "data": 0}))
    assert world.move("ada").receipts[0].code == "insufficient_resources"
    assert world.do("author", "resource.grant", {"agent_id": "ada", "kind": "power", "amount": 3}).ok
    assert world.move("ada").receipts[0].ok
    assert list(world.tree.items(b"resource/")) == []
    grant = {"agent_id": "ada", "kind": "power", "amount": 4}
    assert world.do("author", "resource.grant", grant).ok
    result = world.move("ada")
    assert kinds(result) == ["rule.decided", "rule.decided", "resources.charged", "agent.moved"]
    assert payload_of(result, "resources.charged") == {"actor_id": "ada", "cost": {"power": 3}}
    refused = world.move("ada").receipts[0]
    assert (refused.code, refused.message) == ("insufficient_resources", "it costs 3 of power, and ada has 1")
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.box("S0.3", "module-failure")
@pytest.mark.parametrize("reason", ["out_of_fuel", "trap", "invalid_output", "output_too_large"])
def test_w30_a_failing_module_is_an_event_and_the_step_goes_on(reason):
    world = a_world()
    world.install("broken", failing(reason))
    world.install("counter", count, kind="reducer")
    result = world.move("ada")
    assert kinds(result) == ["module.call_failed", "module.state_updated", "agent.moved"]
    assert payload_of(result, "module.call_failed")["code"] == reason
    assert result.receipts[0].ok


@pytest.mark.box("S0.3", "module-failure")
def test_nobody_gets_past_a_rule_by_breaking_it():
    world = a_world()
    world.install("gate", failing("out_of_fuel"), role="rule")
    result = world.move("ada")
    assert kinds(result) == ["module.call_failed", "action.rejected"]
    assert result.receipts[0].code == "rule_failed"


@pytest.mark.box("S0.3", "module-limits")
@pytest.mark.parametrize(
    ("output", "code"),
    [
        (b"\xff", "invalid_output"),
        (b"\xa1\x61a\x1800", "invalid_output"),
        ([], "invalid_output"),
        ({"more": 1}, "invalid_output"),
        ({"new_state": b""}, "invalid_output"),
        ({"emits": [{"kind": "Loud", "payload": 1}]}, "invalid_output"),
        ({"emits": [{"kind": "agent.moved", "payload": 1}]}, "invalid_output"),
        (
            {"emits": [{"kind": "rule.decision", "payload": {"action_id": "0" * 64, "verdict": "deny"}}]},
            "invalid_output",
        ),
        ({"emits": [{"kind": "a.b", "payload": n} for n in range(5)]}, "emit_limit_exceeded"),
        ({"effects": [{"kind": "a.b", "params": n, "cap_ref": "c"} for n in range(5)]}, "effect_limit_exceeded"),
        ({"effects": [{"kind": "a.b", "params": 1, "cap_ref": "c"}]}, "caps_denied"),
        (encode_value({"emits": [{"kind": "a.b", "payload": bytes(65536)}]}), "output_too_large"),
    ],
)
def test_outputs_beyond_the_interface_or_the_limits_fail_as_a_whole(output, code):
    world = a_world()
    world.install("odd", lambda _given: output)
    result = world.move("ada")
    assert kinds(result) == ["module.call_failed", "agent.moved"]
    assert payload_of(result, "module.call_failed")["code"] == code


def test_decisions_are_only_for_actions_that_wait():
    world = a_world()
    subscriptions = [{"action_kinds": ["agent.move"], "stage": "post_action"}]
    world.install("late", deciding(verdict="deny"), subscriptions=subscriptions)
    result = world.move("ada")
    assert kinds(result) == ["agent.moved", "module.call_failed"]
    assert payload_of(result, "module.call_failed")["detail"] == "rule.decision: is only for pre_action"


@pytest.mark.parametrize(("size", "code"), [(60 * 1024, ""), (60 * 1024 + 1, "output_too_large")])
def test_the_state_of_a_module_fits_a_value_of_the_tree(size, code):
    world = a_world()
    limits = {**LIMITS, "max_output_bytes": 128 * 1024}
    world.install("hoarder", lambda _given: {"new_state": bytes(size)}, kind="reducer", limits=limits)
    result = world.move("ada")
    failures: list[Any] = [event.payload for event in result.events if event.kind == "module.call_failed"]
    assert [failure["code"] for failure in failures] == ([code] if code else [])


@pytest.mark.box("S0.3", "module-limits")
def test_limits_default_to_nothing_and_calls_are_counted_per_step():
    world = a_world()
    world.install("idle", count, kind="reducer", limits={})
    assert payload_of(world.move("ada"), "module.call_failed")["code"] == "call_rate_exceeded"
    world.install("rare", count, kind="reducer", limits={**LIMITS, "max_call_rate": 2})
    moves = [world.signed("ada", "agent.move", {"to": [x, 0]}) for x in range(5)]
    result = world.step(*moves)
    assert state_of(world, "rare") == b"2"
    assert kinds(result).count("module.call_failed") == 2  # one for each module, however many calls it missed
    world.move("ada")
    assert state_of(world, "rare") == b"3"


EFFECT = {"effects": [{"kind": "mail.send", "params": {"to": "x"}, "cap_ref": "post"}]}


@pytest.mark.box("S0.3", "every-change-is-an-event", "policy")
def test_effects_need_capability_and_policy_and_the_decision_is_recorded():
    world = a_world()
    assert world.do("author", "capability.grant", {"capability": "post", "kinds": ["mail.*"], "expires_tick": 0}).ok
    world.install("courier", lambda _given: EFFECT, required_caps=["post"])
    result = world.move("ada")
    assert kinds(result) == ["policy.decided", "module.call_failed", "agent.moved"]
    assert payload_of(result, "policy.decided")["allowed"] is False
    assert payload_of(result, "module.call_failed")["code"] == "policy_denied"
    rules = [
        {"effect": "mail.send", "module": "someone-else", "decision": "deny", "reason": "not it"},
        {"effect": "mail.*", "module": "courier", "decision": "allow", "reason": "letters"},
    ]
    assert world.do("author", "policy.set", {"rules": rules}).ok
    result = world.move("ada")
    assert kinds(result) == ["policy.decided", "effect.queued", "agent.moved"]
    queued = payload_of(result, "effect.queued")
    assert (queued["intent"], queued["kind"], queued["module_id"]) == (1, "mail.send", "courier")
    settle = {"receipt": a_receipt(world, 1, key="author")}
    assert [world.do("author", "effect.settle", settle).code for _ in range(2)] == ["", "already_settled"]
    assert read(world.tree, b"effects", EffectCount) == EffectCount(2, 0)
    assert world.do("author", "capability.revoke", {"capability": "post"}).ok
    assert payload_of(world.move("ada"), "module.call_failed")["code"] == "caps_denied"
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.box("S0.3", "capability")
def test_a_module_has_only_the_capabilities_that_its_manifest_requires():
    world = a_world()
    rules = [{"effect": "*", "module": "*", "decision": "allow", "reason": ""}]
    world.do("author", "policy.set", {"rules": rules})
    for name in ("post", "other"):
        world.do("author", "capability.grant", {"capability": name, "kinds": ["*"], "expires_tick": 0})
    world.install("courier", lambda _given: EFFECT, required_caps=["other"])
    assert payload_of(world.move("ada"), "module.call_failed")["code"] == "caps_denied"


@pytest.mark.box("S0.3", "capability")
@pytest.mark.parametrize(("kinds_", "expires"), [(["paper.*"], 0), (["*"], 12)])
def test_a_grant_that_does_not_fit_or_has_expired_denies(kinds_, expires):
    world = a_world()
    assert world.do("author", "capability.grant", {"capability": "post", "kinds": kinds_, "expires_tick": expires}).ok
    world.install("courier", lambda _given: EFFECT, required_caps=["post"])
    while world.height < 12:
        world.step()
    assert payload_of(world.move("ada"), "module.call_failed")["code"] == "caps_denied"


def test_effects_that_wait_for_receipts_are_bounded(monkeypatch):
    monkeypatch.setattr(execution, "MAX_PENDING_EFFECTS", 1)
    world = a_world()
    rules = [{"effect": "*", "module": "*", "decision": "allow", "reason": ""}]
    world.do("author", "capability.grant", {"capability": "post", "kinds": ["*"], "expires_tick": 0})
    world.do("author", "policy.set", {"rules": rules})
    world.install("courier", lambda _given: EFFECT, required_caps=["post"])
    assert "effect.queued" in kinds(world.move("ada"))
    assert payload_of(world.move("ada"), "module.call_failed")["code"] == "effect_limit_exceeded"


@pytest.mark.box("S0.3", "routing")
def test_all_events_are_routed_but_a_module_never_hears_itself():
    world = a_world()

    def echo(given):
        said = given["event"]["payload"].get("kind", "")
        return {"emits": [{"kind": "echo.said", "payload": len(said)}]}

    world.install("echo", echo, subscriptions=[{"event_kinds": ["agent.moved", "echo.*"]}])
    assert kinds(world.move("ada")) == ["agent.moved", "module.emitted"]
    world.install("other", count, kind="reducer", subscriptions=[{"event_kinds": ["echo.said"]}])
    result = world.move("ada")
    assert kinds(result) == ["agent.moved", "module.emitted", "module.state_updated"]
    emitted = payload_of(result, "module.emitted")
    assert (emitted["module_id"], emitted["kind"], emitted["payload"]) == ("echo", "echo.said", 0)


def test_modules_that_answer_each_other_come_to_an_end():
    world = a_world()
    for name, other in (("ping", "pong"), ("pong", "ping")):
        answer = {"emits": [{"kind": f"ball.{name}", "payload": None}]}
        subscriptions = [{"event_kinds": [f"ball.{other}", *(["agent.moved"] if name == "ping" else [])]}]
        world.install(name, answering(answer), subscriptions=subscriptions)
    assert kinds(world.move("ada")).count("module.emitted") == execution.MAX_CASCADE + 1


def test_what_modules_may_cost_in_a_step_is_bounded_and_the_bound_is_told(monkeypatch):
    monkeypatch.setattr(execution, "STEP_FUEL", 2 * LIMITS["max_gas"])
    world = a_world()
    world.install("counter", count, kind="reducer")
    world.sandbox.fuel = LIMITS["max_gas"]
    result = world.step(*[world.signed("ada", "agent.move", {"to": [x, 0]}) for x in range(4)])
    assert state_of(world, "counter") == b"2"
    assert payload_of(result, "module.call_failed")["code"] == "step_limit_exceeded"
    assert result.exhausted
    assert all(receipt.ok for receipt in result.receipts)
    assert not world.move("ada").exhausted
    assert state_of(world, "counter") == b"3"
    monkeypatch.setattr(execution, "STEP_FUEL", 0)
    world.install("greedy", count, kind="reducer", subscriptions=[{"event_kinds": ["step.started"]}])
    assert not world.move("ada").exhausted  # fewer actions would not help


def test_a_failed_call_counts_as_all_that_it_might_have_used(monkeypatch):
    monkeypatch.setattr(execution, "STEP_FUEL", 2 * LIMITS["max_gas"])
    world = a_world()
    world.install("broken", failing("trap"))
    result = world.step(*[world.signed("ada", "agent.move", {"to": [x, 0]}) for x in range(4)])
    failures: list[Any] = [event.payload for event in result.events if event.kind == "module.call_failed"]
    assert [failure["code"] for failure in failures] == ["trap", "trap", "step_limit_exceeded"]


def test_state_that_stays_the_same_is_no_event():
    world = a_world()
    world.install("constant", lambda _given: {"new_state": b"same"}, kind="reducer")
    assert kinds(world.move("ada")) == ["module.state_updated", "agent.moved"]
    assert kinds(world.move("ada", 2)) == ["agent.moved"]


def test_reports_about_calls_come_only_to_who_names_them():
    world = a_world()
    world.install("everything", count, kind="reducer", subscriptions=[{"event_kinds": ["*"]}])
    world.install("reports", count, kind="reducer", subscriptions=[{"event_kinds": ["module.*"]}])
    world.install("counter", count, kind="reducer")
    world.sandbox.calls.clear()
    assert kinds(world.move("ada")) == [
        "module.state_updated",  # everything: the step has started
        "module.state_updated",  # reports: of that
        "module.state_updated",  # counter: before the move
        "agent.moved",
        "module.state_updated",  # reports: of the counter
        "module.state_updated",  # everything: ada has moved
        "module.state_updated",  # reports: of that
    ]


def test_actions_of_unknown_kinds_belong_to_modules_that_name_them():
    world = a_world()
    trade = world.signed("ada", "trade.offer", {"what": ["fish"]})
    assert world.codes(trade) == ["unsupported"]
    world.install("watcher", lambda _given: {}, subscriptions=[{"action_kinds": ["*"]}])
    assert world.codes(world.signed("ada", "trade.offer", {})) == ["unsupported"]
    world.install(
        "market", count, kind="reducer", subscriptions=[{"action_kinds": ["trade.*"], "stage": "post_action"}]
    )
    offer = world.signed("ada", "trade.offer", {"what": ["fish"]})
    check_admission(world.tree, offer, world_id=WORLD)
    with pytest.raises(Unsupported):
        check_admission(world.tree, action("ada", "dragon.summon", {}, 99), world_id=WORLD)
    result = world.step(offer)
    assert kinds(result) == ["action.taken", "module.state_updated"]
    taken = {"actor_id": "ada", "kind": "trade.offer", "payload": {"what": ["fish"]}}
    assert payload_of(result, "action.taken") == taken
    assert world.codes(world.signed("ada", "trade.offer", _nested(16))) == ["invalid_field"]


def _nested(depth):
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_payloads_nested_as_deep_as_allowed_reach_modules_and_break_nothing():
    world = a_world()
    world.install("watcher", count, kind="reducer", subscriptions=[{"event_kinds": ["*"]}, {"action_kinds": ["*"]}])
    create = world.signed("ada", "object.create", {"object_id": "deep", "data": _nested(15)})
    result = world.step(create)
    assert kinds(result) == [
        "module.state_updated", "module.state_updated", "object.created", "module.state_updated",
    ]  # fmt: skip
    assert encode(EventSegment(result.events))


def test_a_world_without_modules_needs_no_sandbox_and_gives_the_same_bytes():
    plain, governed = World(), World()
    actions = [register("ada"), action("ada", "agent.move", {"to": [1, 1]}, 1), action("ada", "dragon.x", {}, 2)]
    one = plain.step(*actions)
    other = step(governed.tree, StepInput(height=1, time_ms=100, actions=actions), GovernedWorld().sandbox)
    assert (one.events, one.receipts, one.tree.root) == (other.events, other.receipts, other.tree.root)
    assert one.tree.root == "8f937a7b132f73fb92d470cd6d3aa4ef05d920b3d9ded7f5f48d01c41a4767d7"


def test_a_world_with_modules_never_steps_without_a_sandbox():
    world = a_world()
    world.install("idle", lambda _given: {})
    with pytest.raises(SandboxMissing) as caught:
        step(world.tree, StepInput(height=99, time_ms=9_900, actions=()))
    assert (caught.value.code, caught.value.retryable) == ("sandbox_missing", True)


@pytest.mark.box("S16.1", "missing")
@pytest.mark.box("S0.3", "fuel")
@pytest.mark.parametrize("fault", ["call", "lost", "refused"])
def test_a_fault_of_the_sandbox_stops_the_step_and_is_never_recorded(fault):
    world = a_world()
    artifact = world.install("idle", lambda _given: {})
    tree, told = world.tree, len(world.events)

    def broken(_given):
        raise SandboxFault("watchdog")

    if fault == "call":
        world.sandbox.programs[artifact] = broken
    elif fault == "lost":
        world.sandbox.pretends = True
        world.sandbox.loaded.clear()
    else:
        world.sandbox.loaded.clear()
        del world.sandbox.programs[artifact]
    with pytest.raises(SandboxFault):
        world.move("ada")
    assert (world.tree, len(world.events)) == (tree, told)


@pytest.mark.box("S17.1", "all")
def test_s17_a_fresh_sandbox_is_warmed_up_with_the_active_modules():
    world = a_world()
    assert loading.warm_up(world.tree, world.sandbox) == 0
    artifacts = {world.install(name, count, kind="reducer") for name in ("one", "two")}
    world.sandbox.loaded = set(sorted(artifacts)[:1])
    assert loading.warm_up(world.tree, world.sandbox) == 2
    assert world.sandbox.loaded == artifacts
    world.sandbox.loaded.clear()
    world.sandbox.programs.clear()
    with pytest.raises(SandboxFault):
        loading.warm_up(world.tree, world.sandbox)


@pytest.mark.box("S16.1", "cached")
def test_code_that_the_sandbox_has_is_not_given_to_it_again(monkeypatch):
    world = a_world()
    artifact = world.install("counter", count, kind="reducer")
    given = []
    load = world.sandbox.load

    def counted(name, code):
        given.append(name)
        load(name, code)

    monkeypatch.setattr(world.sandbox, "load", counted)
    for _ in range(3):
        world.move("ada")
    assert loading.warm_up(world.tree, world.sandbox) == 1
    assert given == [artifact]


@pytest.mark.box("S16.1", "from-state")
def test_s16_s17_a_sandbox_that_has_forgotten_is_given_the_code_from_the_state():
    world = a_world()
    artifact = world.install("counter", count, kind="reducer")
    world.move("ada")
    world.sandbox.loaded.clear()
    world.move("ada")
    assert world.sandbox.loaded == {artifact}
    world.sandbox.forgets = 3  # another thread's modules push it out just before the call
    world.move("ada")
    assert state_of(world, "counter") == b"3"
