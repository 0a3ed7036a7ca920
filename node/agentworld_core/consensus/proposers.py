"""Whose turn it is: who holds the lease of a term, and after some attempts, or where there is no lease, every member.

A writer that holds the lease and decides nothing would otherwise stop the world for as long as it renews the lease.
"""

from __future__ import annotations

import itertools

from agentworld_core.membership.directory import quorum_weight, total_weight
from agentworld_core.messages import Directory, Round

HOLDER_ATTEMPTS = 3
"""So many attempts of a term belong to who holds its lease, the further ones to the members in turn."""
_TERMS_KEPT = 8


def turns_to_an_honest(directory: Directory) -> int:
    """Returns after how many turns, of a member each, an honest one has had its own: all that may lie, and one more."""
    spare = total_weight(directory) - quorum_weight(directory)
    weights = itertools.accumulate(sorted(member.weight for member in directory.members))
    return sum(1 for weight in weights if weight <= spare) + 1


class Proposers:
    """Remembers who held the lease in the latest terms, as the lease service was last seen to say it."""

    def __init__(self, *, leaseless: bool):
        self.leaseless = leaseless
        self._owners: dict[int, str] = {}
        self._live_term = 0
        self._live_holder: str | None = None

    @property
    def term(self) -> int:
        """The highest term seen so far; 0 before any."""
        return self._live_term

    def observe(self, term: int, holder: str | None) -> None:
        """Takes in what the lease looks like now; an older term is remembered but is no longer the live one."""
        if self.leaseless:
            return
        if holder is not None:
            self._owners[term] = holder
            while len(self._owners) > _TERMS_KEPT:
                del self._owners[min(self._owners)]
        if term >= self._live_term:
            self._live_term = term
            self._live_holder = holder

    def proposer_of(self, round_: Round, *, height: int, directory: Directory) -> str | None:
        """Returns whose proposals count in the round, or None where that is not known here (yet)."""
        if self.rotates(round_):
            members = directory.members
            return members[(height + round_.attempt) % len(members)].member_id
        return self._owners.get(round_.term)

    def live(self, round_: Round, *, height: int, directory: Directory) -> str | None:
        """Returns who should propose in the round now: nobody once its lease is released, expired or succeeded."""
        if self.rotates(round_):
            return self.proposer_of(round_, height=height, directory=directory)
        return self._live_holder if round_.term == self._live_term else None

    def rotates(self, round_: Round) -> bool:
        """True when the members propose in turn in this round, whoever holds the lease."""
        return self.leaseless or round_.attempt >= HOLDER_ATTEMPTS

    def first_round(self, parent: Round) -> Round:
        """Returns the lowest round of a height whose parent was made in that round.

        A holder whose attempts came to nothing gets no further ones at the next heights of its term.
        """
        if self.leaseless:
            return Round(0, 0)
        return Round(parent.term, HOLDER_ATTEMPTS if self.rotates(parent) else 0)

    def holds(self, validator_id: str, term: int) -> bool:
        """True when the validator is seen to hold the lease of this term now."""
        return not self.leaseless and (self._live_term, self._live_holder) == (term, validator_id)
