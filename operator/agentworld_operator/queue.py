"""One queue of keys that need a reconcile: coalesced, one worker a key at a time, failures retried with backoff.

It knows nothing of Kubernetes. A key that is added while it is being worked on is worked on once more afterwards, so no
change is ever missed; a key that is added twice is worked on once, so no change is ever worked on twice.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from agentworld_core.errors import AgentWorldError

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
Reconcile = Callable[[K], Awaitable[float | None]]
"""Works on one key; returns after how many seconds it wants to be called again, or None."""


class WorkQueue(Generic[K]):
    """Holds keys until their time has come and hands each to one worker at a time."""

    def __init__(self, *, clock: Callable[[], float], base_delay: float = 0.5, max_delay: float = 60.0):
        self._clock = clock
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._busy: dict[K, bool] = {}
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()
        self.done = 0
        self.failed = 0

    def add(self, key: K, *, delay: float = 0.0) -> None:
        """Asks for a reconcile of the key in ``delay`` seconds, or earlier when that was asked for already."""
        if key in self._busy and delay <= 0:
            self._busy[key] = True
            return
        due = self._clock() + max(delay, 0.0)
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._wake.set()

    def __len__(self) -> int:
        """The number of keys that are worked on, due, or wait for their time."""
        return len(self._due) + len(self._busy)

    def depth(self) -> int:
        """Returns how many keys are due or worked on; those that wait for their time do not count."""
        now = self._clock()
        return len(self._busy) + sum(1 for due in self._due.values() if due <= now)

    def age(self) -> float:
        """Returns for how many seconds the longest waiting key is overdue."""
        now = self._clock()
        return max((now - due for due in self._due.values() if due < now), default=0.0)

    def failures(self, key: K) -> int:
        """Returns how often the key has failed since it last succeeded."""
        return self._failures.get(key, 0)

    async def run(self, reconcile: Reconcile[K], *, workers: int = 4) -> None:
        """Works on keys until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(reconcile))

    async def _work(self, reconcile: Reconcile[K]) -> None:
        while True:
            key = await self._next()
            self._busy[key] = False
            delay: float | None
            try:
                delay = await reconcile(key)
            except AgentWorldError as error:
                delay = self._after_failure(key)
                log.warning("%s: %s; again in %.1f s", key, error, delay)
            except Exception:
                # The worker must outlive whatever goes wrong with one key.
                delay = self._after_failure(key)
                log.exception("%s: failed; again in %.1f s", key, delay)
            else:
                self.done += 1
                self._failures.pop(key, None)
            if self._busy.pop(key):
                delay = 0.0
            if delay is not None:
                self.add(key, delay=delay)

    async def _next(self) -> K:
        while True:
            now = self._clock()
            while self._heap:
                due, _, key = self._heap[0]
                if self._due.get(key) != due:
                    heapq.heappop(self._heap)
                    continue
                if due > now:
                    break
                if key in self._busy:
                    # Somebody works on it: remember, and let that worker put it back.
                    heapq.heappop(self._heap)
                    del self._due[key]
                    self._busy[key] = True
                    continue
                heapq.heappop(self._heap)
                del self._due[key]
                return key
            self._wake.clear()
            timeout = self._heap[0][0] - now if self._heap else None
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _after_failure(self, key: K) -> float:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        self.failed += 1
        return min(self._base_delay * 2.0 ** min(count - 1, 16), self._max_delay)
