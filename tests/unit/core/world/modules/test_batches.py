"""A call for a batch changes what a step costs and never what it comes to (ADR 22)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.codec import decode_value, encode, encode_value
from agentworld_core.errors import InvalidField
from agentworld_core.messages import EventSegment, ReceiptList
from agentworld_core.world.kernel import StepResult, replay_events
from agentworld_core.world.modules import batches, execution
from agentworld_core.world.modules.batches import Window
from agentworld_core.world.modules.manifest import ModuleLimits, parse_manifest
from agentworld_core.world.modules.output import ActionView, Occasion, split_answers
from agentworld_core.world.modules.records import ModuleStateRecord
from agentworld_core.world.modules.sandbox import CallFailed, ModuleCall
from agentworld_core.world.state import read
from tests.unit.core.world.modules.crowds import digest_of
from tests.unit.core.world.modules.governed import LIMITS, FakeSandbox, GovernedWorld, kinds, manifest

MANY = {**LIMITS, "max_batch": 64, "max_gas": 100_000, "max_mem_bytes": 2**20, "max_output_bytes": 2**14}
SEEDS, ELSEWHERE = 10, 3
ROOT = Path(__file__).parents[5]


def follow(given: dict[str, Any]) -> Any:
    """A reducer whose state is a hash of all that it was given, so that nothing can be lost or come twice."""
    seen = given["state"] + encode_value(given["action"]["payload"])
    return {"new_state": seen[-200:], "emits": [{"kind": "talk.heard", "payload": len(seen)}]}


def a_world(program: Callable[[dict[str, Any]], Any], *, batched: bool = True, **fields: Any) -> GovernedWorld:
    sandbox = FakeSandbox()
    sandbox.batches = batched
    world = GovernedWorld(sandbox=sandbox)
    world.enter("ada", "bob")
    chosen = {"kind": "reducer", "limits": MANY, "subscriptions": [{"action_kinds": ["agent.move"]}], **fields}
    world.install("mod", program, **chosen)
    world.sandbox.calls.clear()
    return world


def moves(world: GovernedWorld, count: int, *, first: int = 0) -> list[Any]:
    return [world.signed("ada", "agent.move", {"to": [first + number, 0]}) for number in range(count)]


def state_of(world: GovernedWorld, module_id: str = "mod") -> bytes:
    record = read(world.tree, f"modstate/{module_id}".encode(), ModuleStateRecord)
    return b"" if record is None else record.state


def sizes(calls: list[ModuleCall]) -> list[int]:
    """How many items each call was for; 0 for a call of its own."""
    found = []
    for call in calls:
        given: Any = decode_value(call.input)
        found.append(len(given.get("actions", given.get("events", []))))
    return found


def same(one: StepResult, other: StepResult) -> bool:
    """True when two steps came to the same, byte for byte."""
    return all(
        encode(first) == encode(second)
        for first, second in (
            (EventSegment(one.events), EventSegment(other.events)),
            (ReceiptList(one.receipts), ReceiptList(other.receipts)),
        )
    ) and (one.tree.root, one.exhausted) == (other.tree.root, other.exhausted)


def both(program: Callable[[dict[str, Any]], Any], act: Callable[[GovernedWorld], Any], **fields: Any) -> Any:
    """Does the same in a world whose module answers batches and in one where every batch fails; they come to the same.

    Returns the first world.
    """
    worlds = [a_world(program, batched=batched, **fields) for batched in (True, False)]
    results = [act(world) for world in worlds]
    assert same(*results)
    assert replay_events(worlds[0].first, worlds[0].events) == worlds[0].tree
    return worlds[0]


def test_one_call_answers_for_all_the_actions_of_a_block() -> None:
    world = both(follow, lambda world: world.step(*moves(world, 40)))
    assert [call.entry for call in world.sandbox.calls] == ["reduce", "reduce_batch"]
    assert sizes(world.sandbox.calls) == [0, 39]


def test_a_batch_is_given_what_its_items_have_in_common_once() -> None:
    world = a_world(follow)
    actions = moves(world, 3)
    world.step(*actions)
    single, batch = [decode_value(call.input) for call in world.sandbox.calls]
    assert isinstance(single, dict)
    assert isinstance(batch, dict)
    ctx = single["ctx"]
    assert isinstance(ctx, dict)
    assert batch["ctx"] == {key: value for key, value in ctx.items() if key not in ("trace_id", "origin")}
    assert batch["actions"] == [
        encode_value(
            {"action_id": action.action_id, "actor_id": "ada", "kind": "agent.move", "payload": {"to": [at, 0]}}
        )
        for at, action in enumerate(actions)
        if at > 0
    ]
    assert batch["state"] == encode_value({"to": [0, 0]})
    limits = world.sandbox.calls[1].limits
    assert (limits.fuel, limits.memory_bytes) == (MANY["max_gas"], MANY["max_mem_bytes"])
    assert limits.output_bytes == 2 * MANY["max_output_bytes"]


@pytest.mark.parametrize("stage", ["pre_action", "post_action"])
@pytest.mark.parametrize("kind", ["reducer", "pure"])
def test_actions_that_are_refused_between_others_change_nothing_for_them(stage: str, kind: str) -> None:
    def program(given: dict[str, Any]) -> Any:
        if kind == "reducer":
            return follow(given)
        return {"emits": [{"kind": "talk.heard", "payload": given["action"]["payload"]}]}

    def act(world: GovernedWorld) -> StepResult:
        actions = moves(world, 12)
        actions[3] = world.signed("nobody", "agent.move", {"to": [1, 1]})
        actions[5] = actions[4]  # its nonce is used up
        actions[7] = world.signed("bob", "agent.move", {"to": "nowhere"})
        actions[8] = world.signed("bob", "object.create", {"object_id": "lamp", "data": 1})
        return world.step(*actions)

    world = both(program, act, kind=kind, subscriptions=[{"action_kinds": ["agent.move"], "stage": stage}])
    assert max(sizes(world.sandbox.calls)) > 1


def test_events_that_wait_are_asked_for_together() -> None:
    def speak(_given: dict[str, Any]) -> Any:
        return {"emits": [{"kind": "talk.a", "payload": number} for number in range(4)]}

    def hear(given: dict[str, Any]) -> Any:
        return {"new_state": (given["state"] + encode_value(given["event"]["payload"]))[-200:]}

    def act(world: GovernedWorld) -> StepResult:
        world.install("ear", hear, kind="reducer", limits=MANY, subscriptions=[{"event_kinds": ["talk.*"]}])
        world.sandbox.calls.clear()
        return world.step(*moves(world, 2))

    world = both(speak, act, kind="pure")
    heard = [call for call in world.sandbox.calls if "event" in call.input[:600].decode("latin-1")]
    assert [size for size in sizes(heard) if size] == [3, 4]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"\x9f\x40\xff",
        {},
        [],
        7,
        None,
        [None],
        [{}],
        ["text"],
        lambda answers: [*answers, answers[-1]],
        lambda answers: [*answers[:-1], None],
        lambda answers: encode_value(answers) + b"\x00",
        lambda answers: [answers],
    ],
)  # fmt: skip
def test_an_answer_that_is_no_list_of_outputs_stands_for_none(answer: Any) -> None:
    def act(world: GovernedWorld) -> StepResult:
        artifact = next(iter(world.sandbox.programs))
        world.sandbox.together[artifact] = answer if callable(answer) else lambda _answers: answer
        return world.step(*moves(world, 6))

    world = both(follow, act)
    assert sizes(world.sandbox.calls) == [0, 5, 0, 0, 0, 0, 0]  # no second try in this step
    world.sandbox.calls.clear()
    world.step(*moves(world, 2))
    assert sizes(world.sandbox.calls) == [0, 1, 0] or sizes(world.sandbox.calls) == [0, 0]


@pytest.mark.box("S0.3", "module-failure")
@pytest.mark.parametrize("reason", ["out_of_fuel", "trap", "invalid_output", "output_too_large"])
def test_w30_one_item_that_fails_fails_alone(reason: str) -> None:
    def program(given: dict[str, Any]) -> Any:
        if given["action"]["payload"]["to"][0] == 5:
            raise CallFailed(reason, reason)
        return follow(given)

    world = both(program, lambda world: world.step(*moves(world, 12)), role="rule")
    failed = [event for event in world.events if event.kind == "module.call_failed"]
    assert [event.payload["code"] for event in failed] == [reason]
    rejected = [event for event in world.events if event.kind == "action.rejected"]
    assert [event.payload["code"] for event in rejected] == ["rule_failed"]


@pytest.mark.parametrize("output", [b"\xff", {"more": 1}, {"new_state": bytes(61 * 1024)}])
def test_an_output_that_breaks_the_rules_fails_alone(output: Any) -> None:
    limits = {**MANY, "max_output_bytes": 128 * 1024}

    def program(given: dict[str, Any]) -> Any:
        return output if given["action"]["payload"]["to"][0] == 5 else follow(given)

    world = both(program, lambda world: world.step(*moves(world, 12)), limits=limits)
    assert [event.kind for event in world.events].count("module.call_failed") == 1


def test_an_output_that_may_not_be_carried_out_does_not_count_for_those_after_it() -> None:
    effect = {"effects": [{"kind": "mail.send", "params": 1, "cap_ref": "post"}]}

    def program(given: dict[str, Any]) -> Any:
        output = follow(given)
        return {**output, **effect} if given["action"]["payload"]["to"][0] % 4 == 2 else output

    world = both(program, lambda world: world.step(*moves(world, 12)))
    assert [event.kind for event in world.events].count("module.call_failed") == 3


def test_a_module_may_answer_for_the_first_items_only() -> None:
    def act(world: GovernedWorld) -> StepResult:
        artifact = next(iter(world.sandbox.programs))
        world.sandbox.together[artifact] = lambda answers: answers[:3]
        return world.step(*moves(world, 12))

    world = both(follow, act)
    assert sizes(world.sandbox.calls) == [0, 11, 3, 5, 2]


def test_two_modules_do_not_disturb_each_other() -> None:
    def bend(given: dict[str, Any]) -> Any:
        x = given["action"]["payload"]["to"][0]
        decision = {"action_id": given["action"]["action_id"], "verdict": "deny" if x == 4 else "modify"}
        if x != 4:
            decision["override_action"] = {"kind": "agent.move", "payload": {"to": [x + 100 * (x % 2), 0]}}
        return {"emits": [{"kind": "rule.decision", "payload": decision}]}

    def act(world: GovernedWorld) -> StepResult:
        world.install("gate", bend, role="rule", limits=MANY)
        return world.step(*moves(world, 12))

    after = [{"action_kinds": ["agent.move"], "stage": "post_action"}]
    both(follow, act, subscriptions=after)


def test_calls_are_counted_one_by_one() -> None:
    limits = {**MANY, "max_call_rate": 5}
    world = both(follow, lambda world: world.step(*moves(world, 12)), limits=limits)
    assert [event.kind for event in world.events].count("module.state_updated") == 5
    assert [event.kind for event in world.events].count("module.call_failed") == 1


def test_the_fuel_of_a_batch_counts_and_a_failed_one_counts_as_all_that_it_might_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execution, "STEP_FUEL", 2 * MANY["max_gas"])
    world = a_world(follow)
    result = world.step(*moves(world, 12))
    assert not result.exhausted
    world = a_world(follow, batched=False)
    result = world.step(*moves(world, 12))
    assert result.exhausted
    assert sizes(world.sandbox.calls) == [0, 11]
    failed: list[Any] = [event.payload for event in result.events if event.kind == "module.call_failed"]
    assert [payload["code"] for payload in failed] == ["step_limit_exceeded"]
    assert kinds(result).count("agent.moved") == 12


@pytest.mark.parametrize("seed", range(SEEDS))
def test_histories_are_the_same_with_and_without_batches(seed: int) -> None:
    (batched, calls), (single, more) = digest_of(seed), digest_of(seed, batches=False)
    assert batched == single
    assert calls < more


def test_histories_are_the_same_in_another_process() -> None:
    mine = "".join(f"{seed} {' '.join(map(str, digest_of(seed)))}\n" for seed in range(ELSEWHERE))
    path = os.pathsep.join([str(ROOT / "node"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.core.world.modules.crowds", "0", str(ELSEWHERE)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "11", "TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8"},
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == mine


def _takes_what_is_next(window: Window, _occasion: Any, _state: bytes) -> int:
    return window._at


def _forgets_the_state(window: Window, occasion: Any, _state: bytes) -> int | None:
    return window._at if batches._same(window._occasions[window._at], occasion) else None


def _skips_in_a_reducer(window: Window, occasion: Any, _state: bytes) -> int | None:
    rest = range(window._at, len(window._answers))
    return next((at for at in rest if batches._same(window._occasions[at], occasion)), None)


@pytest.mark.parametrize("mutant", [_takes_what_is_next, _forgets_the_state, _skips_in_a_reducer])
def test_histories_find_a_kernel_that_takes_an_answer_that_does_not_count(
    mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Window, "_find", mutant)
    assert any(digest_of(seed)[0] != digest_of(seed, batches=False)[0] for seed in range(SEEDS))


def test_histories_find_a_kernel_that_takes_the_state_of_a_failed_output_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def program(given: dict[str, Any]) -> Any:
        return {**follow(given), "more": 1} if given["action"]["payload"]["to"][0] == 5 else follow(given)

    def act(world: GovernedWorld) -> StepResult:
        return world.step(*moves(world, 12))

    both(program, act)
    monkeypatch.setattr(Window, "_find", _forgets_the_state)
    with pytest.raises(AssertionError):
        both(program, act)


# How far it pays to look ahead


def planned(window: Window, followers: int = 1000) -> int:
    return len(window.plan(occasion(0), map(occasion, range(1, followers))))


def occasion(number: int) -> Occasion:
    view = ActionView.of(f"{number:064x}", "ada", kind="agent.move", payload={"to": [number, 0]})
    return Occasion.of_action("pre_action", view)


def a_window(**limits: Any) -> Window:
    document = manifest("mod", "ab" * 32, limits={**MANY, "max_batch": 64, **limits})
    return Window(parse_manifest(document))


def answered(window: Window, count: int, *, used: int) -> None:
    occasions = window.plan(occasion(0), map(occasion, range(1, 1000)))
    assert len(occasions) == count
    window.open(occasions, [b"x"] * count, fuel=count, state=b"")
    window.advance(b"")
    for number in range(1, used):
        assert window.answer(occasion(number), b"") == b"x"
        window.advance(b"")
    assert window.answer(occasion(5000), b"") is None


def test_the_first_call_is_one_of_its_own_and_shows_what_the_others_cost() -> None:
    window = a_window(max_gas=1000)
    assert planned(window) == 1
    window.called(fuel=50, output_bytes=10)
    assert planned(window) == 10
    window.called(fuel=1, output_bytes=10)
    assert planned(window) == 64
    window.called(fuel=1, output_bytes=2**18 // (2 * 7))
    assert planned(window) == 7
    window.called(fuel=501, output_bytes=10)
    assert planned(window) == 1


def test_documents_have_a_part_of_the_memory() -> None:
    window = a_window(max_mem_bytes=65536)
    window.called(fuel=1, output_bytes=1)
    size = len(occasion(300).document.encoded)
    assert planned(window) == 64
    window = a_window(max_mem_bytes=4 * 10 * size)
    window.called(fuel=1, output_bytes=1)
    assert planned(window) in (9, 10)


def test_what_was_asked_for_in_vain_shortens_the_next_batch_and_use_lengthens_it() -> None:
    window = a_window()
    window.called(fuel=1, output_bytes=1)
    answered(window, 64, used=64)
    answered(window, 64, used=10)
    answered(window, 10, used=10)
    answered(window, 20, used=1)
    assert planned(window) == 1
    window.called(fuel=1, output_bytes=1)
    answered(window, 2, used=2)
    answered(window, 4, used=4)
    window.fail()
    assert planned(window) == 1


def test_at_worst_about_half_of_what_is_asked_for_is_in_vain() -> None:
    window = a_window()
    window.called(fuel=1, output_bytes=1)
    asked = used = 0
    for _ in range(100):
        size = planned(window)
        if size == 1:
            window.called(fuel=1, output_bytes=1)
            asked, used = asked + 1, used + 1
            continue
        answered(window, size, used=1)
        asked, used = asked + size, used + 1
    assert asked <= 64 + 2 * used


# The manifest


def test_batches_need_an_export_and_have_a_limit() -> None:
    document = manifest("mod", "ab" * 32, limits=MANY)
    assert parse_manifest(document).batch_entry == "call_batch"
    with pytest.raises(InvalidField, match="must name call_batch"):
        parse_manifest({**document, "exports": ["call", "reduce_batch"]})
    assert parse_manifest({**document, "exports": ["call"], "limits": LIMITS}).limits.max_batch == 0
    world = GovernedWorld()
    artifact = world.sandbox.add(b"mod", follow)
    world.put(b"mod")
    large = manifest("mod", artifact, limits={**MANY, "max_batch": 4097})
    number = world.propose({"register": [large]})
    assert world.do("author", "proposal.shadow", {"proposal": number}).code == "shadow_failed"
    assert [error["code"] for error in world.report(number)["errors"]] == ["LIMITS_EXCEEDED"]


def test_what_a_module_without_batches_is_given_stays_what_it_was() -> None:
    assert "max_batch" not in ModuleLimits(max_gas=1).to_value()
    assert ModuleLimits(max_batch=2).to_value()["max_batch"] == 2
    world = a_world(follow, limits={**MANY, "max_batch": 0})
    world.step(*moves(world, 5))
    assert sizes(world.sandbox.calls) == [0] * 5


def test_answers_are_read_strictly() -> None:
    assert split_answers(encode_value([b"a", b""]), most=2) == [b"a", b""]
    assert split_answers(encode_value([b"a", b"b"]), most=1) is None
    for size in (0, 1, 23, 24, 255, 256, 65_535, 65_536):
        assert split_answers(encode_value([bytes(size)]), most=1) == [bytes(size)]
        assert split_answers(encode_value([bytes(size)])[:-1], most=1) is None
    for count in (23, 24, 255, 256, 4096):
        assert split_answers(encode_value([b"x"] * count), most=count) == [b"x"] * count
    for longer in ("98014178", "81580178", "9801580178", "8159000178", "815a0000000178", "815b000000000000000178"):
        assert split_answers(bytes.fromhex(longer), most=1) is None
