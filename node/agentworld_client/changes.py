"""What changed in the state between two heights, and which events made it so, from journals that have been verified."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from agentworld_client.checkpoint import chain_before
from agentworld_client.documents import document
from agentworld_client.history import walk
from agentworld_client.source import WorldSource
from agentworld_core.codec import decode_value
from agentworld_core.messages import Genesis, WorldEvent
from agentworld_core.world.events import apply_event
from agentworld_core.world.state import Draft, Reader, Record
from agentworld_core.world.tree import Tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """The last event that touched a key; ``action_id`` is empty for the step's own events."""

    height: int
    event_id: int
    kind: str
    action_id: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyChange:
    """One key whose value differs: ``change`` is added, removed or changed; the values are decoded, None where absent.

    ``events`` counts the events between the two heights that touched the key, ``last`` is the last of them.
    """

    key: str
    change: str
    before: Any
    after: Any
    events: int
    last: Cause

    @property
    def group(self) -> str:
        """What kind of thing it belongs to: agent, object, mail, nonce, directory, meta or world."""
        return self.key.split("/", 1)[0]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"group": self.group, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """What differs from one height to another, in order of keys; going back in time swaps before and after."""

    from_height: int
    to_height: int
    from_root: str
    to_root: str
    keys: tuple[KeyChange, ...]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        fields = {name: getattr(self, name) for name in ("from_height", "to_height", "from_root", "to_root")}
        return {**fields, "keys": [change.as_dict() for change in self.keys]}


async def changes_between(
    source: WorldSource,
    genesis: Genesis,
    start: int,
    end: int,
    *,
    progress: Callable[[int, int], None] = lambda _done, _goal: None,
) -> Changes:
    """Returns what differs between two heights; 0 is the genesis.

    Raises VerificationFailed that names the first bad height, NotAvailable when the source does not reach so far.
    """
    low, high = min(start, end), max(start, end)
    chain = await chain_before(source, genesis, low)
    first = last = chain.tree
    touched: dict[bytes, tuple[int, Cause]] = {}
    async for step in walk(source, chain, high):
        height = step.bundle.block.height
        if height <= low:
            first = step.after
        else:
            _note_causes(touched, height, step.before, step.events)
        last = step.after
        progress(height, high)
    before, after = (first, last) if start <= end else (last, first)
    return Changes(
        from_height=start,
        to_height=end,
        from_root=before.root,
        to_root=after.root,
        keys=tuple(
            _change(key, old, new, count, cause)
            for key, (count, cause) in sorted(touched.items())
            if (old := before.get(key)) != (new := after.get(key))
        ),
    )


def _note_causes(
    touched: dict[bytes, tuple[int, Cause]], height: int, tree: Tree, events: Iterable[WorldEvent]
) -> None:
    draft = _Watched(tree)
    for event in events:
        apply_event(draft, event)
        cause = Cause(height=height, event_id=event.event_id, kind=event.kind, action_id=event.caused_by)
        for key in draft.taken():
            touched[key] = (touched[key][0] + 1 if key in touched else 1, cause)


def _change(key: bytes, old: bytes | None, new: bytes | None, count: int, cause: Cause) -> KeyChange:
    return KeyChange(
        key=key.decode(),
        change="added" if old is None else "removed" if new is None else "changed",
        before=None if old is None else document(decode_value(old)),
        after=None if new is None else document(decode_value(new)),
        events=count,
        last=cause,
    )


class _Watched(Draft):
    """A draft that says which keys were put since it was last asked."""

    def __init__(self, base: Reader):
        super().__init__(base)
        self._put: dict[bytes, None] = {}

    def put(self, key: bytes, record: Record | None) -> None:
        super().put(key, record)
        self._put[key] = None

    def taken(self) -> tuple[bytes, ...]:
        keys, self._put = tuple(self._put), {}
        return keys
