from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.errors import (
    AgentWorldError,
    InvalidField,
    InvalidSignature,
    KeyRevoked,
    StateMismatch,
    Unauthorized,
    WrongWorld,
)
from agentworld_core.membership.builder import Changes, key_entry, revoked_key, with_keys, with_member, without_member
from agentworld_core.membership.directory import (
    CRASH,
    check_first_directory,
    check_next_directory,
    check_threshold,
    directory_hash,
    honest_weight,
    is_expired,
    key_in_directory,
    quorum_weight,
)
from agentworld_core.messages import Directory, KeySignature
from tests.unit.core.membership.worlds import first_directory, member, signed, signer, statement, successor

FOUR = {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.mark.box("S25.1", "quorum")
@pytest.mark.parametrize(
    ("total", "byzantine", "crash"),
    [(1, 1, 1), (2, 2, 2), (3, 3, 2), (4, 3, 3), (5, 4, 3), (6, 5, 4), (7, 5, 4), (9, 7, 5), (100, 67, 51)],
)
def test_a_quorum_is_strictly_more_than_the_fraction(total: int, byzantine: int, crash: int) -> None:
    assert quorum_weight(first_directory({"a": total})) == byzantine
    assert quorum_weight(first_directory({"a": total}, fault_model=CRASH)) == crash


@pytest.mark.box("S25.1", "quorum")
def test_two_quorums_share_more_weight_than_may_lie() -> None:
    for total in range(1, 200):
        directory = first_directory({"a": total})
        quorum = quorum_weight(directory)
        shared, may_lie = 2 * quorum - total, total - quorum
        assert shared > may_lie
        assert honest_weight(directory) == may_lie + 1


@pytest.mark.box("S27.1", "threshold-recomputed")
def test_the_quorum_follows_the_members_down_again() -> None:
    one = first_directory(FOUR)
    two = successor(one, Changes(members=with_member(one, member("e"))))
    three = successor(two, Changes(members=without_member(two, "e")))
    assert [quorum_weight(item) for item in (one, two, three)] == [3, 4, 3]


@pytest.mark.box("29.1", "explicit-threshold")
@pytest.mark.box("S25.1", "quorum")
def test_an_unknown_fault_model_has_no_quorum() -> None:
    with pytest.raises(InvalidField) as caught:
        quorum_weight(dataclasses.replace(first_directory(FOUR), fault_model="Optimistic"))
    assert caught.value.field == "fault_model"


def test_a_signed_first_epoch_is_accepted() -> None:
    check_first_directory(first_directory(FOUR))


@pytest.mark.box("29.1", "explicit-threshold")
@pytest.mark.box("S25.1", "validators")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"epoch": 2}, "epoch"),
        ({"previous_hash": "0" * 64}, "previous_hash"),
        ({"members": ()}, "members"),
        ({"members": (member("a"), member("a"))}, "members[1].member_id"),
        ({"members": (member("a"), member("b", keys=[signer("a")]))}, "members[1].keys[0].key_id"),
        ({"members": (member("a"), dataclasses.replace(member("b"), peer_id="peer-a"))}, "members[1].peer_id"),
        ({"members": (member("a", weight=0),)}, "members[0].weight"),
        ({"members": (member("a", keys=[]),)}, "members[0].keys"),
        ({"members": (member("a", weight=2**63), member("b"))}, "members"),
        ({"fault_model": "None"}, "fault_model"),
        ({"governance": ()}, "governance_threshold"),
        ({"governance_threshold": 0}, "governance_threshold"),
        ({"governance_threshold": 2}, "governance_threshold"),
        ({"activation_delay": 0}, "activation_delay"),
        ({"expires_at_ms": 1000}, "expires_at_ms"),
    ],
)
def test_a_malformed_epoch_is_refused_by_its_field(change: dict[str, object], field: str) -> None:
    directory = dataclasses.replace(first_directory(FOUR), signatures=(), **change)  # type: ignore[arg-type]
    with pytest.raises(AgentWorldError) as caught:
        check_first_directory(signed(directory, "gov"))
    assert caught.value.field == field


def test_a_key_id_must_be_that_of_its_key() -> None:
    forged = dataclasses.replace(key_entry(signer("b").public_key, 1), key_id=signer("a").key_id)
    directory = dataclasses.replace(first_directory(FOUR), governance=(forged,), signatures=())
    with pytest.raises(InvalidField) as caught:
        check_first_directory(signed(directory, "b"))
    assert caught.value.field == "governance[0].key_id"


@pytest.mark.box("S27.2", "holder-is-not-enough")
def test_unsigned_half_signed_and_badly_signed_epochs_are_refused() -> None:
    directory = first_directory(FOUR, governance=("g1", "g2", "g3"), threshold=2)
    check_first_directory(directory)
    with pytest.raises(Unauthorized):
        check_first_directory(dataclasses.replace(directory, signatures=directory.signatures[:1]))
    wrong = (*directory.signatures[:2], KeySignature(directory.signatures[2].key_id, b"\1" * 64))
    with pytest.raises(InvalidSignature):
        check_first_directory(dataclasses.replace(directory, signatures=wrong))
    twice = (directory.signatures[0], directory.signatures[0])
    with pytest.raises(InvalidField):
        check_first_directory(dataclasses.replace(directory, signatures=twice))
    with pytest.raises(Unauthorized):
        check_first_directory(signed(directory, "stranger"))


