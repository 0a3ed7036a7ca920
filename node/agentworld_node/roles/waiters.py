"""Clients that wait for actions to be settled: woken when they are, forgotten when they go, never more than a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence


class Waiters:
    """Holds a future for every action that somebody waits for, up to ``limit`` of them."""

    def __init__(self, limit: int):
        self._limit = limit
        self._futures: dict[str, list[asyncio.Future[None]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    async def wait(self, action_ids: Sequence[str], *, settled: Callable[[str], bool], seconds: float) -> None:
        """Returns when all of these actions are settled, after so many seconds, or at once when too many wait."""
        if not action_ids or self._count + len(action_ids) > self._limit:
            return
        loop = asyncio.get_running_loop()
        mine = [(action_id, loop.create_future()) for action_id in action_ids]
        for action_id, future in mine:
            self._futures.setdefault(action_id, []).append(future)
        self._count += len(mine)
        try:
            # It may have been settled between its submission and here.
            self.release(action_id for action_id in action_ids if settled(action_id))
            await asyncio.wait([future for _, future in mine], timeout=seconds)
        finally:
            self._count -= len(mine)
            for action_id, future in mine:
                self._forget(action_id, future)

    def release(self, action_ids: Iterable[str]) -> None:
        """Wakes those who wait for these actions."""
        for action_id in action_ids:
            for future in self._futures.pop(action_id, ()):
                if not future.done():
                    future.set_result(None)

    def _forget(self, action_id: str, future: asyncio.Future[None]) -> None:
        kept = self._futures.get(action_id)
        if kept is not None and future in kept:
            kept.remove(future)
            if not kept:
                del self._futures[action_id]
