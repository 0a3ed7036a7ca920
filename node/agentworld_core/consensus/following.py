"""Going where others are: to the terms in which members vote, when no quorum comes together in this one.

A validator never goes back to a lower term. One that has voted in a higher one, because the record of the lease was
lost or edited since, would be missing until the term has come up to it.
"""

from __future__ import annotations

from agentworld_core.consensus.votes import VoteBook

TERM_STEP = 1024
"""Nobody is followed further than this beyond where an honest other one has been heard, or where the height began here.

A liar could lead one that is cut off away for good otherwise, at the pace at which all others follow. And a store may
have few bits for a term.
"""


class Following:
    """Whom to follow at one height: each time the next of those ahead, so that a liar leads astray only at times."""

    def __init__(self, book: VoteBook, begun_in: int):
        """``begun_in``: the term in which the height began here."""
        self._book = book
        self._begun_in = begun_in
        self._times = 0
        self.left: int | None = None
        """The latest term that was left to follow somebody."""

    def next_term(self, term: int) -> int | None:
        """Returns the higher term to go to when nothing comes of this one, None when nobody is known to be in one."""
        beyond = self._book.terms_beyond(term)
        if not beyond:
            return None
        self._times += 1
        limit = max(self._begun_in, self._book.term_of_others()) + TERM_STEP
        followed = min(beyond[self._times % len(beyond)], limit)
        if followed <= term:
            return None
        self.left = term
        return followed
