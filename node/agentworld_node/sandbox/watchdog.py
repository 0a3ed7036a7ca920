"""Ends calls that take too long: a fault of this node, because time is no part of what a call may depend on.

Wasmtime compares a counter with the deadline of each call; the watchdog moves the counter. Each call gets a number of
ticks of its own, so that the end of one never ends another, and a machine that was stopped for a while loses one tick
and not all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

TICKS = 8
"""How many ticks the allowed time has; a call is ended between one tick and two after its time."""


class Watchdog:
    """A context manager around calls: while there is one, a thread ticks."""

    def __init__(self, *, tick: Callable[[], None], allowed_ms: int):
        self._tick = tick
        self._interval = allowed_ms / 1000 / TICKS
        self._lock = threading.Lock()
        self._active = 0
        self._used = False
        self._thread: threading.Thread | None = None

    @property
    def deadline(self) -> int:
        """How many ticks from its start a call may see: the first may come at once."""
        return TICKS + 1

    def __enter__(self) -> None:
        with self._lock:
            self._active += 1
            self._used = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agentworld-sandbox-watchdog", daemon=True)
                self._thread.start()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._active -= 1

    def _run(self) -> None:
        """Ticks until nothing was called for as long as a call may take; the next call starts another thread."""
        pause = threading.Event()
        idle = 0
        while True:
            pause.wait(self._interval)
            self._tick()
            with self._lock:
                idle = 0 if self._active or self._used else idle + 1
                self._used = False
                if idle >= TICKS:
                    self._thread = None
                    return
