"""Bounded queues between the network and the subscribers, one per subscription.

A flood on one topic, or one slow subscriber, costs nobody else a message: each subscription has a queue of its own,
the oldest message goes when it is full, and the event loop serves the queues in turn, some messages at a time.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from agentworld_node.network.counters import Counters
from agentworld_node.network.port import GossipHandler, Limits

logger = logging.getLogger(__name__)

CallSoon = Callable[[Callable[[], None]], object]

_BATCH = 64  # messages per turn of the event loop, so that timers and requests get their turn as well


class _Subscription:
    def __init__(self, handler: GossipHandler):
        self.handler = handler
        self.queue: deque[tuple[str, bytes]] = deque()
        self.size = 0
        self.active = True


class Inbox:
    """Takes messages from any thread and calls the subscribers on the event loop it is attached to."""

    def __init__(self, *, limits: Limits, counters: Counters):
        self._limits = limits
        self._counters = counters
        self._lock = threading.Lock()
        self._subscriptions: dict[str, list[_Subscription]] = {}
        self._call_soon: CallSoon | None = None
        self._scheduled = False

    def attach(self, call_soon: CallSoon) -> None:
        """Begins to deliver by means of ``call_soon``, which may be called from any thread that offers."""
        with self._lock:
            self._call_soon = call_soon
            self._scheduled = False

    def detach(self) -> None:
        """Stops delivering and forgets what is queued; the subscriptions stay."""
        with self._lock:
            self._call_soon = None
            for subscription in self._all():
                subscription.queue.clear()
                subscription.size = 0

    def topics(self) -> frozenset[str]:
        """The topics that somebody subscribes to."""
        with self._lock:
            return frozenset(self._subscriptions)

    def subscribe(self, topic: str, handler: GossipHandler) -> Callable[[], None]:
        """Adds a subscriber and returns the function that removes it; after that call the handler is silent."""
        subscription = _Subscription(handler)
        with self._lock:
            self._subscriptions.setdefault(topic, []).append(subscription)

        def unsubscribe() -> None:
            with self._lock:
                subscription.active = False
                subscription.queue.clear()
                others = [s for s in self._subscriptions.get(topic, ()) if s is not subscription]
                if others:
                    self._subscriptions[topic] = others
                else:
                    self._subscriptions.pop(topic, None)

        return unsubscribe

    def offer(self, topic: str, author: str, payload: bytes) -> None:
        """Queues a message for every subscriber of its topic; never blocks, drops the oldest when full."""
        with self._lock:
            subscriptions = self._subscriptions.get(topic)
            if not subscriptions or self._call_soon is None:
                return
            self._counters.add("received")
            for subscription in subscriptions:
                subscription.queue.append((author, payload))
                subscription.size += len(payload)
                while (
                    len(subscription.queue) > self._limits.queue_messages
                    or subscription.size > self._limits.queue_bytes
                ):
                    subscription.size -= len(subscription.queue.popleft()[1])
                    self._counters.add("dropped_inbound")
            if self._scheduled:
                return
            self._scheduled = True
            call_soon = self._call_soon
        call_soon(self._drain)

    def _all(self) -> list[_Subscription]:
        return [s for subscriptions in self._subscriptions.values() for s in subscriptions]

    def _take(self) -> list[tuple[_Subscription, str, bytes]]:
        """Takes up to a batch of messages, one from each queue in turn."""
        batch: list[tuple[_Subscription, str, bytes]] = []
        with self._lock:
            waiting = [s for s in self._all() if s.queue]
            while waiting and len(batch) < _BATCH:
                for subscription in waiting:
                    author, payload = subscription.queue.popleft()
                    subscription.size -= len(payload)
                    batch.append((subscription, author, payload))
                waiting = [s for s in waiting if s.queue]
            self._scheduled = bool(waiting) and self._call_soon is not None
        return batch

    def _drain(self) -> None:
        for subscription, author, payload in self._take():
            if not subscription.active:
                continue
            try:
                subscription.handler(author, payload)
            except Exception:
                self._counters.add("handler_errors")
                logger.exception("a subscriber failed on a message of %s", author)
            else:
                self._counters.add("delivered")
        with self._lock:
            call_soon = self._call_soon if self._scheduled else None
        if call_soon is not None:
            call_soon(self._drain)
