"""An event loop on virtual time: what is scheduled belongs to a process, which may pause, end, and have its own clocks.

Work for threads is done at one moment of virtual time on the loop itself, some time after it was handed in and some
time before its result is told, so that everything that runs beside it in production comes before, between or after.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from tests.unit.node.virtual import VirtualLoop
from tests.unit.storage.faults import PowerCut

EPOCH_MS = 1_700_000_000_000
"""The time of day at which all worlds begin."""
WORK_SECONDS = (0.0, 0.0002, 0.004)
"""The least, the usual and the most time that work in a thread takes to begin, and its result to be heard of."""
RARELY = 0.1


class Process:
    """One life of a node: what it has scheduled happens while it lives, later if it is paused, and never after it."""

    def __init__(self, loop: SimulatedLoop, name: str, *, rate: float = 1.0, skew_ms: int = 0):
        self.loop = loop
        self.name = name
        self.rate = rate
        self.skew_ms = skew_ms
        self.slowness = 1.0
        self.alive = True
        self.tasks: set[asyncio.Task[Any]] = set()
        self.on_power_cut: Callable[[], None] = lambda: None
        self._paused = False
        self._kept: list[asyncio.Handle] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts a task of this process, whoever calls."""
        return self.loop.create_task(work, context=self.context)

    def pause(self) -> None:
        """Lets nothing happen any more, as SIGSTOP does."""
        self._paused = True

    def resume(self) -> None:
        """Lets happen, in order, what was due meanwhile."""
        self._paused = False
        kept, self._kept = self._kept, []
        self.loop.take_up(kept)

    def end(self) -> None:
        """Lets nothing happen ever again; what was under way stays as it is and is not cleaned up."""
        self.alive = False

    def clean_up(self) -> None:
        """Lets what is left of an ended process be cancelled, once nothing that it does counts any more."""
        self.alive, self._paused = True, False
        for task in self.tasks:
            task.cancel()
        self.resume()

    def admits(self, handle: asyncio.Handle) -> bool:
        """True when the callback may run now; otherwise it is kept."""
        if self.alive and not self._paused:
            return True
        self._kept.append(handle)
        return False


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class _Handle(asyncio.Handle):
    """A callback that runs if the process that it belongs to may."""

    _context: contextvars.Context

    def _run(self) -> None:
        process = self._context.get(PROCESS)
        if process is None or process.admits(self):
            super()._run()


class _TimerHandle(asyncio.TimerHandle):
    """The same at a time."""

    _context: contextvars.Context
    _scheduled: bool

    def _run(self) -> None:
        process = self._context.get(PROCESS)
        if process is None or process.admits(self):
            super()._run()


class SimulatedTask(asyncio.Task[Any]):
    """A task whose place in a set follows from when it was made, not from where it is in memory."""

    def __init__(self, *arguments: Any, number: int, process: Process | None, **options: Any):
        self._number = number
        self.process = process
        super().__init__(*arguments, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(VirtualLoop):
    """Runs processes in one thread; everything that could be otherwise is drawn from the random numbers."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.began = self.now
        self.events = 0
        self._rng = rng
        self._tasks_made = 0
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """The monotonic clock of the process that asks."""
        process = PROCESS.get()
        return self.now if process is None else self.began + (self.now - self.began) * process.rate

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        owner = PROCESS.get() if context is None else context.get(PROCESS)
        asker = PROCESS.get()
        # The asker means a time by its own clock; that of the owner decides how long it lasts.
        delay = when - self.time()
        rate = 1.0 if owner is None or asker is None else owner.rate
        timer = _TimerHandle(self.now + delay / rate, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # as BaseEventLoop.call_at does
        return timer

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Does the work on the loop, a while after this call, and tells its result a while later."""
        future: asyncio.Future[Any] = self.create_future()
        process = PROCESS.get()

        def work() -> None:
            if future.cancelled():
                return
            result, failure = None, None
            try:
                result = func(*args)
            except PowerCut:
                if process is not None:
                    process.on_power_cut()
                return
            except Exception as error:  # noqa: BLE001 - told to whoever waits for the work
                failure = error
            self.call_later(self._while(process), settle, result, failure)

        def settle(result: Any, failure: Exception | None) -> None:
            if future.done():
                return
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(result)

        self.call_later(self._while(process), work)
        return future

    def take_up(self, handles: list[asyncio.Handle]) -> None:
        """Lets callbacks run that were kept."""
        self._ready.extend(handle for handle in handles if not handle.cancelled())

    def _while(self, process: Process | None) -> float:
        least, usual, most = WORK_SECONDS
        seconds = self._rng.uniform(usual, most) if self._rng.random() < RARELY else self._rng.uniform(least, usual)
        return seconds if process is None else seconds * process.slowness

    def _call_soon(self, callback: Any, args: Any, context: Any) -> asyncio.Handle:
        self.events += 1
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _write_to_self(self) -> None:
        """Nothing waits in a real selector."""

    def _make_task(self, _loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        self._tasks_made += 1
        context = options.get("context")
        process = PROCESS.get() if context is None else context.get(PROCESS)
        task = SimulatedTask(work, loop=self, number=self._tasks_made, process=process, **options)
        if process is not None:
            process.tasks.add(task)
            task.add_done_callback(process.tasks.discard)
        return task


def install_clocks(replace: Callable[[Any, str, Any], None], loop: SimulatedLoop) -> None:
    """Lets the clocks of Python show the time of the loop, each process its own."""

    def time_ns() -> int:
        process = PROCESS.get()
        skew = 0 if process is None else process.skew_ms
        return (EPOCH_MS + skew) * 1_000_000 + int(loop.time() * 1e9)

    replace(time, "time_ns", time_ns)
    replace(time, "time", lambda: time_ns() / 1e9)
    replace(time, "monotonic", loop.time)
    replace(time, "monotonic_ns", lambda: int(loop.time() * 1e9))
