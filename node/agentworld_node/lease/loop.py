"""Keeps or watches the writer lease: reads, lets the pure keeper decide, writes, and reports every change of view."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agentworld_core.errors import NotAvailable
from agentworld_core.ordering.lease import LeaseKeeper, LeaseTimings, Release, Wait
from agentworld_node.lease.port import LeaseStore

log = logging.getLogger(__name__)

STORE_SECONDS = 5.0


class LeaseLoop:
    """Runs one node's side of the writer lease; ``view`` is (term, holder) as far as this node can tell."""

    def __init__(
        self,
        *,
        node_id: str,
        store: LeaseStore,
        timings: LeaseTimings,
        wanted: Callable[[], bool],
        term_floor: Callable[[], int],
    ):
        self._keeper = LeaseKeeper(node_id, timings)
        self._store = store
        self._timings = timings
        self._wanted = wanted
        self._term_floor = term_floor
        self._poke = asyncio.Event()
        self._releasing = False
        self.view: tuple[int, str | None] = (0, None)
        self.on_view: Callable[[int, str | None], None] = lambda _term, _holder: None

    @property
    def is_held(self) -> bool:
        """True while this node may act as the writer, by its own monotonic clock."""
        return self._keeper.is_held(self._now())

    def poke(self) -> None:
        """Reads the lease again now: somebody spoke of a term that is not known here."""
        self._poke.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self._poke.clear()
            pause = await self._turn()
            self._report()
            try:
                await asyncio.wait_for(self._poke.wait(), pause / 1000)
            except TimeoutError:
                self._report()

    async def release(self) -> None:
        """Gives the lease up if it is held, so that the next writer need not wait for it to expire."""
        self._releasing = True
        await self._turn()
        self._report()

    async def _turn(self) -> int:
        """Reads, decides and writes once; returns the milliseconds to wait before the next turn."""
        try:
            record = await asyncio.wait_for(self._store.read(), STORE_SECONDS)
            self._keeper.observe(self._now(), record)
            wanted = self._wanted() and not self._releasing
            decision = self._keeper.decide(self._now(), wanted=wanted, term_floor=self._term_floor())
            if isinstance(decision, Wait):
                return self._until(decision.until_ms)
            started = self._now()
            stored = await asyncio.wait_for(self._store.write(decision.write), STORE_SECONDS)
            if stored is None:
                return 0 if not isinstance(decision, Release) else self._timings.retry_ms
            self._keeper.written(started, stored)
        except NotAvailable as error:
            log.warning("the lease store does not answer: %s", error)
        except TimeoutError:
            log.warning("the lease store did not answer in time")
        return self._until(self._now() + self._timings.retry_ms)

    def _until(self, when_ms: int) -> int:
        # Watchers look as often as the holder renews, so that a release or a new term is seen at once, not at expiry.
        return min(max(when_ms - self._now(), 50), self._timings.retry_ms)

    def _report(self) -> None:
        view = self._keeper.view(self._now())
        if view != self.view:
            self.view = view
            log.info("writer lease: term %d, holder %s", view[0], view[1] or "nobody")
            self.on_view(*view)

    def _now(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)
