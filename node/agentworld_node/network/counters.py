"""Counts of what a network did, kept by two threads and read by one."""

from __future__ import annotations

import threading

COUNTERS = (
    "published",  # messages given to gossip
    "received",  # new messages of others that arrived on a topic with a subscriber
    "delivered",  # messages handed to a subscriber
    "duplicates",  # messages that had arrived before
    "dropped_outbound",  # published messages that found the queue to gossip full, or no network running
    "dropped_gossip",  # messages that found the queue to one peer full
    "dropped_inbound",  # messages that fell out of a full subscriber's queue
    "malformed",  # frames and messages that do not parse, are too large or carry a wrong signature
    "handler_errors",  # exceptions that a subscriber or a served handler did not mean to raise
    "dials",
    "dial_failures",
    "connections_opened",
    "connections_closed",
    "connections_aborted",  # closed by us: malformed frames, no sign of life, replaced by a newer one
    "refused_peers",  # inbound connections of peers that are not on the list
    "requests_sent",
    "requests_failed",  # unavailable peers and error answers
    "requests_timed_out",
    "requests_served",
    "requests_refused",  # answered busy
    "host_failures",  # times the libp2p host broke down and was started again
)


class Counters:
    """Named counts; adding from several threads loses nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(COUNTERS, 0)

    def add(self, name: str, amount: int = 1) -> None:
        """Adds to one of COUNTERS; another name is a KeyError."""
        with self._lock:
            self._counts[name] += amount

    def snapshot(self) -> dict[str, int]:
        """A copy of all counts."""
        with self._lock:
            return dict(self._counts)
