from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.membership.builder import next_directory, with_member
from agentworld_core.membership.changes import WantedMember, plan_members
from agentworld_core.membership.directory import check_next_directory
from agentworld_core.membership.steps import Done, PublishDirectory, Refused, Step, Wait
from agentworld_core.messages import Directory, Member
from tests.unit.core.membership.worlds import first_directory, member, signed

FOUR = first_directory({"a": 1, "b": 1, "c": 1, "d": 1})


def wanted(*members: Member, syncing: tuple[str, ...] = ()) -> list[WantedMember]:
    return [WantedMember(item, item.member_id not in syncing) for item in members]


def apply(current: Directory, step: Step) -> list[str]:
    assert isinstance(step, PublishDirectory), step
    proposed = signed(next_directory(current, step.changes, now_ms=2000, reason=step.reason), "gov")
    check_next_directory(current, proposed)
    return [item.member_id for item in proposed.members]


@pytest.mark.box("S27.1", "add-present")
def test_all_are_members_already() -> None:
    assert plan_members(wanted(*FOUR.members), FOUR, None) == Done()


@pytest.mark.box("S27.1", "add")
def test_a_validator_joins_when_it_has_caught_up() -> None:
    new = wanted(*FOUR.members, member("e"), syncing=("e",))
    assert plan_members(new, FOUR, None) == Wait("JoiningToSync", ("e",))
    ready = wanted(*FOUR.members, member("e"))
    step = plan_members(ready, FOUR, None)
    assert apply(FOUR, step) == ["a", "b", "c", "d", "e"]
    assert isinstance(step, PublishDirectory)
    assert step.reason == "add e"


def test_one_that_is_ready_does_not_wait_for_one_that_is_not() -> None:
    new = wanted(*FOUR.members, member("e"), member("f"), syncing=("f",))
    assert apply(FOUR, plan_members(new, FOUR, None)) == ["a", "b", "c", "d", "e"]


@pytest.mark.box("S27.1", "one-in-flight")
def test_one_change_at_a_time() -> None:
    pending = dataclasses.replace(FOUR, epoch=2, members=with_member(FOUR, member("e")))
    assert plan_members(wanted(*FOUR.members, member("e")), FOUR, pending) == Wait("DirectoryPending")


@pytest.mark.box("S27.1", "remove")
def test_leaving_is_removal() -> None:
    assert apply(FOUR, plan_members(wanted(*FOUR.members[:3]), FOUR, None)) == ["a", "b", "c"]


@pytest.mark.box("S27.1", "quorum-kept")
def test_more_than_a_quorum_can_lack_leave_only_by_force() -> None:
    step = plan_members(wanted(*FOUR.members[:2]), FOUR, None)
    assert isinstance(step, Refused)
    assert (step.reason, step.names) == ("TooManyLeaving", ("c", "d"))
    assert apply(FOUR, plan_members(wanted(*FOUR.members[:2]), FOUR, None, force=True)) == ["a", "b"]


@pytest.mark.box("S27.1", "quorum-kept")
def test_nobody_leaves_while_those_who_stay_could_not_decide_without_it() -> None:
    """Of four one is away: three decide. Of the three that would be left all must, and one of them is away."""
    three = wanted(*FOUR.members[:3], syncing=("b",))
    step = plan_members(three, FOUR, None)
    assert isinstance(step, Refused)
    assert (step.reason, step.names) == ("OthersAway", ("d",))
    assert (step.what, "weight 3 of 3" in step.message) == ("may not leave", True)
    assert "b is away or behind" in step.message
    assert apply(FOUR, plan_members(three, FOUR, None, force=True)) == ["a", "b", "c"]
    away = wanted(*(member for member in FOUR.members if member.member_id != "b"))
    assert apply(FOUR, plan_members(away, FOUR, None)) == ["a", "c", "d"], "who is away may leave"
    replaced = wanted(*FOUR.members[:3], member("e"), syncing=("b",))
    assert apply(FOUR, plan_members(replaced, FOUR, None)) == ["a", "b", "c", "e"], "or somebody takes its place"
    light = first_directory({"a": 4, "b": 4, "c": 4, "d": 1, "e": 1})
    stays = wanted(*light.members[:4], syncing=("d",))
    assert apply(light, plan_members(stays, light, None)) == ["a", "b", "c", "d"], "it is weight that counts"


@pytest.mark.box("S27.1", "reweight")
def test_nobody_gets_a_weight_without_which_those_who_are_there_could_not_decide() -> None:
    heavy = [dataclasses.replace(FOUR.members[1], weight=10), *(item for item in FOUR.members if item.member_id != "b")]
    step = plan_members(wanted(*heavy, syncing=("b",)), FOUR, None)
    assert isinstance(step, Refused)
    assert (step.names, step.what) == (("b",), "may not have another weight")
    assert "weight 9 of 13" in step.message
    assert apply(FOUR, plan_members(wanted(*heavy, syncing=("b",)), FOUR, None, force=True)) == ["a", "b", "c", "d"]
    assert apply(FOUR, plan_members(wanted(*heavy), FOUR, None)) == ["a", "b", "c", "d"]
    other = [dataclasses.replace(FOUR.members[0], weight=10), *FOUR.members[1:]]
    assert apply(FOUR, plan_members(wanted(*other, syncing=("b",)), FOUR, None)) == ["a", "b", "c", "d"]


@pytest.mark.box("S27.1", "remove-last")
def test_the_last_member_stays() -> None:
    one = first_directory({"a": 1})
    step = plan_members([], one, None, force=True)
    assert isinstance(step, Refused)
    assert step.reason == "LastMember"
    replaced = plan_members(wanted(member("b"), syncing=("b",)), one, None, force=True)
    assert replaced == Wait("JoiningToSync", ("b",))


@pytest.mark.box("S27.1", "reweight")
def test_weight_and_address_follow_and_keys_are_left_to_rotation() -> None:
    heavier = dataclasses.replace(FOUR.members[0], weight=3, peer_id="elsewhere", keys=member("x").keys)
    step = plan_members(wanted(heavier, *FOUR.members[1:]), FOUR, None)
    assert isinstance(step, PublishDirectory)
    changed = next(iter(step.changes.members or ()))
    assert (changed.weight, changed.peer_id, changed.keys) == (3, "elsewhere", FOUR.members[0].keys)
