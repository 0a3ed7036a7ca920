from __future__ import annotations

import pytest

from agentworld_core.errors import AgentWorldError, KeyRevoked, StateMismatch, Unauthorized
from agentworld_core.membership.builder import Changes, key_entry, with_keys, without_member
from agentworld_core.membership.keyring import Keyring
from tests.unit.core.membership.worlds import first_directory, signer, statement, successor

FOUR = {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.mark.box("S25.1", "removed-member")
def test_the_directory_in_force_follows_the_height() -> None:
    one = first_directory(FOUR)
    two = successor(one, Changes(members=without_member(one, "d")))
    ring = Keyring(one)
    ring.append(two, effective_height=12)
    assert [ring.at(height).epoch for height in (1, 11, 12, 99)] == [1, 1, 2, 2]
    assert ring.pending_at(11) is two
    assert ring.pending_at(12) is None
    with pytest.raises(Unauthorized):
        ring.key_at(12, member_id="d", key_id=signer("d").key_id)
    assert ring.key_at(11, member_id="d", key_id=signer("d").key_id).generation == 1


@pytest.mark.box("S27.1", "lower-or-forked")
def test_the_same_epoch_again_changes_nothing_and_another_is_a_fork() -> None:
    one = first_directory(FOUR)
    two = successor(one, Changes(members=without_member(one, "d")))
    ring = Keyring(one)
    ring.append(two, effective_height=12)
    ring.append(two, effective_height=12)
    with pytest.raises(StateMismatch):
        ring.append(two, effective_height=13)
    with pytest.raises(StateMismatch):
        ring.append(successor(one, Changes(members=without_member(one, "c"))), effective_height=12)


@pytest.mark.box("S27.1", "effective-height")
def test_an_epoch_governs_later_than_the_one_before() -> None:
    one = first_directory(FOUR)
    two = successor(one, Changes(members=without_member(one, "d")))
    ring = Keyring(one)
    ring.append(two, effective_height=12)
    with pytest.raises(StateMismatch) as caught:
        ring.append(successor(two, Changes()), effective_height=12)
    assert caught.value.field == "effective_height"


def test_a_revocation_counts_at_once_for_live_messages_and_not_for_the_past() -> None:
    ring = Keyring(first_directory(FOUR))
    leaked = signer("a").key_id
    assert ring.live_key(5, member_id="a", key_id=leaked).key_id == leaked
    ring.revocations.add(statement(leaked, "gov"))
    with pytest.raises(KeyRevoked):
        ring.live_key(5, member_id="a", key_id=leaked)
    assert ring.key_at(5, member_id="a", key_id=leaked).key_id == leaked


def test_a_member_signs_with_the_active_key_if_that_counts_else_with_its_newest_that_does() -> None:
    one = first_directory(FOUR)
    old, new = signer("a").key_id, signer("a2").key_id
    both = [one.members[0].keys[0], key_entry(signer("a2").public_key, 2)]
    ring = Keyring(one)
    ring.append(successor(one, Changes(members=with_keys(one, "a", both))), effective_height=5)

    def choice(height: int, active: str | None, *available: str) -> str | None:
        return ring.signing_key(height, member_id="a", available=available, active=active)

    assert choice(4, new, old, new) == old
    assert choice(5, old, old, new) == old
    assert choice(5, new, old, new) == new
    assert choice(5, None, old, new) == new
    assert choice(5, new, old) == old
    assert choice(5, new, "0" * 32) is None
    ring.revocations.add(statement(old, "gov"))
    assert choice(5, old, old, new) == new
    assert choice(4, old, old, new) is None
    assert ring.signing_key(5, member_id="z", available=(old,), active=old) is None


def test_a_chain_begins_with_a_valid_first_epoch() -> None:
    one = first_directory(FOUR)
    with pytest.raises(AgentWorldError):
        Keyring(successor(one, Changes()))