def test_a_successor_signed_by_governance_is_accepted() -> None:
    one = first_directory(FOUR)
    check_next_directory(one, successor(one, Changes(members=with_member(one, member("e")))))


def _next(one: Directory, **change: object) -> Directory:
    unsigned = dataclasses.replace(successor(one, Changes()), signatures=(), **change)  # type: ignore[arg-type]
    return signed(unsigned, "gov")


@pytest.mark.box("S27.1", "lower-or-forked")
@pytest.mark.parametrize(
    ("change", "field", "error"),
    [
        ({"world_id": "borealis"}, "world_id", WrongWorld),
        ({"epoch": 1}, "epoch", StateMismatch),
        ({"epoch": 3}, "epoch", StateMismatch),
        ({"previous_hash": "a" * 64}, "previous_hash", StateMismatch),
        ({"previous_hash": ""}, "previous_hash", StateMismatch),
        ({"members": (member("a", weight=0),)}, "members[0].weight", InvalidField),
    ],
)
def test_what_does_not_follow_is_refused(change: dict[str, object], field: str, error: type[AgentWorldError]) -> None:
    one = first_directory(FOUR)
    with pytest.raises(error) as caught:
        check_next_directory(one, _next(one, **change))
    assert caught.value.field == field


@pytest.mark.box("S27.1", "lower-or-forked")
def test_a_fork_does_not_follow_the_other_branch() -> None:
    one = first_directory(FOUR)
    left = successor(one, Changes(members=without_member(one, "d")))
    right = successor(one, Changes(members=without_member(one, "c")))
    with pytest.raises(StateMismatch):
        check_next_directory(left, successor(right, Changes()))


def test_a_change_of_governance_needs_both_sides() -> None:
    one = first_directory(FOUR)
    changes = Changes(governance=[key_entry(signer("gov2").public_key, 2)])
    check_next_directory(one, successor(one, changes, "gov", "gov2"))
    for alone in ("gov", "gov2"):
        with pytest.raises(Unauthorized):
            check_next_directory(one, successor(one, changes, alone))


def test_raising_the_threshold_needs_the_new_threshold() -> None:
    one = first_directory(FOUR, governance=("g1", "g2"), threshold=1)
    changes = Changes(governance_threshold=2)
    with pytest.raises(Unauthorized):
        check_next_directory(one, successor(one, changes, "g1"))
    check_next_directory(one, successor(one, changes, "g1", "g2"))


def test_revocations_stay_and_revoked_keys_leave() -> None:
    one = first_directory(FOUR)
    leaked = signer("a").key_id
    revoked = revoked_key(statement(leaked, "gov"))
    new = key_entry(signer("a2").public_key, 2)
    old = one.members[0].keys[0]
    two = successor(one, Changes(members=with_keys(one, "a", [old, new]), revoked=[revoked]))
    check_next_directory(one, two)
    assert [key.generation for key in two.members[0].keys] == [2]
    forgotten = dataclasses.replace(successor(two, Changes()), revoked=(), signatures=())
    with pytest.raises(StateMismatch) as caught:
        check_next_directory(two, signed(forgotten, "gov"))
    assert caught.value.field == "revoked"
    brought_back = dataclasses.replace(successor(two, Changes()), members=one.members, signatures=())
    with pytest.raises(KeyRevoked):
        check_next_directory(two, signed(brought_back, "gov"))


@pytest.mark.box("S26.3", "vote-of-another")
def test_a_key_counts_for_its_member_only() -> None:
    one = first_directory(FOUR)
    assert key_in_directory(one, "a", signer("a").key_id).public_key == signer("a").public_key
    with pytest.raises(Unauthorized) as caught:
        key_in_directory(one, "b", signer("a").key_id)
    assert caught.value.field == "key_id"
    with pytest.raises(Unauthorized) as caught:
        key_in_directory(one, "z", signer("a").key_id)
    assert caught.value.field == "member_id"


def test_the_hash_does_not_depend_on_who_signed() -> None:
    one = first_directory(FOUR, governance=("g1", "g2"), threshold=1)
    fewer = dataclasses.replace(one, signatures=one.signatures[:1])
    assert directory_hash(one) == directory_hash(fewer)


def test_expiry_is_when_it_may_no_longer_be_proposed() -> None:
    one = dataclasses.replace(first_directory(FOUR), expires_at_ms=5000)
    assert [is_expired(one, now) for now in (4999, 5000)] == [False, True]
    assert not is_expired(first_directory(FOUR), 10**15)


def test_a_document_is_judged_without_the_keys_revoked_since() -> None:
    one = first_directory(FOUR, governance=("g1", "g2"), threshold=1)
    document = statement(signer("a").key_id, "g1")
    check_threshold(document, one)
    with pytest.raises(Unauthorized):
        check_threshold(document, one, revoked_key_ids=[signer("g1").key_id])
