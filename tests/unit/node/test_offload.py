"""Small work is done where it comes up, other work in a thread; either way its outcome is the same."""

from __future__ import annotations

import threading

import pytest

from agentworld_core.world.actions import Actors
from agentworld_core.world.tree import Tree
from agentworld_node.offload import SMALL_BYTES, offload
from agentworld_node.roles.verification import Verifier
from tests.unit.node.material import WORLD, agent


@pytest.mark.parametrize(("size", "small"), [(0, True), (SMALL_BYTES, True), (SMALL_BYTES + 1, False)])
async def test_only_small_work_keeps_the_event_loop_waiting(size: int, small: bool) -> None:
    assert (await offload(size, threading.get_ident) == threading.get_ident()) is small


@pytest.mark.parametrize("size", [0, SMALL_BYTES + 1])
async def test_arguments_results_and_errors_pass_through(size: int) -> None:
    assert await offload(size, int, "ff", base=16) == 255
    with pytest.raises(ValueError, match="'no number'"):
        await offload(size, int, "no number")


@pytest.mark.parametrize(
    ("count", "text", "at_once"), [(1, "short", True), (4, "short", True), (5, "short", False), (1, "x" * 5000, False)]
)
async def test_only_a_few_small_actions_are_judged_without_a_thread(count: int, text: str, at_once: bool) -> None:
    key = agent("a0")
    actions = [key.act("agent.say", {"text": text}) for _ in range(count)]
    verifier = Verifier(WORLD, workers=2)
    verifier.close()  # what needs a thread can be done no more
    judging = verifier.judge(actions, Actors(Tree.empty()), {"a0"})
    if not at_once:
        with pytest.raises(RuntimeError, match="shutdown"):
            await judging
        return
    assert [action for action, _ in await judging] == actions
