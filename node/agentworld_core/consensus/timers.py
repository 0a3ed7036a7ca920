"""Timers by level: say which should run, get what to set and what to cancel."""

from __future__ import annotations

from collections.abc import Mapping

from agentworld_core.consensus.events import CancelTimer, SetTimer
from agentworld_core.messages import Round


class Timers:
    """Knows which timers run; a timer whose name is still wanted is left alone."""

    def __init__(self) -> None:
        self._running: dict[str, None] = {}

    def want(self, wanted: Mapping[str, int]) -> list[SetTimer | CancelTimer]:
        """Returns what makes exactly these timers (name to delay in milliseconds) run."""
        effects: list[SetTimer | CancelTimer] = []
        for name in [name for name in self._running if name not in wanted]:
            del self._running[name]
            effects.append(CancelTimer(name))
        for name, delay_ms in wanted.items():
            if name not in self._running:
                self._running[name] = None
                effects.append(SetTimer(name, delay_ms))
        return effects

    def fired(self, name: str) -> bool:
        """Returns whether the timer was running, and notes that it no longer is."""
        if name not in self._running:
            return False
        del self._running[name]
        return True


class Patience:
    """How often a height has been tried, terms that have ended included: what timeouts grow with.

    Were it the attempts of the term alone, a lease that changes hands before timeouts have grown to what the network
    needs would keep them short for ever.
    """

    def __init__(self, first: Round) -> None:
        """``first`` is the lowest round of the height."""
        self._first = first
        self._earlier = 0
        self._round = first
        self._busy = False

    def note(self, round_: Round, *, busy: bool) -> None:
        """Takes in the round after every step; a term counts as tried if its end found the height being decided."""
        if round_.term != self._round.term and self._busy:
            self._earlier = self.tries(self._round) + 1
        self._round, self._busy = round_, busy

    def tries(self, round_: Round) -> int:
        """Returns how often the height was tried before this round."""
        return self._earlier + round_.attempt - (self._first.attempt if round_.term == self._first.term else 0)
