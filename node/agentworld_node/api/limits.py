"""What one client may cost: bodies are read within a time and a number at once, streams are counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from agentworld_core.errors import Busy, TimedOut

MAX_BODY_BYTES = 4 * 1024 * 1024
BODY_SECONDS = 30.0
BODIES_AT_ONCE = 64
STREAMS_AT_ONCE = 256
MAX_BLOCKS = 256
MAX_BLOCKS_BYTES = 4 * 1024 * 1024
MAX_HEIGHT = 2**63 - 1
MAX_WAIT_SECONDS = 120


class ApiLimits:
    """Counts what is under way at one node."""

    def __init__(self) -> None:
        self._bodies: Counter[str] = Counter()
        self._streams = 0

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._streams

    async def body(self, request: web.Request) -> bytes:
        """Returns the body of a request; raises TimedOut for a slow one, and Busy when too many are being read.

        One address may have half of them, so that who never ends its bodies does not keep out everybody else.
        """
        client = request.remote or ""
        for under_way, most in ((self._bodies.total(), BODIES_AT_ONCE), (self._bodies[client], BODIES_AT_ONCE // 2)):
            if under_way >= most:
                raise Busy(f"{under_way} requests are being read, the most there may be", remedy="try again")
        self._bodies[client] += 1
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await request.read()
        except TimeoutError as error:
            raise TimedOut(f"the body did not arrive within {BODY_SECONDS:g} s", field="body") from error
        finally:
            self._bodies[client] -= 1
            self._bodies += Counter()  # keeps only who has some

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts a stream while it is open; raises Busy when too many are."""
        if self._streams >= STREAMS_AT_ONCE:
            raise Busy(f"{STREAMS_AT_ONCE} streams are open, the most there may be", remedy="use another node")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1
