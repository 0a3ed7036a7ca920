"""Timers by level: say which should run, get what to set and what to cancel."""

from __future__ import annotations

from collections.abc import Mapping

from agentworld_core.consensus.events import CancelTimer, SetTimer


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
