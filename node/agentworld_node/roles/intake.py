"""What the consensus loop works on: events of this node first, then messages of the members, one of each in turn.

Every member has a bounded queue of its own, so that one who floods delays nobody else. Who is no member has none: only
validators speak on the topics of consensus, and the author of a gossip message is proven by its signature.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable

from agentworld_core.consensus.events import Event
from agentworld_core.errors import Busy, Unauthorized
from agentworld_node.metrics import Metrics

MESSAGES_PER_PEER = 256
BYTES_PER_PEER = 4 * 1024 * 1024
PEERS_KEPT = 512


@dataclasses.dataclass(frozen=True)
class ConsensusMessage:
    """Bytes that a peer has sent on a topic of consensus: ``kind`` is vote, proposal or offer."""

    kind: str
    peer_id: str
    data: bytes


@dataclasses.dataclass
class _Queue:
    messages: deque[ConsensusMessage] = dataclasses.field(default_factory=deque)
    size: int = 0


class Intake:
    """Holds what waits for the consensus loop; everything happens on one event loop."""

    def __init__(self, *, admits: Callable[[str], bool], metrics: Metrics):
        self._admits = admits
        self._metrics = metrics
        self._events: deque[Event] = deque()
        self._queues: dict[str, _Queue] = {}
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._events) + sum(len(queue.messages) for queue in self._queues.values())

    def put_event(self, event: Event) -> None:
        """Adds an event of this node; there are few, and none is ever lost."""
        self._events.append(event)
        self._filled.set()

    def put_message(self, message: ConsensusMessage) -> None:
        """Adds a message; the oldest of the same peer makes room for it, and is counted."""
        queue = self._queues.get(message.peer_id)
        if queue is None:
            if not self._admits(message.peer_id) or len(self._queues) >= PEERS_KEPT:
                self._refused(message, Unauthorized.code)
                return
            queue = self._queues[message.peer_id] = _Queue()
        queue.messages.append(message)
        queue.size += len(message.data)
        while len(queue.messages) > MESSAGES_PER_PEER or (queue.size > BYTES_PER_PEER and len(queue.messages) > 1):
            dropped = queue.messages.popleft()
            queue.size -= len(dropped.data)
            self._refused(dropped, Busy.code)
        self._filled.set()

    async def take(self) -> Event | ConsensusMessage:
        """Returns the next thing to work on, waiting for one."""
        while not self._events and not self._queues:
            self._filled.clear()
            await self._filled.wait()
        if self._events:
            return self._events.popleft()
        peer_id, queue = next(iter(self._queues.items()))
        message = queue.messages.popleft()
        queue.size -= len(message.data)
        # To the end of the line, or out of it when nothing is left.
        del self._queues[peer_id]
        if queue.messages:
            self._queues[peer_id] = queue
        return message

    def _refused(self, message: ConsensusMessage, code: str) -> None:
        self._metrics.count("agentworld_messages_refused_total", topic=message.kind, code=code)
