"""Going where others are: to the terms in which members vote, when no quorum comes together in this one.

A validator never goes back to a lower term. One that has voted in a higher one, because the record of the lease was
lost or edited since, would be missing until the term has come up to it.
"""

from __future__ import annotations

from agentworld_core.consensus.votes import VoteBook

TERM_STEP = 1024
"""Nobody is followed further than this at once: a store may have few bits for a term, which no liar is to use up."""


class Following:
    """Whom to follow at one height: each time the next of those ahead, so that a liar leads astray only at times."""

    def __init__(self, book: VoteBook):
        self._book = book
        self._times = 0

    def next_term(self, term: int) -> int | None:
        """Returns the higher term to go to when nothing comes of this one, None when nobody is known to be in one."""
        beyond = self._book.terms_beyond(term)
        if not beyond:
            return None
        self._times += 1
        return min(beyond[self._times % len(beyond)], term + TERM_STEP)
