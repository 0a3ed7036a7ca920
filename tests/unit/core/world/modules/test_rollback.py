"""Putting a module back to what it was, with its state, by a proposal (spec sections 3.2 and 3.5)."""

from __future__ import annotations

from typing import Any

import pytest

from agentworld_core.world.kernel import replay_events
from agentworld_core.world.modules.records import (
    ActiveRecord,
    ManifestRecord,
    ModuleStateRecord,
    PreviousRecord,
    active_key,
    module_state_key,
    previous_key,
    read_manifest,
)
from agentworld_core.world.state import read
from tests.unit.core.world.modules.governed import APPROVER, AUTHOR, GovernedWorld, kinds, payload_of

BACK: dict[str, Any] = {"rollback": [{"module_id": "tally", "reason": "it counts wrong"}]}


def counter(word: str) -> Any:
    """A reducer that writes a word for each move."""
    return lambda given: {"new_state": given["state"] + word.encode()}


def a_world() -> GovernedWorld:
    """A world whose module tally has seen one move as version 1.0.0 and two as version 2."""
    world = GovernedWorld()
    world.enter("ada")
    install(world, "1.0.0", "a")
    world.move("ada")
    install(world, "2", "b")
    world.move("ada")
    world.move("ada")
    assert known(world) == ("2", b"abb")
    return world


def install(world: GovernedWorld, version: str, word: str) -> None:
    world.install("tally", counter(word), kind="reducer", version=version)


def known(world: GovernedWorld) -> tuple[str, bytes]:
    """The version in force, and what the module keeps."""
    active = read(world.tree, active_key("tally"), ActiveRecord)
    state = read(world.tree, module_state_key("tally"), ModuleStateRecord)
    return "" if active is None else active.version, b"" if state is None else state.state


def active_count(world: GovernedWorld) -> int:
    assert isinstance(read_manifest(world.tree), ManifestRecord)
    return read_manifest(world.tree).active


@pytest.mark.box("S18.2", "rollback")
def test_version_and_state_come_back_and_a_second_rollback_undoes_the_first():
    world = a_world()
    number = world.propose(BACK)
    since = read(world.tree, previous_key("tally"), PreviousRecord)
    assert since is not None
    assert (since.version, since.state) == ("1.0.0", b"a")
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok
    says = f"rolls tally back from 2 to 1.0.0, with its state of before height {since.tick}"
    assert world.report(number)["changes"] == [says]
    assert known(world) == ("2", b"abb")
    assert world.do(APPROVER, "proposal.approve", {"proposal": number}).ok
    result = world.step(world.signed(AUTHOR, "proposal.apply", {"proposal": number}))
    assert kinds(result) == ["proposal.applied", "module.rolled_back", "manifest.updated"]
    assert payload_of(result, "module.rolled_back") == {
        "module_id": "tally",
        "from_version": "2",
        "to_version": "1.0.0",
        "since_tick": since.tick,
        "reason": "it counts wrong",
    }
    assert known(world) == ("1.0.0", b"a")
    world.move("ada")
    assert known(world) == ("1.0.0", b"aa")
    world.decide(BACK)
    assert known(world) == ("2", b"abb")
    assert active_count(world) == 1
    assert replay_events(world.first, world.events) == world.tree


def test_the_module_of_a_block_is_the_one_that_was_active_when_it_began():
    world = a_world()
    number = world.propose(BACK)
    for actor, kind in ((AUTHOR, "shadow"), (APPROVER, "approve")):
        assert world.do(actor, f"proposal.{kind}", {"proposal": number}).ok
    apply, move = world.signed(AUTHOR, "proposal.apply", {"proposal": number}), {"to": [1, 0]}
    world.step(apply, world.signed("ada", "agent.move", move))
    assert known(world) == ("1.0.0", b"ab")
    assert replay_events(world.first, world.events) == world.tree


def test_a_module_that_is_new_goes_out_of_force_with_its_state():
    world = GovernedWorld()
    world.enter("ada")
    install(world, "1.0.0", "a")
    world.move("ada")
    world.decide(BACK)
    assert known(world) == ("", b"")
    assert active_count(world) == 0
    assert world.tree.get(module_state_key("tally")) is None
    world.decide(BACK)
    assert (known(world), active_count(world)) == (("1.0.0", b"a"), 1)
    assert replay_events(world.first, world.events) == world.tree


def test_one_that_was_taken_out_of_force_comes_back_as_it_was():
    world = a_world()
    world.decide({"deactivate": [{"module_id": "tally", "reason": "pause"}]})
    assert (known(world), active_count(world)) == (("", b"abb"), 0)
    world.decide(BACK)
    assert (known(world), active_count(world)) == (("2", b"abb"), 1)


def test_activating_what_is_active_keeps_the_way_back():
    world = a_world()
    world.decide({"activate": [{"module_id": "tally", "version": "2"}]})
    world.decide(BACK)
    assert known(world) == ("1.0.0", b"a")


def test_others_are_left_alone():
    world = a_world()
    world.install("other", counter("o"), kind="reducer")
    world.move("ada")
    before = [(key, value) for key, value in world.tree.items() if b"other" in key]
    world.decide(BACK)
    assert [(key, value) for key, value in world.tree.items() if b"other" in key] == before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rollback": [{"module_id": "nobody", "reason": ""}]}, "shadow_failed"),
        ({**BACK, "activate": [{"module_id": "tally", "version": "1.0.0"}]}, "shadow_failed"),
        ({**BACK, "deactivate": [{"module_id": "tally", "reason": ""}]}, "shadow_failed"),
    ],
)
def test_what_cannot_be_rolled_back_fails_its_shadow(changes: dict[str, Any], code: str):
    world = a_world()
    number = world.propose(changes)
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).code == code
    assert world.report(number)["errors"][0]["code"] == "VERSION_CONFLICT"
    assert world.report(number)["errors"][0]["path"].startswith("changes.rollback.")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rollback": [{"module_id": "tally"}]},
        {"rollback": [{"module_id": "Tally", "reason": ""}]},
        {"rollback": [{"module_id": "tally", "reason": "", "version": "1.0.0"}]},
        {"rollback": BACK["rollback"] * 2},
        {"rollback": "tally"},
    ],
)
def test_nonsense_is_no_proposal(wrong: dict[str, Any]):
    world = a_world()
    refused = world.do(AUTHOR, "proposal.create", {"base": read_manifest(world.tree).hash, "changes": wrong})
    assert refused.code == "invalid_field"
    assert "changes.rollback" in refused.message


def test_a_rollback_proposed_before_another_upgrade_is_stale():
    world = a_world()
    number = world.propose(BACK)
    install(world, "3", "c")
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).code == "stale_base"
