"""The writer's lease, whatever stores it: when to take it, renew it, give it up, and when to believe another's.

The store offers compare-and-swap on a record and nothing else is asked of it: no clock of another machine is read.
Two rules keep two nodes from believing at the same time that they hold it:

* The holder counts from before it sent its last successful write, and stops ``renew_deadline`` later.
* Everybody else counts from when it first saw that write, and waits the whole, longer ``duration`` of the record.

A term is never used by two holders, since taking the lease or handing it over always raises it and compare-and-swap
lets one win. Who is handed the lease holds it from its own first renewal on, as a holder that was restarted does.
A record that somebody has edited breaks neither rule: a term that was lowered, or that another holder was seen in, is
left for a higher one, and no record is waited for longer than ``PATIENCE`` durations.
All times are milliseconds of the caller's own monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentworld_core.errors import InvalidField

PATIENCE = 4
"""A record is believed to last for so many of one's own durations at most, whatever it says of itself."""


@dataclass(frozen=True, kw_only=True)
class LeaseTimings:
    """How long a lease lasts, when its holder stops without a renewal, and how often it renews or retries."""

    duration_ms: int = 15_000
    renew_deadline_ms: int = 10_000
    retry_ms: int = 2_000

    def __post_init__(self) -> None:
        if self.retry_ms <= 0:
            raise InvalidField("must be positive", field="retry_ms", value=self.retry_ms)
        if self.renew_deadline_ms * 5 <= self.retry_ms * 6:
            raise InvalidField("must exceed 1.2 × retry_ms", field="renew_deadline_ms", value=self.renew_deadline_ms)
        if self.duration_ms <= self.renew_deadline_ms:
            raise InvalidField("must exceed renew_deadline_ms", field="duration_ms", value=self.duration_ms)


@dataclass(frozen=True, kw_only=True)
class LeaseRecord:
    """The record as it was read: ``version`` changes with every write; ``holder`` None means released."""

    holder: str | None
    term: int
    duration_ms: int
    version: str


@dataclass(frozen=True, kw_only=True)
class LeaseWrite:
    """What to write, if the record still has the expected version (None: if there is no record)."""

    holder: str | None
    term: int
    duration_ms: int
    expected_version: str | None

    def may_replace(self, current: LeaseRecord | None) -> bool:
        """True if a store may put this in the place of what it has: the version is the expected one.

        A term that is lower than the stored one would undo the fence, whoever asks for it.
        """
        if current is None:
            return self.expected_version is None
        return self.expected_version == current.version and self.term >= current.term


@dataclass(frozen=True)
class Acquire:
    """Take the lease with a higher term."""

    write: LeaseWrite


@dataclass(frozen=True)
class Renew:
    """Keep the lease; the term stays."""

    write: LeaseWrite


@dataclass(frozen=True)
class Release:
    """Give the lease up, so that nobody has to wait for it to expire; the term stays for the next to raise."""

    write: LeaseWrite


@dataclass(frozen=True)
class HandOver:
    """Make another node the holder, with a higher term: it begins with its first renewal, and nobody comes between."""

    write: LeaseWrite


@dataclass(frozen=True)
class Wait:
    """Nothing to do before this time, unless the record changes."""

    until_ms: int
    reason: str


Decision = Acquire | Renew | Release | HandOver | Wait


