"""A writer that gets nothing done gives the lease to another: its clock, its disk or its view may be what is wrong."""

from __future__ import annotations


class Tenure:
    """Decides for one node whether it may want the lease; times are seconds of one monotonic clock.

    A holder with work that commits no block for ``patience`` seconds rests for ``rest`` seconds; each time in a row it
    is more patient, so that a world without a quorum does not change its writer all the time.
    """

    def __init__(self, *, patience: float, rest: float, longest: float = 300.0):
        self._first = patience
        self._patience = patience
        self._rest = rest
        self._longest = longest
        self._height = -1
        self._working_since: float | None = None
        self._resting_until = 0.0

    def may_write(self, now: float, *, height: int, at_work: bool) -> bool:
        """Returns whether to want the lease. ``at_work``: this node holds it and there is something to commit."""
        if height != self._height:
            self._height, self._patience, self._working_since = height, self._first, None
        if not at_work:
            self._working_since = None
        elif self._working_since is None:
            self._working_since = now
        elif now - self._working_since > self._patience:
            self._working_since = None
            self._patience = min(self._patience * 2, self._longest)
            self._resting_until = now + self._rest
        return now >= self._resting_until
