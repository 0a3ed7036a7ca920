from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.errors import InvalidSignature, StateMismatch, Unauthorized, WrongWorld
from agentworld_core.membership.builder import Changes, key_entry, revoked_key, with_keys
from agentworld_core.membership.revocation import RevocationSet, check_revocation, set_hash
from tests.unit.core.membership.worlds import first_directory, signed, signer, statement, successor

FOUR = {"a": 1, "b": 1, "c": 1, "d": 1}
LEAKED = signer("a").key_id


def test_a_statement_of_the_governance_threshold_is_accepted() -> None:
    directory = first_directory(FOUR, governance=("g1", "g2", "g3"), threshold=2)
    check_revocation(statement(LEAKED, "g1", "g3"), directory)
    with pytest.raises(Unauthorized):
        check_revocation(statement(LEAKED, "g1"), directory)
    with pytest.raises(Unauthorized):
        check_revocation(statement(LEAKED, "a", "b"), directory)
    with pytest.raises(Unauthorized):
        check_revocation(statement(LEAKED), directory)


def test_nothing_in_a_statement_can_be_changed_afterwards() -> None:
    directory = first_directory(FOUR)
    honest = statement(LEAKED, "gov")
    check_revocation(honest, directory)
    for change in ({"key_id": signer("b").key_id}, {"reason": "other"}, {"revoked_at_ms": 1}, {"requester_id": "x"}):
        with pytest.raises(InvalidSignature):
            check_revocation(dataclasses.replace(honest, **change), directory)
    with pytest.raises(WrongWorld):
        check_revocation(dataclasses.replace(honest, world_id="borealis"), directory)


def test_a_revoked_governance_key_signs_nothing_but_its_own_revocation() -> None:
    directory = first_directory(FOUR, governance=("g1", "g2"), threshold=1)
    own = signer("g1").key_id
    check_revocation(statement(own, "g1"), directory)
    with pytest.raises(Unauthorized):
        check_revocation(statement(LEAKED, "g1"), directory, revoked_key_ids=[own])
    check_revocation(statement(own, "g1"), directory, revoked_key_ids=[own])


def test_the_last_usable_governance_key_is_kept_unless_forced() -> None:
    directory = first_directory(FOUR, governance=("g1", "g2"), threshold=1)
    first, last = signer("g1").key_id, signer("g2").key_id
    check_revocation(statement(first, "g2"), directory)
    with pytest.raises(StateMismatch) as caught:
        check_revocation(statement(last, "g2"), directory, revoked_key_ids=[first])
    assert caught.value.field == "key_id"
    check_revocation(statement(last, "g2"), directory, revoked_key_ids=[first], forced=True)


def test_a_threshold_that_could_not_be_reached_any_more_counts_as_the_last() -> None:
    directory = first_directory(FOUR, governance=("g1", "g2"), threshold=2)
    with pytest.raises(StateMismatch):
        check_revocation(statement(signer("g1").key_id, "g1", "g2"), directory)


def test_a_listed_statement_outlives_the_governance_key_that_signed_it() -> None:
    one = first_directory(FOUR)
    proof = statement(LEAKED, "gov")
    members = with_keys(one, "a", [key_entry(signer("a2").public_key, 2)])
    new_governance = [key_entry(signer("gov2").public_key, 2)]
    changes = Changes(members=members, governance=new_governance, revoked=[revoked_key(proof)])
    two = successor(one, changes, "gov", "gov2")
    check_revocation(proof, two)
    with pytest.raises(Unauthorized):
        check_revocation(statement(signer("b").key_id, "gov"), two)
    with pytest.raises(Unauthorized):
        check_revocation(statement(LEAKED, "gov", reason="another"), two)


def test_the_set_only_grows_and_hashes_the_same_everywhere() -> None:
    one, two = statement(LEAKED, "gov"), statement(signer("b").key_id, "gov")
    left, right = RevocationSet([one]), RevocationSet()
    assert left.hash != right.hash
    assert right.add(two)
    assert right.add(one)
    assert not right.add(one)
    assert not right.add(statement(LEAKED, "gov", reason="later"))
    assert right.get(LEAKED) == one
    assert left.missing_from(right.key_ids) == ()
    assert right.missing_from(left.key_ids) == (two,)
    left.add(two)
    assert left.hash == right.hash == set_hash([signer("b").key_id, LEAKED])
    assert left.as_message("aurora") == right.as_message("aurora")
    assert LEAKED in left
    assert len(left) == 2


def test_listing_it_in_a_directory_needs_the_key_to_leave() -> None:
    one = first_directory(FOUR)
    two = successor(one, Changes(revoked=[revoked_key(statement(LEAKED, "gov"))]))
    assert two.members[0].keys == ()
    assert signed(two, "gov") == two
