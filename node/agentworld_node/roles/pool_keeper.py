"""Carries what waits in the mempool over a clean stop, so that a restart loses nothing.

The file is removed only when the node works and everything in it is in the pool, in a block, or refused by the state:
a start that fails loses nothing, nor does an end by an error. What finds no room,
because the limits were lowered or others were quicker, is tried again until it does, and meanwhile stays in the file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from agentworld_node.pool_file import Kept, PoolFile

log = logging.getLogger(__name__)

CHUNK = 512
RETRY_SECONDS = 3.0


class PoolKeeper:
    """The waiting actions of the last run; ``take`` judges some and returns those for which there is no room yet."""

    def __init__(
        self,
        file: PoolFile,
        *,
        take: Callable[[Sequence[Kept]], Awaitable[list[Kept]]],
        waiting: Callable[[], list[Kept]],
    ):
        self._file = file
        self._take = take
        self._waiting = waiting
        self._rest: list[Kept] = []
        self._loaded = False

    async def take_up(self) -> None:
        """Returns when all that the file holds has been judged, and is in the pool where there is room."""
        self._rest = await asyncio.to_thread(self._file.load)
        self._loaded = True
        if self._rest:
            log.info("%d actions waited when the node was stopped; they are judged again", len(self._rest))
            await self._try()

    async def run(self) -> None:
        """Takes up what found no room, until all of it has; run once the node works, for then the file goes."""
        while self._rest:
            await asyncio.sleep(RETRY_SECONDS)
            await self._try()
        try:
            self._file.remove()  # at once: in a thread it might come after what a stop writes
        except OSError as error:
            log.warning("%s cannot be removed; it is taken up again, which changes nothing: %s", self._file.path, error)

    async def write_down(self) -> None:
        """Returns when what waits is on the disk, with what has not been taken up yet; a failure is only reported."""
        if not self._loaded:
            return
        kept = [*self._waiting(), *self._rest]
        try:
            if kept:
                await asyncio.to_thread(self._file.write, kept)
                log.info("%d waiting actions are kept for the next start", len(kept))
            else:
                await asyncio.to_thread(self._file.remove)
        except OSError as error:
            log.warning("%d waiting actions could not be kept for the next start: %s", len(kept), error)

    async def _try(self) -> None:
        left = len(self._rest)
        while left > 0:
            chunk = self._rest[: min(CHUNK, left)]
            again = await self._take(chunk)
            # Only now: until then a stop still writes them down.
            self._rest = [*self._rest[len(chunk) :], *again]
            left -= len(chunk)
        if self._rest:
            log.info("%d actions of the last run wait for room in the mempool", len(self._rest))
