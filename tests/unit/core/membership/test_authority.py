"""Who may change the members: governance alone, whoever writes the blocks and whatever a node says of itself."""

from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.errors import AgentWorldError, Unauthorized
from agentworld_core.membership.builder import Changes, next_directory, with_member, without_member
from agentworld_core.membership.changes import WantedMember, plan_members
from agentworld_core.membership.directory import check_next_directory, quorum_weight
from agentworld_core.membership.steps import Done, PublishDirectory, Wait
from agentworld_core.messages import Directory
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.membership.worlds import first_directory, member, signed

FOUR = first_directory({"a": 1, "b": 1, "c": 1, "d": 1})


def with_e(current: Directory) -> Directory:
    """The next epoch with another member, not signed."""
    return next_directory(current, Changes(members=with_member(current, member("e"))), now_ms=2000)


@pytest.mark.box("S27.2", "holder-is-not-enough")
@pytest.mark.parametrize("signers", [(), ("a",), ("a", "b", "c", "d"), ("e",)])
def test_validators_add_nobody_not_even_all_of_them(signers: tuple[str, ...]) -> None:
    with pytest.raises(Unauthorized):
        check_next_directory(FOUR, signed(with_e(FOUR), *signers))
    check_next_directory(FOUR, signed(with_e(FOUR), "gov"))


@pytest.mark.box("S27.2", "holder-is-not-enough")
@pytest.mark.box("S27.3", "not-auto-added")
def test_who_writes_the_block_cannot_put_a_member_into_it() -> None:
    chain = Chain()
    first = chain.state.directory_at(1)
    chain.commit(term=3)
    with pytest.raises(Unauthorized):
        chain.commit(directory=signed(with_e(first), "a"), term=3)
    chain.commit(term=3)
    chain.commit(term=3)
    assert chain.state.directory_at(4) == first, "writing in a term makes nobody a member and changes no weight"


@pytest.mark.box("S27.3", "by-governance-once")
@pytest.mark.box("S27.1", "add-present")
def test_who_is_wanted_is_added_once_and_nobody_who_is_not() -> None:
    wanted = [WantedMember(item, synced=True) for item in (*FOUR.members, member("e"))]
    step = plan_members(wanted, FOUR, None)
    assert isinstance(step, PublishDirectory)
    five = next_directory(FOUR, step.changes, now_ms=2000)
    assert plan_members(wanted, five, None) == Done()
    assert plan_members(wanted[:4], FOUR, None) == Done()


@pytest.mark.box("S27.1", "remove-absent")
def test_to_want_somebody_gone_who_is_not_there_changes_nothing() -> None:
    three = next_directory(FOUR, Changes(members=without_member(FOUR, "d")), now_ms=2000)
    wanted = [WantedMember(item, synced=True) for item in three.members]
    assert plan_members(wanted, three, None) == Done()


@pytest.mark.box("S27.4", "pending")
def test_a_change_on_its_way_holds_up_the_next_one_until_it_is_in_force() -> None:
    wanted = [WantedMember(item, synced=True) for item in (*FOUR.members, member("e"), member("f"))]
    five = with_e(FOUR)
    assert plan_members(wanted, FOUR, five) == Wait("DirectoryPending")
    step = plan_members(wanted, five, None)
    assert isinstance(step, PublishDirectory)
    assert quorum_weight(next_directory(five, step.changes, now_ms=2000)) == 5


@pytest.mark.box("S27.1", "blank-id")
@pytest.mark.parametrize("name", ["", " ", "Not an id", "a" * 300])
def test_a_member_has_a_proper_id(name: str) -> None:
    """No such directory can even be written or read."""
    wrong = dataclasses.replace(member("e"), member_id=name)
    with pytest.raises(AgentWorldError) as caught:
        check_next_directory(FOUR, signed(next_directory(FOUR, Changes(members=[wrong]), now_ms=2000), "gov"))
    assert (caught.value.field or "").endswith("members[0].member_id")
