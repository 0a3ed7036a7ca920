"""Keeps or watches the writer lease: reads, lets the pure keeper decide, writes, and reports every change of view."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agentworld_core.consensus.verdict import LeaseSight
from agentworld_core.errors import NotAvailable, StateMismatch
from agentworld_core.ordering.lease import LeaseKeeper, LeaseTimings, Release, Wait
from agentworld_node.lease.port import LeaseStore

log = logging.getLogger(__name__)

STORE_SECONDS = 5.0
SHORTEST_PAUSE_MS = 50


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
        self._node_id = node_id
        self._store = store
        self._timings = timings
        self._wanted = wanted
        self._term_floor = term_floor
        self._poke = asyncio.Event()
        self._turning = asyncio.Lock()
        self._deadline: asyncio.TimerHandle | None = None
        self._releasing = False
        self._successor: str | None = None
        self._silent = False
        self._holder: str | None = None
        self.view: tuple[int, str | None] = (0, None)
        self._viewed_at: int | None = None
        self.on_view: Callable[[int, str | None], None] = lambda _term, _holder: None

    @property
    def is_held(self) -> bool:
        """True while this node may act as the writer, by its own monotonic clock."""
        return self._keeper.is_held(self._now())

    def sight(self) -> LeaseSight:
        """Returns the lease as this node observes it now."""
        now = self._now()
        term, holder = self._keeper.view(now)
        return LeaseSight(
            holder=holder,
            term=term,
            expires_in_ms=self._keeper.expires_in(now),
            unchanged_ms=0 if self._viewed_at is None else now - self._viewed_at,
            answers=not self._silent,
        )

    def poke(self) -> None:
        """Reads the lease again now: it was written, or somebody spoke of a term that is not known here."""
        self._poke.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        self._viewed_at = self._now()
        watching = asyncio.create_task(self._watch(), name="lease-watch")
        try:
            await self._take_turns()
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        """Reads what others write when they write it, so that their lease is not waited for longer than it lasts."""
        while True:
            await self._store.changed()
            if self._holder != self._node_id:
                self._poke.set()

    async def _take_turns(self) -> None:
        while True:
            self._poke.clear()
            pause = await self._turn()
            self._report()
            try:
                # Not wait_for, which swallows a cancellation that comes together with the end of what it waits for.
                async with asyncio.timeout(pause / 1000):
                    await self._poke.wait()
            except TimeoutError:
                self._report()
            else:
                # However often the lease is written or spoken of, the store is asked only so often.
                await asyncio.sleep(SHORTEST_PAUSE_MS / 1000)

    async def release(self) -> None:
        """Gives the lease up if it is held, so that the next writer need not wait for it to expire.

        Returns when the store says that this node does not hold it; the caller bounds how long that may take.
        """
        self._releasing = True
        while True:
            await self._turn()
            self._report()
            if not self._silent and self._holder != self._node_id:
                return
            await asyncio.sleep(SHORTEST_PAUSE_MS / 1000)

    async def hand_over(self, successor: str) -> int:
        """Makes another node the holder, which then only has to renew; returns the new term.

        Raises StateMismatch when this node turns out not to hold the lease. Until it returns, or when it is cancelled,
        the outcome is what the store says; the caller bounds how long it may take.
        """
        self._successor = successor
        try:
            while True:
                await self._turn()
                self._report()
                if not self._silent and self._holder == successor:
                    return self.view[0]
                if not self._silent and self._holder != self._node_id:
                    raise StateMismatch("this node does not hold the lease", field="holder", value=self._holder)
                await asyncio.sleep(SHORTEST_PAUSE_MS / 1000)
        finally:
            self._successor = None

    async def taken(self) -> int:
        """Takes up a lease that was handed to this node and returns its term; the caller bounds how long it waits."""
        while not self.is_held:
            await self._turn()
            self._report()
            if not self.is_held:
                await asyncio.sleep(SHORTEST_PAUSE_MS / 1000)
        return self.view[0]

    async def _turn(self) -> int:
        """Reads, decides and writes once; returns the milliseconds to wait before the next turn."""
        async with self._turning:
            try:
                pause = await self._read_and_write()
            except (NotAvailable, TimeoutError) as error:
                if not self._silent:
                    log.warning("the lease store does not answer: %s", str(error) or f"within {STORE_SECONDS:g} s")
                self._silent = True
                return self._timings.retry_ms
            if self._silent:
                log.info("the lease store answers again")
            self._silent = False
            return pause

    async def _read_and_write(self) -> int:
        async with asyncio.timeout(STORE_SECONDS):
            record = await self._store.read()
        self._keeper.observe(self._now(), record)
        self._holder = None if record is None else record.holder
        wanted = self._wanted() and not self._releasing
        decision = self._keeper.decide(
            self._now(), wanted=wanted, term_floor=self._term_floor(), successor=self._successor
        )
        if isinstance(decision, Wait):
            return self._until(decision.until_ms)
        started = self._now()
        async with asyncio.timeout(STORE_SECONDS):
            stored = await self._store.write(decision.write)
        if stored is None:
            # Somebody was faster; what they wrote is read at once, except by who only wants to be rid of the lease.
            return self._timings.retry_ms if isinstance(decision, Release) else SHORTEST_PAUSE_MS
        self._keeper.written(started, stored)
        self._holder = stored.holder
        self._watch_deadline(started)
        return self._until(self._now() + self._timings.retry_ms)

    def _watch_deadline(self, started_ms: int) -> None:
        """Reports the loss of the lease on time, also while the store keeps this loop waiting."""
        if self._deadline is not None:
            self._deadline.cancel()
        left = started_ms + self._timings.renew_deadline_ms - self._now()
        self._deadline = asyncio.get_running_loop().call_later((left + 1) / 1000, self._report)

    def _until(self, when_ms: int) -> int:
        # Watchers also look as often as the holder renews: the store may not tell them of every change.
        return min(max(when_ms - self._now(), SHORTEST_PAUSE_MS), self._timings.retry_ms)

    def _report(self) -> None:
        view = self._keeper.view(self._now())
        if view != self.view:
            self.view = view
            self._viewed_at = self._now()
            log.info("writer lease: term %d, holder %s", view[0], view[1] or "nobody")
            self.on_view(*view)

    def _now(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)
