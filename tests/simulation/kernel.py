"""Virtual time: one queue of events, one seed, and nothing else that could make two runs differ."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable

from tests.simulation.history import History, Mark

MOST_EVENTS = 1_000_000


class Violation(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, says: str):
        super().__init__(f"{invariant}: {says}")
        self.invariant = invariant
        self.says = says


class Kernel:
    """A heap of (virtual milliseconds, draw, number, action); equal times are put in an order drawn from the seed."""

    def __init__(self, seed: int, history: History):
        self.seed = seed
        self.history = history
        self.now = 0
        self.events = 0
        self.progress = 0
        self._heap: list[tuple[int, float, int, Callable[[], object]]] = []
        self._count = 0
        self._draw = self.rng("order").random
        self._digest = hashlib.sha256()
        self.reached: dict[str, int] = {}

    def rng(self, purpose: str) -> random.Random:
        """A stream of its own for every purpose, so that one more draw here changes nothing there."""
        return random.Random(f"{self.seed}/{purpose}")

    def after(self, delay: int, action: Callable[[], object]) -> None:
        """Does something later."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + max(delay, 0), self._draw(), self._count, action))

    def note(self, lane: str, kind: str, text: str, *, height: int = 0) -> None:
        """Adds something that happened to the history."""
        self._digest.update(f"{self.now} {lane} {kind} {text}\n".encode())
        self.history.add(Mark(self.now, lane, kind, text, height))

    def reach(self, name: str) -> None:
        """Counts that a rare state was reached, so that a test can tell whether the chaos is any good."""
        self.reached[name] = self.reached.get(name, 0) + 1

    def run(self, until: int, *, done: Callable[[], bool] = lambda: False) -> bool:
        """Runs to a time; True as soon as ``done`` says so, which is asked whenever ``progress`` was made."""
        heap, pop, seen = self._heap, heapq.heappop, self.progress
        if done():
            return True
        while heap and heap[0][0] <= until:
            self.now, _, _, action = pop(heap)
            self.events += 1
            if self.events > MOST_EVENTS:
                raise Violation("BUSY", f"{MOST_EVENTS} events and still at {self.now} ms")
            action()
            if seen != self.progress:
                seen = self.progress
                if done():
                    return True
        self.now = until
        return done()

    @property
    def digest(self) -> str:
        """A fingerprint of everything noted so far, and of how many events it took."""
        return f"{self._digest.hexdigest()[:32]}/{self.events}"
