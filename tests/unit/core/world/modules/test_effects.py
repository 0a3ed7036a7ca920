"""Effects and their receipts: who may settle one, once and in time, and what modules are told (spec section 3.3)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.errors import InvalidField, TooLarge
from agentworld_core.signing import sign
from agentworld_core.world.kernel import replay_events
from agentworld_core.world.modules.receipts import (
    MAX_RESULT_BYTES,
    EffectReceipt,
    make_receipt,
    params_hash_of,
    parse_receipt,
    receipt_id,
    sign_receipt,
)
from agentworld_core.world.modules.records import EffectCount, EffectRecord, ModuleStateRecord, effect_key
from agentworld_core.world.state import read
from tests.unit.core.world.agents import WORLD, signer
from tests.unit.core.world.modules.governed import AUTHOR, GovernedWorld, a_receipt, kinds, payload_of

PARAMS = {"to": "x"}
HANDED_BACK = [
    {"action_kinds": ["agent.move"], "stage": "post_action"},
    {"event_kinds": ["effect.*"], "filters": [{"path": "/payload/module_id", "eq": "courier"}]},
]


def courier(within: int) -> Any:
    """A reducer that sends a letter for each move, and remembers what it is told about its letters."""

    def run(given: dict[str, Any]) -> Any:
        if "action" in given:
            effect = {"kind": "mail.send", "params": PARAMS, "cap_ref": "post", "ref": f"letter {given['ctx']['time']}"}
            return {"effects": [{**effect, "expires_in": within} if within else effect]}
        told = given["event"]["payload"]
        line = f"{given['event']['kind']} {told['intent']} {told.get('status')} {told.get('result')};"
        if given["event"]["kind"] == "effect.queued":
            return {}
        return {"new_state": given["state"] + line.encode()}

    return run


def a_world(*, within: int = 0, signers: tuple[str, ...] = ("worker",)) -> GovernedWorld:
    """A world whose courier waits for the receipt of its first letter."""
    world = GovernedWorld()
    world.enter("ada", "eve", "worker")
    rules = [{"effect": "mail.*", "module": "courier", "decision": "allow", "reason": "letters"}]
    keys = [signer(name).key_id for name in signers]
    grant = {"capability": "post", "kinds": ["mail.*"], "expires_tick": 0, "signers": keys}
    assert world.do(AUTHOR, "capability.grant", grant).ok
    assert world.do(AUTHOR, "policy.set", {"rules": rules}).ok
    world.install("courier", courier(within), kind="reducer", subscriptions=HANDED_BACK, required_caps=["post"])
    queued = payload_of(world.move("ada"), "effect.queued")
    assert (queued["intent"], queued["params"]) == (1, PARAMS)
    assert queued["expires_tick"] == (world.height + within if within else 0)
    return world


def bring(world: GovernedWorld, receipt: bytes, *, by: str = "eve") -> str:
    """Brings a receipt onto the ledger and returns the code of its refusal."""
    return world.do(by, "effect.settle", {"receipt": receipt}).code


def told(world: GovernedWorld) -> str:
    """What the courier remembers."""
    found = read(world.tree, b"modstate/courier", ModuleStateRecord)
    return "" if found is None else found.state.decode()


def waiting(world: GovernedWorld) -> list[int]:
    return [int(key.decode().split("/")[1]) for key, _ in world.tree.items(b"effect/")]


@pytest.mark.box("S0.3", "effect")
def test_what_waits_is_in_the_state_with_what_it_asks_for():
    world = a_world(within=7)
    found = read(world.tree, effect_key(1), EffectRecord)
    expires = world.height + 7
    params, ref = params_hash_of(PARAMS), f"letter {world.height}"
    assert found == EffectRecord("courier", "mail.send", world.height, "post", params, expires, ref)
    assert waiting(world) == [1]


@pytest.mark.box("S0.3", "every-change-is-an-event", "effect")
@pytest.mark.parametrize("by", ["eve", "worker", "ada", AUTHOR])
@pytest.mark.parametrize("key", ["worker", AUTHOR])
def test_a_receipt_settles_an_effect_once_whoever_brings_it_and_the_module_is_told(by: str, key: str):
    world = a_world()
    receipt = a_receipt(world, 1, key=key, cost_cents=12)
    result = world.step(world.signed(by, "effect.settle", {"receipt": receipt}))
    assert result.receipts[0].ok
    assert payload_of(result, "effect.settled") == {
        "intent": 1,
        "module_id": "courier",
        "kind": "mail.send",
        "ref": f"letter {world.height - 1}",
        "status": "done",
        "result": {"sent": True},
        "cost_cents": 12,
        "signer": signer(key).key_id,
        "receipt": receipt_id(decode(EffectReceipt, receipt)),
    }
    assert told(world) == "effect.settled 1 done {'sent': True};"
    assert waiting(world) == []
    assert read(world.tree, b"effects", EffectCount) == EffectCount(2, 0)
    for again in (receipt, a_receipt(world, 1, key=key, status="failed")):
        assert bring(world, again) == "already_settled"
    assert told(world) == "effect.settled 1 done {'sent': True};"
    assert replay_events(world.first, world.events) == world.tree


def test_two_receipts_in_one_block_settle_it_once():
    world = a_world()
    ready = [a_receipt(world, 1, key="worker", status=status) for status in ("failed", "done")]
    signed = [world.signed("eve", "effect.settle", {"receipt": receipt}) for receipt in ready]
    assert world.codes(*signed) == ["ok", "already_settled"]
    assert told(world) == "effect.settled 1 failed {'sent': True};"


@pytest.mark.box("S0.3", "receipt")
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"world_id": "borealis"}, "wrong_world"),
        ({"intent": 0}, "not_found"),
        ({"intent": 2}, "not_found"),
        ({"intent": 2**64 - 1}, "not_found"),
        ({"kind": "mail.burn"}, "hash_mismatch"),
        ({"params_hash": params_hash_of({"to": "y"})}, "hash_mismatch"),
        ({"expires_tick": 99}, "hash_mismatch"),
        ({"status": "maybe"}, "invalid_field"),
        ({"cost_cents": 2**53}, "invalid_field"),
        ({"result": "x" * MAX_RESULT_BYTES}, "too_large"),
    ],
)
def test_what_is_not_a_receipt_of_this_effect_is_refused(fields: dict[str, Any], code: str):
    world = a_world()
    assert bring(world, a_receipt(world, 1, key="worker", **fields)) == code
    assert waiting(world) == [1]
    assert bring(world, a_receipt(world, 1, key="worker")) == ""


@pytest.mark.box("S0.3", "receipt")
def test_every_changed_byte_is_refused():
    world = a_world()
    good = a_receipt(world, 1, key="worker")
    codes = set()
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        codes.add(bring(world, bytes(changed)))
    assert codes <= {"invalid_signature", "invalid_field", "wrong_world", "too_large"}
    assert "invalid_signature" in codes
    assert waiting(world) == [1]


@pytest.mark.box("S0.3", "receipt")
def test_a_key_that_nobody_named_settles_nothing():
    world = a_world()
    for name in ("eve", "ada", "stranger"):
        assert bring(world, a_receipt(world, 1, key=name), by="worker") == "unauthorized"
    forged = decode(EffectReceipt, a_receipt(world, 1, key="eve"))
    forged = dataclasses.replace(forged, public_key=signer("worker").public_key)
    assert bring(world, encode(forged)) == "invalid_signature"
    assert waiting(world) == [1]


def test_whom_the_capability_names_now_counts():
    world = a_world()
    grant = {"capability": "post", "kinds": ["mail.*"], "expires_tick": 0}
    assert world.do(AUTHOR, "capability.grant", {**grant, "signers": [signer("eve").key_id]}).ok
    assert bring(world, a_receipt(world, 1, key="worker")) == "unauthorized"
    assert world.do(AUTHOR, "capability.revoke", {"capability": "post"}).ok
    assert bring(world, a_receipt(world, 1, key="eve")) == "unauthorized"
    assert bring(world, a_receipt(world, 1, key=AUTHOR)) == ""


def test_a_grant_without_signers_leaves_receipts_to_governance():
    world = a_world()
    assert world.do(AUTHOR, "capability.grant", {"capability": "post", "kinds": ["mail.*"], "expires_tick": 0}).ok
    assert bring(world, a_receipt(world, 1, key="worker")) == "unauthorized"
    assert bring(world, a_receipt(world, 1, key=AUTHOR)) == ""


def test_rules_do_not_judge_receipts():
    world = a_world()

    def deny(given: dict[str, Any]) -> Any:
        decision = {"action_id": given["action"]["action_id"], "verdict": "deny"}
        return {"emits": [{"kind": "rule.decision", "payload": decision}]}

    world.install("wall", deny, role="rule", subscriptions=[{"action_kinds": ["*"]}])
    assert world.move("ada").receipts[0].code == "denied"
    assert bring(world, a_receipt(world, 1, key="worker")) == ""


class TestExpiry:
    def test_the_last_tick_counts_and_the_next_does_not(self):
        for late, code in ((0, ""), (1, "expired")):
            world = a_world(within=3)
            receipt = a_receipt(world, 1, key="worker")
            for _ in range(2 + late):
                world.step()
            assert bring(world, receipt) == code

    def test_the_module_is_told_and_the_place_is_free_again(self):
        world = a_world(within=2)
        world.step()
        assert kinds(world.step()) == []
        result = world.step()
        assert payload_of(result, "effect.expired") == {
            "intent": 1,
            "module_id": "courier",
            "kind": "mail.send",
            "ref": f"letter {world.height - 3}",
            "expires_tick": world.height - 1,
        }
        assert told(world) == "effect.expired 1 None None;"
        assert read(world.tree, b"effects", EffectCount) == EffectCount(2, 0)
        assert list(world.tree.items(b"effect")) == [(b"effects", world.tree.get(b"effects"))]
        assert kinds(world.step()) == []
        assert replay_events(world.first, world.events) == world.tree

    def test_several_go_in_the_order_of_their_last_ticks(self):
        world = a_world(within=4)
        world.step(*[world.signed("ada", "agent.move", {"to": [n, 0]}) for n in range(3)])
        assert bring(world, a_receipt(world, 3, key="worker")) == ""
        while waiting(world):
            world.step()
        gone = [event.payload["intent"] for event in world.events if event.kind == "effect.expired"]  # type: ignore[index,call-overload]
        assert gone == [1, 2, 4]
        assert replay_events(world.first, world.events) == world.tree

    def test_one_without_a_last_tick_waits_for_ever(self):
        world = a_world()
        for _ in range(50):
            world.step()
        assert bring(world, a_receipt(world, 1, key="worker")) == ""

    @pytest.mark.parametrize(
        "wrong", [{"expires_in": value} for value in (-1, 2**33, "1", None)] + [{"ref": "x" * 65}, {"ref": 1}, {"x": 1}]
    )
    def test_nonsense_fails_the_call(self, wrong: dict[str, Any]):
        world = GovernedWorld()
        world.enter("ada")
        effect = {"kind": "mail.send", "params": 1, "cap_ref": "post", **wrong}
        world.install("courier", lambda _given: {"effects": [effect]})
        assert payload_of(world.move("ada"), "module.call_failed")["code"] == "invalid_output"


class TestTheDocument:
    def test_what_cannot_be_a_receipt_is_not_signed(self):
        effect = EffectRecord("courier", "mail.send", 1, "post", params_hash_of(PARAMS), 0)
        draft = make_receipt(effect, world_id=WORLD, intent=1, status="done", result="x" * MAX_RESULT_BYTES)
        with pytest.raises(TooLarge, match=r"limit") as caught:
            sign_receipt(draft, signer("worker"))
        assert caught.value.field == "receipt.result"
        with pytest.raises(InvalidField) as wrong:
            sign_receipt(dataclasses.replace(draft, status="", result=1), signer("worker"))
        assert wrong.value.field == "receipt.status"

    def test_the_deepest_result_is_still_an_event(self):
        world = a_world()
        deep: Any = 1
        while True:
            wider = [deep]
            receipt = encode_or_none(world, wider)
            if receipt is None:
                break
            deep = wider
        assert bring(world, a_receipt(world, 1, key="worker", result=[deep])) == "invalid_field"
        assert bring(world, a_receipt(world, 1, key="worker", result=deep)) == ""

    def test_it_is_bound_to_its_world_and_kind_of_message(self):
        world = a_world()
        receipt = decode(EffectReceipt, a_receipt(world, 1, key="worker"))
        other = sign(dataclasses.replace(receipt, world_id="borealis"), signer("worker"))
        assert other.signature != receipt.signature
        assert bring(world, encode(dataclasses.replace(other, world_id=WORLD))) == "invalid_signature"


def encode_or_none(world: GovernedWorld, result: Any) -> bytes | None:
    try:
        data = a_receipt(world, 1, key="worker", result=result)
        parse_receipt(data)
    except InvalidField:
        return None
    return data
