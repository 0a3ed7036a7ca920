"""Peers that did not keep their word, and how long each is left alone: longer every time, in bounded memory."""

from __future__ import annotations

import dataclasses

FORGET_SECONDS = 600.0
PEERS_KEPT = 1024


@dataclasses.dataclass
class _Record:
    until: float
    count: int


class Strikes:
    """Counts failures by peer; times are seconds of one monotonic clock.

    The first failure leaves a peer alone for ``first`` seconds, each further one twice as long, up to ``longest``.
    """

    def __init__(self, *, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._records: dict[str, _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(self, peer_id: str, now: float) -> None:
        """Leaves the peer alone from now on."""
        known = self._records.pop(peer_id, None)
        count = 1 if known is None or known.until + FORGET_SECONDS < now else known.count + 1
        pause = min(self._first * 2 ** min(count - 1, 10), self._longest)
        if len(self._records) >= PEERS_KEPT:
            self._make_room(now)
        self._records[peer_id] = _Record(now + pause, count)

    def is_struck(self, peer_id: str, now: float) -> bool:
        """True while the peer is left alone."""
        known = self._records.get(peer_id)
        return known is not None and known.until > now

    def weight(self, peer_id: str, now: float) -> tuple[bool, int]:
        """Returns a sort key: peers without failures first, those left alone now last."""
        known = self._records.get(peer_id)
        return (False, 0) if known is None else (known.until > now, known.count)

    def _make_room(self, now: float) -> None:
        for peer_id in [name for name, record in self._records.items() if record.until + FORGET_SECONDS < now]:
            del self._records[peer_id]
        while len(self._records) >= PEERS_KEPT:
            del self._records[next(iter(self._records))]
