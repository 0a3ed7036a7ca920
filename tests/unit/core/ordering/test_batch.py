from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.errors import AgentWorldError, HashMismatch, InvalidField, TooLarge, WrongWorld
from agentworld_core.messages import ActionBatch
from agentworld_core.ordering.batch import BatchLimits, batch_id_of, check_batch, draft_batch
from tests.unit.core.membership.worlds import WORLD
from tests.unit.core.ordering.actions import action

ACTIONS = [action("a", 1), action("b", 1)]


def batch(**change: object) -> ActionBatch:
    drafted = draft_batch(WORLD, ACTIONS, height=3, term=2, proposer_id="v", timestamp_ms=9)
    return dataclasses.replace(drafted, **change)  # type: ignore[arg-type]


@pytest.mark.box("S5.2", "batch-id")
def test_the_id_covers_order_and_every_byte() -> None:
    ids = {
        batch_id_of(ACTIONS),
        batch_id_of(ACTIONS[::-1]),
        batch_id_of(ACTIONS[:1]),
        batch_id_of([]),
        batch_id_of([dataclasses.replace(ACTIONS[0], signature=b"\1" * 64), ACTIONS[1]]),
        batch_id_of([dataclasses.replace(ACTIONS[0], timestamp_ms=6), ACTIONS[1]]),
    }
    assert len(ids) == 6


@pytest.mark.box("S5.2", "max-actions", "no-repeats")
@pytest.mark.parametrize(
    ("wrong", "limits", "error"),
    [
        (batch(world_id="borealis"), BatchLimits(), WrongWorld),
        (batch(), BatchLimits(max_actions=1), TooLarge),
        (batch(), BatchLimits(max_bytes=100), TooLarge),
        (batch(actions=(ACTIONS[0], ACTIONS[0])), BatchLimits(), InvalidField),
        (batch(actions=tuple(ACTIONS[::-1])), BatchLimits(), HashMismatch),
        (batch(actions=(dataclasses.replace(ACTIONS[0], world_id="borealis"),)), BatchLimits(), WrongWorld),
    ],
)
def test_what_is_wrong_with_a_batch_is_said(wrong: ActionBatch, limits: BatchLimits, error: type[AgentWorldError]):
    check_batch(batch(), world_id=WORLD, limits=BatchLimits())
    with pytest.raises(error):
        check_batch(wrong, world_id=WORLD, limits=limits)
