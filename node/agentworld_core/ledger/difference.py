"""Where two results of one block part: the first action whose receipt or event is another one.

A wrong state root says that something is wrong, not what. The block's own journal and receipts say what its proposer
claims to have happened; they are compared, in the order of the actions, with what execution gives, or with what the
block of another chain says. Segments are named by their content, so only one of each side has to be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from agentworld_core.messages import ActionBatch, JournalSegmentRef, Receipt, WorldEvent

_NOTHING = "nothing"
BLOCK_AND_EXECUTION = ("the block says", "execution gives")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The first thing that two results of a block do not share: an event or a receipt, and the field that differs.

    ``action_id`` is empty for what no action causes, such as the start of a step; ``position`` is the place of the
    action in its batch, or -1. ``stated`` and ``executed`` are the values of the field in the first and in the second
    result, "nothing" where it is missing.
    """

    what: str
    number: int
    field: str
    action_id: str
    position: int
    stated: Any
    executed: Any
    sides: tuple[str, str] = BLOCK_AND_EXECUTION

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; what is neither a number nor text is given as text."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "sides"}
        return {name: value if isinstance(value, str | int) else str(value) for name, value in values.items()}

    def __str__(self) -> str:
        cause = f"action {self.action_id} (position {self.position})" if self.action_id else "the step itself"
        one, other = self.sides
        return (
            f"the first difference is of {cause}: {self.what} {self.number}, {self.field}:"
            f" {one} {_brief(self.stated)}, {other} {_brief(self.executed)}"
        )


def places_of(batch: ActionBatch) -> dict[str, int]:
    """Returns the position of each action of a batch by its id."""
    return {action.action_id: position for position, action in enumerate(batch.actions)}


def compare_events(
    one: Sequence[WorldEvent], other: Sequence[WorldEvent], *, places: Mapping[str, int]
) -> Difference | None:
    """Returns the first event that differs, None when all are the same; ``places`` are those of the actions.

    Both begin at the same place. Where one side lacks an event, the two at its place are of different actions: the
    earlier of these is the one that came to something else.
    """
    for first, second in zip_longest(one, other):
        if first == second:
            continue
        known = second if second is not None else first
        causes = [item.caused_by for item in (first, second) if item is not None and item.caused_by in places]
        action_id = min(causes, key=places.__getitem__, default=known.caused_by)
        return _difference("event", known.event_id, first, second, (action_id, places.get(action_id, -1)))
    return None


def compare_receipts(one: Sequence[Receipt], other: Sequence[Receipt]) -> Difference | None:
    """Returns the first receipt that differs, None when all are the same."""
    for position, (first, second) in enumerate(zip_longest(one, other)):
        if first != second:
            known = second if second is not None else first
            return _difference("receipt", position, first, second, (known.action_id, position))
    return None


def earliest(event: Difference | None, receipt: Difference | None, receipts: Sequence[Receipt]) -> Difference | None:
    """Returns which of two differences is of the earlier action; ``receipts`` are those of the second result.

    What the step itself does before the first action comes before all of them, what it does at its end after.
    """
    if event is None or receipt is None:
        return event or receipt
    at_the_end = not event.action_id and bool(receipts) and event.number >= receipts[0].first_event_id
    return receipt if at_the_end or receipt.position < event.position else event


def differing_segment(one: Sequence[JournalSegmentRef], other: Sequence[JournalSegmentRef]) -> int | None:
    """Returns the index of the first segment that two journals do not share: the first event that differs is in it."""
    for index, (first, second) in enumerate(zip_longest(one, other)):
        if first != second:
            return index
    return None


def _difference(what: str, number: int, one: Any, other: Any, cause: tuple[str, int]) -> Difference:
    field, says, gives = what, _NOTHING if one is None else one, _NOTHING if other is None else other
    if one is not None and other is not None:
        field, says, gives = _field(one, other)
    return Difference(
        what=what,
        number=number,
        field=field,
        action_id=cause[0],
        position=cause[1],
        stated=says,
        executed=gives,
    )


def _field(one: Any, other: Any) -> tuple[str, Any, Any]:
    """Returns the name of the first field in which two messages of one kind differ, and its values."""
    for field in dataclasses.fields(one):
        says, gives = getattr(one, field.name), getattr(other, field.name)
        if says != gives:
            return field.name, says, gives
    return "", one, other


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "…"
