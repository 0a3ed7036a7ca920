from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agentworld_core.codec import encode, encode_value
from agentworld_core.errors import (
    AgentWorldError,
    HashMismatch,
    InvalidField,
    InvalidSignature,
    NonceUsed,
    TooLarge,
    Unauthorized,
    Unsupported,
    WrongWorld,
)
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope
from agentworld_core.signing import signed_bytes
from agentworld_core.world.actions import (
    ACTION_KINDS,
    MAX_CLOCK_AHEAD_MS,
    MAX_COORDINATE,
    Actors,
    action_id_of,
    check_actor,
    check_admission,
    check_envelope,
    envelope_id,
    parse_payload,
    sign_action,
)
from agentworld_core.world.errors import REFUSAL_CODES, ActionRefused
from agentworld_core.world.nonces import MAX_NONCE
from tests.unit.core.world.agents import WORLD, World, action, empty_world, register, signer

GOOD = register("ada")


@pytest.mark.box("S1.2", "action")
def test_a_signed_action_passes_and_its_id_covers_all_but_the_signature():
    check_envelope(GOOD, WORLD)
    assert GOOD.action_id == content_id(encode(dataclasses.replace(GOOD, action_id="", signature=b"")))
    assert action_id_of(dataclasses.replace(GOOD, signature=bytes(64))) == GOOD.action_id
    assert envelope_id(dataclasses.replace(GOOD, signature=bytes(64))) != envelope_id(GOOD)


OTHER_VALUES: dict[str, Any] = {
    "world_id": "borealis",
    "action_id": "0" * 64,
    "actor_id": "eve",
    "action_kind": "agent.move",
    "payload_cbor": encode_value({"position": [1, 1]}),
    "payload_hash": "0" * 64,
    "nonce": 7,
    "timestamp_ms": 7,
    "signature": bytes(64),
    "public_key": bytes(32),
}


@pytest.mark.box("S1.2", "action")
@pytest.mark.box("S7.1", "forged")
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ActionEnvelope)])
def test_an_action_changed_in_any_field_is_refused(field):
    changed = dataclasses.replace(GOOD, **{field: OTHER_VALUES[field]})
    with pytest.raises(AgentWorldError):
        check_envelope(changed, WORLD)


@pytest.mark.box("S7.1", "other-world", "oversized")
@pytest.mark.parametrize(
    ("changed", "error", "field"),
    [
        (action("ada", "agent.move", {"to": [0, 0]}, 0, world="borealis"), WrongWorld, "world_id"),
        (dataclasses.replace(GOOD, payload_cbor=bytes(65 * 1024)), TooLarge, "payload_cbor"),
        (sign_action(dataclasses.replace(GOOD, nonce=MAX_NONCE + 1), signer("ada")), InvalidField, "nonce"),
        (sign_action(dataclasses.replace(GOOD, payload_hash="1" * 64), signer("ada")), HashMismatch, "payload_hash"),
        (dataclasses.replace(GOOD, action_id="1" * 64), HashMismatch, "action_id"),
        (dataclasses.replace(GOOD, signature=b""), InvalidSignature, "signature"),
    ],
)
def test_what_is_wrong_is_named(changed, error, field):
    with pytest.raises(error) as caught:
        check_envelope(changed, WORLD)
    assert caught.value.field == field


@pytest.mark.box("S7.1", "forged")
def test_the_signature_of_another_key_is_refused_though_the_id_is_right():
    stolen = dataclasses.replace(GOOD, signature=signer("eve").sign(signed_bytes(GOOD)))
    with pytest.raises(InvalidSignature):
        check_envelope(stolen, WORLD)


@pytest.mark.box("S7.1", "verified")
def test_admission_knows_the_actor_its_key_and_its_nonces():
    world = World()
    world.step(GOOD, action("ada", "agent.move", {"to": [1, 1]}, 1))
    move = action("ada", "agent.move", {"to": [2, 2]}, 2)
    check_admission(world.tree, move, world_id=WORLD)
    with pytest.raises(NonceUsed):
        check_admission(world.tree, action("ada", "agent.move", {"to": [2, 2]}, 1), world_id=WORLD)
    with pytest.raises(Unauthorized):
        check_admission(world.tree, action("ada", "agent.move", {"to": [2, 2]}, 2, key="eve"), world_id=WORLD)
    with pytest.raises(Unauthorized):
        check_admission(world.tree, register("ada", 9, key="eve"), world_id=WORLD)
    with pytest.raises(WrongWorld):
        check_admission(world.tree, move, world_id="borealis")


def test_an_unknown_actor_may_register_and_act_when_its_registration_waits():
    move = action("bob", "agent.move", {"to": [2, 2]}, 2)
    check_admission(empty_world(), register("bob"), world_id=WORLD)
    with pytest.raises(Unauthorized):
        check_admission(empty_world(), move, world_id=WORLD)
    check_admission(empty_world(), move, world_id=WORLD, register_pending=True)


