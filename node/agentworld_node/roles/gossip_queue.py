"""Messages of gossip that wait to be judged, in bounded number and size, and taken as many together as fit a turn."""

from __future__ import annotations

import asyncio
from collections import deque

QUEUED_MESSAGES = 1024
QUEUED_BYTES = 16 * 1024 * 1024
TOGETHER_BYTES = 192 * 1024
"""So much of what waits is judged in one turn, which costs some handing over between threads, whatever it holds."""


class GossipQueue:
    """Holds messages with the peers that sent them, in the order of their arrival."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, peer_id: str, payload: bytes) -> bool:
        """Adds a message; False when there is no room for it."""
        if len(self._waiting) >= QUEUED_MESSAGES or self._bytes + len(payload) > QUEUED_BYTES:
            return False
        self._waiting.append((peer_id, payload))
        self._bytes += len(payload)
        self._filled.set()
        return True

    async def take(self) -> list[tuple[str, bytes]]:
        """Returns the oldest message, waiting for one, and those after it that fit into the same turn."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        taken: list[tuple[str, bytes]] = []
        size = 0
        while self._waiting and (not taken or size + len(self._waiting[0][1]) <= TOGETHER_BYTES):
            taken.append(self._waiting.popleft())
            size += len(taken[-1][1])
        self._bytes -= size
        return taken
