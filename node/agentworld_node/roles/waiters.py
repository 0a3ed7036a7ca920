"""Clients that wait for actions to be settled: woken when all are, forgotten when they go, never more than a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence


class _Group:
    """One who waits for several actions, and is woken once, when the last of them is settled."""

    __slots__ = ("left", "settled")

    def __init__(self, left: int, settled: asyncio.Future[None]):
        self.left = left
        self.settled = settled

    def release(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.wake()

    def wake(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)


class Waiters:
    """Knows who waits for which action, up to ``limit`` actions in all."""

    def __init__(self, limit: int):
        self._limit = limit
        self._groups: dict[str, list[_Group]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    async def wait(self, action_ids: Sequence[str], *, settled: Callable[[str], bool], seconds: float) -> None:
        """Returns when all of these actions are settled, after so many seconds, or at once when too many wait."""
        if not action_ids or self._count + len(action_ids) > self._limit:
            return
        group = _Group(len(action_ids), asyncio.get_running_loop().create_future())
        for action_id in action_ids:
            self._groups.setdefault(action_id, []).append(group)
        self._count += len(action_ids)
        try:
            # It may have been settled between its submission and here.
            self.release(action_id for action_id in action_ids if settled(action_id))
            await asyncio.wait([group.settled], timeout=seconds)
        finally:
            self._count -= len(action_ids)
            if group.left:
                for action_id in action_ids:
                    self._forget(action_id, group)

    def release(self, action_ids: Iterable[str]) -> None:
        """Wakes those who wait for nothing but these actions any more."""
        for action_id in action_ids:
            for group in self._groups.pop(action_id, ()):
                group.release()

    def close(self) -> None:
        """Wakes everybody, and lets nobody wait from now on."""
        self._limit = 0
        for groups in self._groups.values():
            for group in groups:
                group.wake()

    def _forget(self, action_id: str, group: _Group) -> None:
        kept = self._groups.get(action_id)
        if kept is not None and group in kept:
            kept.remove(group)
            if not kept:
                del self._groups[action_id]
