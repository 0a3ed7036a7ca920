"""Where an execution departs from what a block claims: the first action whose receipt or event is another one.

A wrong state root says that something is wrong, not what. The block's own journal and receipts say what its proposer
claims to have happened; they are compared, in the order of the actions, with what execution gives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from agentworld_core.ledger.block import Execution
from agentworld_core.messages import Receipt, WorldEvent

_NOTHING = "nothing"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The first thing of a block that execution does not give: an event or a receipt, and the field that differs.

    ``action_id`` is empty for what no action causes, such as the start of a step; ``position`` is the place of the
    action in its batch, or -1. ``stated`` and ``executed`` are the values of the field, "nothing" where it is missing.
    """

    what: str
    number: int
    field: str
    action_id: str
    position: int
    stated: Any
    executed: Any

    def __str__(self) -> str:
        cause = f"action {self.action_id} (position {self.position})" if self.action_id else "the step itself"
        return (
            f"the first difference is of {cause}: {self.what} {self.number}, {self.field}:"
            f" the block says {_brief(self.stated)}, execution gives {_brief(self.executed)}"
        )


def first_difference(
    events: Sequence[WorldEvent], receipts: Sequence[Receipt], execution: Execution
) -> Difference | None:
    """Returns where the events and receipts of a block first depart from its execution, None when they agree."""
    places = {receipt.action_id: receipt.position for receipt in execution.receipts}
    found = [
        difference
        for difference in (
            _first("event", events, execution.events, places),
            _first("receipt", receipts, execution.receipts, places),
        )
        if difference is not None
    ]
    return min(found, key=lambda item: item.position) if found else None


def _first(
    what: str,
    stated: Sequence[Any],
    executed: Sequence[Any],
    places: dict[str, int],
) -> Difference | None:
    for index, (one, other) in enumerate(zip_longest(stated, executed)):
        if one == other:
            continue
        known = other if other is not None else one
        action_id = known.caused_by if isinstance(known, WorldEvent) else known.action_id
        field, says, gives = what, _NOTHING if one is None else one, _NOTHING if other is None else other
        if one is not None and other is not None:
            field, says, gives = _field(one, other)
        return Difference(
            what=what,
            number=known.event_id if isinstance(known, WorldEvent) else index,
            field=field,
            action_id=action_id,
            position=places.get(action_id, -1),
            stated=says,
            executed=gives,
        )
    return None


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
