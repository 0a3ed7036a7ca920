"""The votes of heights that are decided here, for as long as a late one may still contradict them."""

from __future__ import annotations

from agentworld_core.consensus.certificates import vote_in
from agentworld_core.consensus.votes import VoteBook, round_of
from agentworld_core.messages import CommitCertificate, Equivocation, Round, Vote

HEIGHTS_KEPT = 4


class DecidedHeights:
    """Compares late votes with those that were counted; takes none in, so that it never grows.

    A validator that shows one vote to some and another one to the rest may be found out only after both have decided.
    """

    def __init__(self) -> None:
        self._books: dict[int, VoteBook] = {}

    def add(self, height: int, book: VoteBook, certificate: CommitCertificate | None) -> list[Equivocation]:
        """Keeps the votes of a decided height; returns what contradicts its checked certificate among them."""
        found: list[Equivocation] = []
        if certificate is not None and certificate.height == height:
            decided = Round(certificate.term, certificate.attempt)
            for item in certificate.votes:
                added = book.add(vote_in(certificate, item), current=decided)
                found += [added.evidence] if added.evidence is not None else []
        self._books[height] = book
        for old in [known for known in self._books if known <= height - HEIGHTS_KEPT]:
            del self._books[old]
        return found

    def may_prove(self, vote: Vote) -> bool:
        """True when the vote, if it is its validator's, proves that this one has voted twice."""
        book = self._books.get(vote.height)
        return book is not None and book.counts(vote) and book.may_prove(vote)

    def compare(self, vote: Vote) -> list[Equivocation]:
        """Returns the proof that a verified vote makes with one that was counted, if any."""
        book = self._books.get(vote.height)
        if book is None or not self.may_prove(vote):
            return []
        added = book.add(vote, current=round_of(vote))
        return [added.evidence] if added.evidence is not None else []
