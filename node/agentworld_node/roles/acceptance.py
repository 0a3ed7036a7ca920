"""Takes actions into the mempool by two clocks: one that only goes forward, by which they wait and expire, and the
node's own, of which their receipts say when they were accepted.

That is when this node first had the action, from a client or from gossip, also over a restart. It is the word of one
node, orders nothing, and is no part of the receipt of a committed action, which is the same at every node.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Any

from agentworld_core.messages import ActionEnvelope
from agentworld_core.ordering.mempool import Mempool
from agentworld_node.pool_file import Kept


def unix_ms() -> int:
    """Returns the milliseconds since 1970 by this machine's clock."""
    return time.time_ns() // 1_000_000


class Acceptance:
    """The clocks of one mempool."""

    def __init__(self, mempool: Mempool, *, clock_ms: Callable[[], int] = unix_ms):
        self._mempool = mempool
        self._clock_ms = clock_ms

    def take(self, action: ActionEnvelope, *, source: str, before: Kept | None = None) -> dict[str, Any]:
        """Puts an action into the mempool and returns its receipt; raises as the mempool does.

        ``before`` says since when it had waited when the node was stopped.
        """
        waited_ms = 0 if before is None else before.waited_ms
        accepted_at_ms = None if before is None else before.accepted_at_ms
        if accepted_at_ms is None:
            accepted_at_ms = self._clock_ms() - waited_ms
        self._mempool.add(action, source=source, now_ms=_now_ms() - waited_ms, accepted_at_ms=accepted_at_ms)
        return _receipt(action.action_id, accepted_at_ms)

    def receipt(self, action_id: str) -> dict[str, Any] | None:
        """Returns the receipt of an action that waits, else None."""
        entry = self._mempool.entry(action_id)
        return None if entry is None else _receipt(action_id, entry.accepted_at_ms)

    def waiting(self, own: Container[str]) -> list[Kept]:
        """Returns what waits, in the order of its arrival, for another run to take; ``own`` are ids to be passed on."""
        now_ms = _now_ms()
        return [
            Kept(
                action=one.action,
                source=one.source,
                waited_ms=max(0, now_ms - one.since_ms),
                own=one.action.action_id in own,
                accepted_at_ms=one.accepted_at_ms,
            )
            for one in self._mempool.waiting_now()
        ]

    def expire(self) -> list[ActionEnvelope]:
        """Removes and returns the actions that have waited for too long."""
        return self._mempool.expire(_now_ms())


def _receipt(action_id: str, accepted_at_ms: int) -> dict[str, Any]:
    return {"action_id": action_id, "status": "pooled", "accepted_at_ms": accepted_at_ms}


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
