"""Ids, names, hashing, errors and signing."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentworld_core import ids, names
from agentworld_core.errors import WIRE_CODES, AgentWorldError, InvalidField, InvalidSignature
from agentworld_core.hashing import content_id
from agentworld_core.messages import Revocation, Vote
from agentworld_core.signing import (
    Ed25519Signer,
    add_signature,
    key_id_of,
    sign,
    signed_bytes,
    unsigned_id,
    verify,
    verify_bytes,
)

SIGNER = Ed25519Signer(b"\x01" * 32)
OTHER = Ed25519Signer(b"\x02" * 32)
VOTE = Vote("w1", 1, 1, 0, 1, None, 1, "a", "0" * 32, b"")


@pytest.mark.box("S1.1", "grammar")
@pytest.mark.parametrize("good", ["a", "0", "a-b", "a" * 63, "world-1"])
def test_ids_that_are_allowed(good):
    assert ids.check_id(good, field="x") == good


@pytest.mark.box("S1.1", "grammar")
@pytest.mark.parametrize("bad", ["", "-a", "a-", "A", "a.b", "a/b", "..", "a" * 64, "a_b", "é", "a\n", None, 5, b"a"])
def test_ids_that_are_refused_name_field_and_remedy(bad):
    with pytest.raises(InvalidField) as caught:
        ids.check_id(bad, field="world_id")
    assert caught.value.field == "world_id"
    assert "lower-case" in str(caught.value)


@pytest.mark.box("S1.1", "topics", "keys", "protocols")
def test_topics_and_keys_are_exactly_those_of_the_specification():
    suffixes = ["action", "block", "head", "event", "membership", "membership.revoke", "membership.reconcile"]
    assert [names.topic("w1", suffix) for suffix in suffixes] == [f"aw.w1.{suffix}" for suffix in suffixes]
    assert names.head_key("w1") == "/aw/world/w1/head"
    assert names.providers_key("w1", "hash") == "/aw/world/w1/providers/hash"
    assert names.membership_key("w1") == "/aw/world/w1/membership"
    assert names.protocol("fetch_blob") == "/aw/rr/1.0.0/fetch_blob"
    with pytest.raises(InvalidField):
        names.topic("a.b", "head")


def test_the_peer_id_of_a_known_key():
    assert names.peer_id_of(SIGNER.public_key) == "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"


@pytest.mark.box("S1.4", "vectors")
def test_the_content_id_of_a_known_text():
    assert content_id(b"hello-blob") == "aa5b020496d86b370c0e3da0be6ef9cf1b27c896f97c2ba73981ea9b6c99f417"


def all_errors(cls: type[AgentWorldError]) -> list[type[AgentWorldError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in all_errors(child))]


@pytest.mark.box("S1.3", "retryable")
def test_error_codes_are_known_and_retryable_follows_from_the_code():
    for error in all_errors(AgentWorldError):
        assert error.wire in WIRE_CODES, error
    from agentworld_core.errors import Busy, NotFound

    assert Busy("full").retryable
    assert not NotFound("gone").retryable
    assert Busy("full", field="mempool", value=3).as_dict()["code"] == "busy"


@pytest.mark.box("S1.4", "signatures")
def test_a_signature_verifies_and_every_changed_field_breaks_it():
    signed = sign(VOTE, SIGNER)
    verify(signed, SIGNER.public_key)
    assert signed.key_id == SIGNER.key_id == key_id_of(SIGNER.public_key)
    for change in (
        {"world_id": "w2"},
        {"height": 2},
        {"term": 2},
        {"attempt": 1},
        {"phase": 2},
        {"block_hash": "0" * 64},
        {"directory_epoch": 2},
        {"validator_id": "b"},
        {"key_id": OTHER.key_id},
        {"signature": bytes(64)},
        {"signature": b""},
    ):
        with pytest.raises(InvalidSignature):
            verify(dataclasses.replace(signed, **change), SIGNER.public_key)
    with pytest.raises(InvalidSignature):
        verify(signed, OTHER.public_key)


@pytest.mark.box("S1.4", "signatures")
def test_signed_bytes_separate_message_and_world():
    assert signed_bytes(VOTE).startswith(b"agentworld/v1/vote/w1\0")


def test_several_signatures_are_ordered_and_do_not_change_the_id():
    statement = Revocation("w1", "0" * 32, "lost", 5, "ops", ())
    one = add_signature(add_signature(statement, SIGNER), OTHER)
    two = add_signature(add_signature(add_signature(statement, OTHER), SIGNER), SIGNER)
    assert one == two
    assert unsigned_id(one) == unsigned_id(statement)
    for item in one.signatures:
        key = {SIGNER.key_id: SIGNER, OTHER.key_id: OTHER}[item.key_id]
        assert verify_bytes(key.public_key, item.signature, signed_bytes(statement))


# An X448 key of the wrong length, for which the library blames itself.
SHORT_X448 = SIGNER.pem().replace(b"K2Vw", b"K2Vv")


def test_pem_round_trip_and_broken_pem():
    assert Ed25519Signer.from_pem(SIGNER.pem()).key_id == SIGNER.key_id
    for broken in (b"", b"nonsense", SIGNER.pem()[:-40], SIGNER.pem().replace(b"PRIVATE", b"PUBLIC"), SHORT_X448):
        with pytest.raises(InvalidField) as caught:
            Ed25519Signer.from_pem(broken, field="g1.pem")
        assert caught.value.field == "g1.pem"


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_a_bad_signature_not_a_crash(key, signature):
    assert not verify_bytes(key, signature, b"data")


def test_a_signer_never_prints_its_key():
    assert SIGNER.seed.hex() not in repr(SIGNER)
