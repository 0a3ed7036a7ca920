from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentworld_core.codec import decode_value, encode_value
from agentworld_core.errors import MalformedEncoding
from agentworld_core.world.nonces import NonceWindow
from agentworld_core.world.state import (
    AgentRecord,
    DirectoryRecord,
    Draft,
    MailRecord,
    Meta,
    ObjectRecord,
    WorldRecord,
    agent_key,
    directory_key,
    encode_record,
    mail_key,
    mailbox_prefix,
    nonce_key,
    object_key,
    read,
    read_agent,
    read_nonces,
    read_object,
)
from agentworld_core.world.tree import Tree
from agentworld_core.world.tree_nodes import MAX_KEY_BYTES

NUMBERS = st.integers(0, 2**63 - 1)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.one_of(
    st.builds(Meta, NUMBERS, NUMBERS, NUMBERS),
    st.builds(AgentRecord, st.binary(min_size=32, max_size=32), NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.builds(NonceWindow, NUMBERS, NUMBERS),
    st.builds(MailRecord, st.text(max_size=5), DATA, NUMBERS),
    st.builds(ObjectRecord, st.text(max_size=5), NUMBERS, DATA),
    st.builds(WorldRecord, st.text(max_size=5), st.text(max_size=5)),
    st.builds(DirectoryRecord, st.text(max_size=5), NUMBERS),
)


@given(RECORDS)
def test_every_record_has_one_deterministic_encoding_and_reads_back(record):
    encoded = encode_record(record)
    assert encoded == encode_value(record.to_value())
    assert decode_value(encoded) == record.to_value()
    assert read(Tree.of({b"key": encoded}), b"key", type(record)) == record


@pytest.mark.parametrize(
    "kind", [Meta, AgentRecord, NonceWindow, MailRecord, ObjectRecord, WorldRecord, DirectoryRecord]
)
@pytest.mark.parametrize("value", [None, {}, [], {"tick": "1"}, {"a": 1, "b": 2, "c": 3}])
def test_another_value_is_not_taken_for_a_record(kind, value):
    with pytest.raises(MalformedEncoding):
        read(Tree.of({b"key": encode_value(value)}), b"key", kind)


WRONG_FIELDS: list[dict[str, Any]] = [
    {"position": [0]},
    {"position": [0, 0, 0]},
    {"position": [0, "0"]},
    {"position": {}},
    {"mail_next": None},
    {"mail_first": b""},
    {"public_key": "k"},
    {"name": "ada"},
]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Meta, {"tick": 1, "time_ms": 1, "next_event": "1"}),
        (Meta, {"tick": 1, "time_ms": 1, "next": 1}),
        (NonceWindow, {"low": 0, "used": 0}),
        (NonceWindow, {"low": b"", "used": b""}),
        *[
            (AgentRecord, {"position": [0, 0], "mail_next": 1, "mail_first": 1, "public_key": b"k", **wrong})
            for wrong in WRONG_FIELDS
        ],
    ],
)
def test_a_record_with_one_wrong_field_is_refused(kind, value):
    with pytest.raises(MalformedEncoding):
        read(Tree.of({b"key": encode_value(value)}), b"key", kind)


def test_bytes_that_are_no_value_are_refused():
    with pytest.raises(MalformedEncoding):
        read(Tree.of({b"key": b"\x82\x01"}), b"key", Meta)


def test_the_keys_of_the_state():
    longest = "a" * 63
    assert agent_key("ada") == b"agent/ada"
    assert object_key("lamp") == b"object/lamp"
    assert nonce_key("ada", "0" * 32) == b"nonce/ada/" + b"0" * 32
    assert mail_key("ada", 7) == b"mail/ada/00000000000000000007"
    assert mail_key("ada", 7).startswith(mailbox_prefix("ada"))
    assert directory_key(2) == b"directory/00000000000000000002"
    assert max(map(len, (nonce_key(longest, "0" * 32), mail_key(longest, 2**64 - 1)))) <= MAX_KEY_BYTES


def test_what_is_not_there_is_none_or_empty():
    tree = Tree.empty()
    assert read_agent(tree, "ada") is None
    assert read_object(tree, "lamp") is None
    assert read_nonces(tree, "ada", "0" * 32) == NonceWindow()


def test_a_draft_shows_its_changes_and_leaves_its_base_alone():
    base = Tree.of({b"a": encode_record(Meta(1, 1, 1)), b"b": encode_record(Meta(2, 2, 2))})
    draft = Draft(base)
    draft.put(b"a", Meta(3, 3, 3))
    draft.put(b"a", Meta(4, 4, 4))
    draft.put(b"b", None)
    assert draft.record(b"a", Meta) == Meta(4, 4, 4)
    assert draft.record(b"b", Meta) is None
    assert draft.changes() == {b"a": encode_record(Meta(4, 4, 4)), b"b": None}
    assert read(base, b"a", Meta) == Meta(1, 1, 1)
    with pytest.raises(MalformedEncoding):
        draft.record(b"a", ObjectRecord)
