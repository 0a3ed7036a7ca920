"""The ordered input of one block: its limits, its id, and what it must look like (design decision 10, W1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict, Unpack

from agentworld_core.codec import encode, encode_value
from agentworld_core.errors import HashMismatch, InvalidField, TooLarge, WrongWorld
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionBatch, ActionEnvelope, Directory
from agentworld_core.world.actions import envelope_id


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """How many actions, and how many bytes of encoded actions, one block may contain."""

    max_actions: int = 512
    max_bytes: int = 512 * 1024


def batch_id_of(actions: Sequence[ActionEnvelope]) -> str:
    """Returns the id of an ordered batch: it covers every byte of every action, with signatures, and their order."""
    return content_id(encode_value([envelope_id(action) for action in actions]))


class BatchHeader(TypedDict):
    """What a proposer says about its batch besides the actions; ``directory`` is the change it carries, if any."""

    height: int
    term: int
    proposer_id: str
    timestamp_ms: int
    directory: NotRequired[Directory | None]


def draft_batch(world_id: str, actions: Sequence[ActionEnvelope], **header: Unpack[BatchHeader]) -> ActionBatch:
    """Returns the unsigned batch of these actions in this order."""
    return ActionBatch(
        world_id=world_id,
        batch_id=batch_id_of(actions),
        actions=tuple(actions),
        proposer_id=header["proposer_id"],
        timestamp_ms=header["timestamp_ms"],
        signature=b"",
        term=header["term"],
        height=header["height"],
        key_id="",
        directory=header.get("directory"),
    )


def check_batch(batch: ActionBatch, *, world_id: str, limits: BatchLimits) -> None:
    """Raises a typed error unless the batch is of this world, within the limits, without repeats, under its own id."""
    if batch.world_id != world_id:
        raise WrongWorld("is another world", field="world_id", value=batch.world_id)
    if len(batch.actions) > limits.max_actions:
        raise TooLarge(f"{len(batch.actions)} actions exceed the limit of {limits.max_actions}", field="actions")
    size = 0
    seen: set[str] = set()
    for index, action in enumerate(batch.actions):
        if action.world_id != world_id:
            raise WrongWorld("is another world", field=f"actions[{index}].world_id", value=action.world_id)
        if action.action_id in seen:
            raise InvalidField("is in the batch twice", field=f"actions[{index}].action_id", value=action.action_id)
        seen.add(action.action_id)
        size += len(encode(action))
    if size > limits.max_bytes:
        raise TooLarge(f"{size} bytes of actions exceed the limit of {limits.max_bytes}", field="actions")
    if batch.batch_id != batch_id_of(batch.actions):
        raise HashMismatch("is not the id of the ordered actions", field="batch_id", value=batch.batch_id)