class LeaseKeeper:
    """Decides for one node; the back end reads, writes and reports both with the time."""

    def __init__(self, holder_id: str, timings: LeaseTimings):
        self.holder_id = holder_id
        self.timings = timings
        self._record: LeaseRecord | None = None
        self._seen_at_ms = 0
        self._highest_term = 0
        self._others_term = 0
        self._held_term = 0
        self._held_until_ms: int | None = None
        self._renewed_at_ms = 0
        self._rests_until_ms: int | None = None

    def observe(self, now_ms: int, record: LeaseRecord | None) -> None:
        """Takes in what was read; ``now_ms`` is when the reading had come back."""
        if record is None:
            self._record = None
            return
        known = self._record
        if known is None or known.version != record.version or known.holder != record.holder:
            self._seen_at_ms = now_ms
        self._record = record
        self._highest_term = max(self._highest_term, record.term)
        if record.holder not in (None, self.holder_id):
            self._others_term = max(self._others_term, record.term)
        if record.holder != self.holder_id or record.term != self._held_term:
            self._held_until_ms = None

    def written(self, started_ms: int, record: LeaseRecord) -> None:
        """Takes in a write of ours that succeeded; ``started_ms`` is when it was sent, ``record`` what is there now."""
        self._record = record
        self._seen_at_ms = started_ms
        self._highest_term = max(self._highest_term, record.term)
        if record.holder == self.holder_id:
            self._held_term = record.term
            self._held_until_ms = started_ms + self.timings.renew_deadline_ms
            self._renewed_at_ms = started_ms
        else:
            self._held_until_ms = None

    def is_held(self, now_ms: int) -> bool:
        """True while this node may act as the holder; from the renew deadline on it is False."""
        return self._held_until_ms is not None and now_ms < self._held_until_ms

    def view(self, now_ms: int) -> tuple[int, str | None]:
        """Returns the latest term and who holds it now, as far as this node can tell; None for nobody."""
        record = self._record
        if record is None or record.holder is None:
            return self._highest_term, None
        if record.term < self._highest_term:
            return self._highest_term, None
        if record.holder == self.holder_id:
            return record.term, self.holder_id if self.is_held(now_ms) else None
        return record.term, None if self._has_expired(record, now_ms) else record.holder

    def expires_in(self, now_ms: int) -> int | None:
        """Returns in how many milliseconds who holds the lease loses it unless it is renewed, None for nobody.

        The holder counts to the moment it stops by itself, everybody else to the moment it may be taken.
        """
        record = self._record
        if record is None or self.view(now_ms)[1] is None:
            return None
        if record.holder == self.holder_id and self._held_until_ms is not None:
            return self._held_until_ms - now_ms
        return self._seen_at_ms + self._duration(record) - now_ms

    def decide(self, now_ms: int, *, wanted: bool, term_floor: int = 0, successor: str | None = None) -> Decision:
        """Returns what to do now.

        ``wanted``: this node is fit to write; after it has given the lease up, others have one duration to take it
        before it tries again. ``term_floor``: the highest term in the chain or in the vote; a lease
        with a lower one would be fenced off, so it is taken anew above it. ``successor``: who
        gets the lease if this node holds it.
        """
        self._highest_term = max(self._highest_term, term_floor)
        record = self._record
        if record is not None and record.holder == self.holder_id:
            if successor is not None and self.is_held(now_ms):
                # Over with the decision, as for a release.
                self._held_until_ms = None
                return HandOver(self._write(successor, self._highest_term + 1))
            return self._decide_own(record, now_ms, wanted=wanted)
        if not wanted:
            return Wait(now_ms + self.timings.retry_ms, "not a candidate")
        if self._rests_until_ms is not None and now_ms < self._rests_until_ms:
            return Wait(self._rests_until_ms, "has given it up for others to take")
        if record is not None and record.holder is not None and not self._has_expired(record, now_ms):
            return Wait(self._seen_at_ms + self._duration(record), f"held by {record.holder}")
        return Acquire(self._write(self.holder_id, self._highest_term + 1))

    def _decide_own(self, record: LeaseRecord, now_ms: int, *, wanted: bool) -> Decision:
        if not wanted:
            # Over with the decision, not with the answer: once written, another may take it before the answer is here.
            self._held_until_ms = None
            self._rests_until_ms = now_ms + self.timings.duration_ms
            return Release(self._write(None, record.term))
        if record.term < self._highest_term or record.term == self._others_term:
            # Fenced off, or edited: somebody else may have proposed in this term.
            return Acquire(self._write(self.holder_id, self._highest_term + 1))
        due = self._renewed_at_ms + self.timings.retry_ms
        if self.is_held(now_ms) and now_ms < due:
            return Wait(due, "held")
        return Renew(self._write(self.holder_id, record.term))

    def _write(self, holder: str | None, term: int) -> LeaseWrite:
        return LeaseWrite(
            holder=holder,
            term=term,
            duration_ms=self.timings.duration_ms,
            expected_version=self._record.version if self._record is not None else None,
        )

    def _has_expired(self, record: LeaseRecord, now_ms: int) -> bool:
        return now_ms >= self._seen_at_ms + self._duration(record)

    def _duration(self, record: LeaseRecord) -> int:
        own = self.timings.duration_ms
        return min(record.duration_ms, PATIENCE * own) if record.duration_ms > 0 else own