@pytest.mark.box("S7.1", "old-or-future")
def test_admission_bounds_the_time_only_when_it_is_given():
    late = dataclasses.replace(GOOD, timestamp_ms=10 + MAX_CLOCK_AHEAD_MS)
    late = sign_action(late, signer("ada"))
    check_admission(empty_world(), late, world_id=WORLD)
    check_admission(empty_world(), late, world_id=WORLD, now_ms=10)
    with pytest.raises(InvalidField) as caught:
        check_admission(empty_world(), late, world_id=WORLD, now_ms=9)
    assert caught.value.field == "timestamp_ms"


@pytest.mark.parametrize(
    ("kind", "payload", "error"),
    [
        ("dragon.summon", {}, Unsupported),
        ("agent.register", {}, InvalidField),
        ("object.create", {"object_id": "o", "data": bytes(16 * 1024)}, TooLarge),
    ],
)
def test_admission_refuses_payloads_that_could_never_succeed(kind, payload, error):
    with pytest.raises(error):
        check_admission(empty_world(), action("ada", kind, payload, 0), world_id=WORLD, register_pending=True)


def test_check_actor_needs_no_signature():
    check_actor(Actors(empty_world()), dataclasses.replace(GOOD, signature=b""))


POSITIONS = [
    None,
    [],
    [1],
    [1, 2, 3],
    ["1", 2],
    [True, 0],
    {"x": 1, "y": 2},
    [0, MAX_COORDINATE + 1],
    [-MAX_COORDINATE - 1, 0],
]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        *[("agent.register", {"position": value}) for value in POSITIONS],
        *[("agent.move", {"to": value}) for value in POSITIONS],
        ("agent.move", {"to": [0, 0], "speed": 1}),
        ("agent.move", {}),
        ("agent.move", []),
        ("agent.move", None),
        ("object.create", {"object_id": "o"}),
        ("object.create", {"object_id": "Not an id", "data": 1}),
        ("object.create", {"object_id": 7, "data": 1}),
        ("object.update", {"data": 1}),
        ("message.send", {"to": "bob"}),
        ("message.send", {"to": "", "body": "x"}),
        ("mailbox.clear", {"up_to": -1}),
        ("mailbox.clear", {"up_to": "1"}),
        ("mailbox.clear", {"up_to": True}),
    ],
)
def test_wrong_missing_and_unknown_fields_are_refused(kind, payload):
    with pytest.raises(ActionRefused) as caught:
        parse_payload(dataclasses.replace(GOOD, action_kind=kind, payload_cbor=encode_value(payload)))
    assert caught.value.reason_code == "invalid_field"


@pytest.mark.box("S0.3", "integers")
@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xa1", b"\xa1\x61a\xf9\x00\x00", b"\xbf\xff", b"\xa2\x61b\x01\x61a\x01"]
)
def test_payloads_that_are_not_deterministic_encodings_are_refused(data):
    with pytest.raises(ActionRefused) as caught:
        parse_payload(dataclasses.replace(GOOD, payload_cbor=data))
    assert caught.value.reason_code == "invalid_field"


def test_a_small_payload_is_decoded_once_and_a_refused_one_stays_refused():
    envelope = dataclasses.replace(GOOD)
    assert parse_payload(envelope) is parse_payload(envelope)
    large = action("ada", "object.create", {"object_id": "o", "data": [{}] * 300}, 0)
    assert parse_payload(large) is not parse_payload(large), (
        "decoded it would take many times the memory that is counted"
    )
    with pytest.raises(ActionRefused):
        parse_payload(dataclasses.replace(envelope, action_kind="dragon.summon"))
    custom = dataclasses.replace(envelope, action_kind="dragon.summon")
    assert parse_payload(custom, custom=True) == parse_payload(envelope)
    with pytest.raises(ActionRefused):  # whether modules take it may change from step to step
        parse_payload(custom)


def test_sizes_are_bounded_by_their_encoding():
    fits = {"object_id": "o", "data": bytes(16 * 1024 - 3)}
    assert parse_payload(action("ada", "object.create", fits, 0)) == fits
    too_large: list[tuple[str, dict[str, Any]]] = [
        ("object.update", {"object_id": "o", "data": bytes(16 * 1024 - 2)}),
        ("message.send", {"to": "bob", "body": "x" * 1022}),
    ]
    for kind, payload in too_large:
        with pytest.raises(ActionRefused) as caught:
            parse_payload(action("ada", kind, payload, 0))
        assert caught.value.reason_code == "too_large"


def test_kinds_without_a_rule_are_unsupported():
    assert len(ACTION_KINDS) == 18
    with pytest.raises(ActionRefused) as caught:
        parse_payload(action("ada", "dragon.summon", {}, 0))
    assert caught.value.reason_code == "unsupported"


def test_refusal_codes_are_a_closed_list():
    assert sorted(REFUSAL_CODES) == list(REFUSAL_CODES)
    with pytest.raises(ValueError, match="unknown refusal code"):
        ActionRefused("made_up", "no")
