"""How many actions a source may send: a token bucket for each source, of ``burst`` places, refilled so many a second.

All of it is integers. A bucket is kept as the moment at which it is full again, so a full one can be forgotten without
losing anything. Times are milliseconds of any clock: while it stands still or goes back, nothing refills.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

MAX_SOURCES = 65_536
_ACTION = 1000
"""What an action takes out of a bucket, in the unit of which ``per_second`` come back each millisecond."""


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """So many actions a second for long, and ``burst`` at once; both at least 1."""

    per_second: int
    burst: int


class RateLimiter:
    """Lets every source send at most ``burst`` actions and ``per_second`` a second in whatever time one looks at.

    At most ``max_sources`` buckets that are not full are kept. While there are so many, a source that has none sends
    nothing: were another's forgotten for it, that one could begin again with a full one.
    """

    def __init__(self, limit: RateLimit, *, max_sources: int = MAX_SOURCES):
        self.limit = limit
        self._max_sources = max_sources
        self._full_at: dict[str, int] = {}
        # Each source once, with a moment before which its bucket is not full.
        self._queue: list[tuple[int, str]] = []
        self._clock = 0
        self._last_ms: int | None = None

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, source: str, *, now_ms: int, most: int = 1) -> int:
        """Returns how many of ``most`` actions the source may send now; those are counted."""
        now = self._advance(now_ms)
        is_new = source not in self._full_at
        if is_new and not self._has_room(now):
            return 0
        missing = self._missing(source, now)
        taken = min(most, (self.limit.burst * _ACTION - missing) // _ACTION)
        if taken <= 0:
            return 0
        self._full_at[source] = now + missing + taken * _ACTION
        if is_new:
            heapq.heappush(self._queue, (self._full_at[source], source))
        return taken

    def wait_ms(self, source: str, *, now_ms: int, count: int = 1) -> int:
        """Returns in how many ms the source may send ``count`` actions, or a burst if that is less; 0 for now.

        Who has no bucket, while none can be forgotten for it, may have to wait longer.
        """
        now = self._advance(now_ms)
        if source not in self._full_at and not self._has_room(now):
            wait = self._queue[0][0] - now
        else:
            wait = self._missing(source, now) - max(0, self.limit.burst - count) * _ACTION
        return -(-max(0, wait) // self.limit.per_second)

    def _advance(self, now_ms: int) -> int:
        """Returns the time that has passed while the clock went forward, of which an action takes 1000."""
        if self._last_ms is not None:
            self._clock += max(0, now_ms - self._last_ms) * self.limit.per_second
        self._last_ms = now_ms
        return self._clock

    def _missing(self, source: str, now: int) -> int:
        return max(0, self._full_at.get(source, now) - now)

    def _has_room(self, now: int) -> bool:
        """True when one more bucket can be kept, if need be in the place of one that is full."""
        if len(self._full_at) < self._max_sources:
            return True
        while self._queue[0][0] <= now:
            _, source = heapq.heappop(self._queue)
            if self._full_at[source] <= now:
                del self._full_at[source]
                return True
            heapq.heappush(self._queue, (self._full_at[source], source))
        return False
