"""The bounded queue of messages on their way from the event loop to gossip."""

from __future__ import annotations

import threading
from collections import deque

from agentworld_node.network.port import Limits


class Outbox:
    """Takes messages from one thread and gives them to another; refuses what is over the limits."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._lock = threading.Lock()
        self._queue: deque[tuple[str, bytes]] = deque()
        self._size = 0

    def offer(self, topic: str, payload: bytes) -> bool:
        """Queues a message; False when there is no room."""
        with self._lock:
            if len(self._queue) >= self._limits.queue_messages or self._size + len(payload) > self._limits.queue_bytes:
                return False
            self._queue.append((topic, payload))
            self._size += len(payload)
            return True

    def take(self) -> tuple[str, bytes] | None:
        """The oldest message, or None."""
        with self._lock:
            if not self._queue:
                return None
            topic, payload = self._queue.popleft()
            self._size -= len(payload)
            return topic, payload

    def clear(self) -> None:
        """Forgets everything queued."""
        with self._lock:
            self._queue.clear()
            self._size = 0
