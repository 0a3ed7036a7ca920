"""The quick way of the codec and the way that names what is wrong have one meaning, and what is kept is never stale."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import cbor2
import pytest

from agentworld_core import codec_values
from agentworld_core.codec import decode, encode, encode_nested, encode_value, encode_with, schema_table
from agentworld_core.codec_plans import message_of, plain_of, plan_of
from agentworld_core.codec_values import MAX_DEPTH, Refused, checked_value, quick_value
from agentworld_core.errors import MalformedEncoding
from agentworld_core.messages import ActionBatch, ActionEnvelope, Actions, BlockBundle, Directory, WorldEvent
from agentworld_core.signing import signed_bytes, unsigned
from tests.unit.core.ledger.chains import Chain, make_genesis, make_head
from tests.unit.core.test_codec import action
from tests.unit.core.world.agents import register

KEYS = ("b", "a", "aa", "é", "Z", "", "ab", "ключ", "e\u0301", "a" * 24, "10", "9", "😀")


def test_the_kinds_of_maps_that_are_remembered_are_few_small_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered: set[tuple[str, ...]] = set()
    monkeypatch.setattr(codec_values, "_in_order", remembered)
    for number in range(3000):
        quick_value({f"key-{number:05}": 1})
    assert len(remembered) == codec_values._REMEMBERED
    remembered.clear()
    for value in ({"b": 1, "a": 2}, {"x" * 65: 1}, {f"k{number}": 1 for number in range(9)}, {"é": 1}):
        for _ in range(2):
            assert list(quick_value(value)) == list(checked_value(value, "value"))
    assert remembered == set()
    with pytest.raises(Refused):
        quick_value({1: 1})
    for _ in range(2):
        assert encode_value({"a": [], "to": {"a": 1}}) == cbor2.dumps({"a": [], "to": {"a": 1}})
    assert remembered == {("a", "to"), ("a",)}


def test_maps_are_sorted_alike_in_whatever_order_they_come():
    chance = random.Random(15)
    for _ in range(2000):
        keys = chance.sample(KEYS, chance.randrange(len(KEYS)))
        value = {key: {other: [1] for other in keys} if chance.random() < 0.2 else None for key in keys}
        expected = cbor2.dumps(checked_value(value, "value"))
        assert encode_value(value) == encode_nested(value) == expected == cbor2.dumps(value, canonical=True)
        assert encode_value(cbor2.loads(expected)) == expected


@pytest.mark.parametrize("leaf", [1, None, "a", [], {}, b""])
@pytest.mark.parametrize(
    "around", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: {"b": 1, "a": inner}]
)
def test_data_may_be_nested_as_deep_both_ways(leaf, around):
    for depth in range(MAX_DEPTH - 2, MAX_DEPTH + 3):
        value = leaf
        for _ in range(depth):
            value = around(value)
        try:
            expected: Any = checked_value(value, "value")
        except MalformedEncoding:
            expected = None
        if expected is None:
            with pytest.raises(Refused):
                quick_value(value, 0)
        else:
            assert quick_value(value, 0) == expected
        assert encode_nested(value) == cbor2.dumps(value, canonical=True)


def samples() -> list[Any]:
    """Messages with everything inside that the codec knows: messages, sequences, optional fields, values."""
    chain = Chain()
    chain.commit(register("alice"))
    chain.commit()
    genesis = make_genesis()
    executed = chain.executions[0]
    return [
        action(),
        *chain.bundles,
        chain.bundles[0].block,
        chain.bundles[0].batch,
        chain.bundles[0].certificate,
        make_head(chain.bundles[0]),
        genesis,
        genesis.directory,
        *executed.events,
        *executed.receipts,
    ]


@pytest.mark.box("S1.4", "round-trip")
@pytest.mark.parametrize("message", samples(), ids=lambda message: type(message).__name__)
def test_both_ways_give_the_same(message: Any):
    cls = type(message)
    plain = plain_of(message, cls, "")
    assert plan_of(cls).to_plain(message) == plain
    assert encode(message) == cbor2.dumps(plain)
    assert plan_of(cls).build(plain) == message_of(cls, plain, "") == message
    assert decode(cls, encode(message)) == message


def test_every_declared_message_has_a_plan():
    for cls in schema_table().values():
        assert len(plan_of(cls).fields) == len(dataclasses.fields(cls))


def test_an_error_inside_a_batch_is_named_with_its_path():
    good, bad = action(), action(nonce=-1)
    with pytest.raises(MalformedEncoding) as caught:
        encode(Actions((good, bad)))
    assert caught.value.field == "actions[1].nonce"
    with pytest.raises(MalformedEncoding) as caught:
        encode(Actions((good, "no action")))  # type: ignore[arg-type]
    assert caught.value.field == "actions[1]"
    with pytest.raises(MalformedEncoding) as caught:
        encode(Actions(7))  # type: ignore[arg-type]
    assert caught.value.field == "actions"


def test_a_sequence_above_its_limit_is_named():
    with pytest.raises(MalformedEncoding) as caught:
        encode(Actions((action(),) * 4097))
    assert caught.value.field == "actions"


def test_what_a_signature_covers_is_the_message_without_it():
    for message in samples():
        if isinstance(message, BlockBundle) or not hasattr(message, "world_id"):
            continue
        without = unsigned(message) if hasattr(message, "signature") or hasattr(message, "signatures") else None
        if without is not None:
            assert signed_bytes(message).endswith(b"\0" + encode(without))


def test_fields_set_for_an_encoding_are_those_of_a_replaced_message():
    one = action()
    changes: dict[str, Any] = {"action_id": "", "signature": b""}
    expected = encode(dataclasses.replace(one, **changes))
    assert encode_with(one, changes) == expected, "before it has been encoded"
    assert encode(one) == encode(action()), "the message itself is as it was"
    assert encode_with(one, changes) == expected, "after it has been encoded"
    directory = make_genesis().directory
    assert encode_with(directory, {"signatures": ()}) == encode(dataclasses.replace(directory, signatures=()))


def test_an_encoding_that_is_kept_belongs_to_its_message_alone():
    one = action()
    first = encode(one)
    assert encode(one) is first
    other = dataclasses.replace(one, nonce=8)
    assert encode(other) != first
    assert encode(other) == cbor2.dumps(plain_of(other, ActionEnvelope, ""))
    assert one == action()
    assert repr(one) == repr(action())
    assert hash(one) == hash(action())


def test_nothing_is_kept_of_a_message_that_can_still_change():
    batch = Chain().propose(register("alice")).batch
    actions = list(batch.actions)
    open_batch = dataclasses.replace(batch, actions=actions)  # type: ignore[arg-type]
    before = encode(open_batch)
    actions.clear()
    assert encode(open_batch) != before


def test_only_messages_without_values_keep_their_encoding():
    keeping = [cls for cls in schema_table().values() if cls.KEEPS_ENCODING]
    assert ActionBatch in keeping
    assert [cls.__name__ for cls in keeping if plan_of(cls).has_values] == []
    assert not Directory.KEEPS_ENCODING  # type: ignore[attr-defined]
    assert not WorldEvent.KEEPS_ENCODING  # type: ignore[attr-defined]


def test_messages_decoded_in_a_list_keep_the_encoding_that_each_has_alone():
    first, second = action(), dataclasses.replace(action(), nonce=8)
    decoded = decode(Actions, encode(Actions((first, second)))).actions
    assert [encode(one) for one in decoded] == [encode(dataclasses.replace(one)) for one in (first, second)]
    assert encode(decoded[0]) is encode(decoded[0])
