"""The work queue coalesces, serialises a key, and never loses a change."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from agentworld_core.errors import Busy
from agentworld_operator.queue import Reconcile, WorkQueue


class Clock:
    """A clock that a test moves; the queue's real waits are then zero or for ever."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def working(queue: WorkQueue[str], reconcile: Reconcile[str], *, workers: int = 4) -> Iterator[None]:
    task = asyncio.get_running_loop().create_task(queue.run(reconcile, workers=workers))
    try:
        yield
    finally:
        task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is a field, and one turn of the loop is no sleep
            await asyncio.sleep(0)


async def test_a_key_added_often_is_worked_on_once() -> None:
    seen: list[str] = []

    async def reconcile(key: str) -> float | None:
        seen.append(key)
        return None

    queue: WorkQueue[str] = WorkQueue(clock=Clock())
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    with working(queue, reconcile):
        await until(lambda: queue.done == 2)
    assert seen == ["a", "b"]
    assert len(queue) == 0


async def test_a_change_during_the_work_is_worked_on_afterwards_and_never_at_the_same_time() -> None:
    gate, running, most, count = asyncio.Event(), 0, 0, 0

    async def reconcile(_key: str) -> float | None:
        nonlocal running, most, count
        running += 1
        count += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return None

    queue: WorkQueue[str] = WorkQueue(clock=Clock())
    queue.add("a")
    with working(queue, reconcile):
        await until(lambda: count == 1)
        queue.add("a")
        queue.add("a")
        gate.set()
        await until(lambda: queue.done == 2)
    assert (count, most) == (2, 1)


async def test_different_keys_are_worked_on_at_the_same_time() -> None:
    started: list[str] = []
    gate = asyncio.Event()

    async def reconcile(key: str) -> float | None:
        started.append(key)
        await gate.wait()
        return None

    queue: WorkQueue[str] = WorkQueue(clock=Clock())
    queue.add("a")
    queue.add("b")
    with working(queue, reconcile):
        await until(lambda: sorted(started) == ["a", "b"])
        gate.set()


async def test_failures_back_off_and_a_success_forgets_them(caplog: pytest.LogCaptureFixture) -> None:
    clock, attempts = Clock(), 0

    async def reconcile(key: str) -> float | None:
        nonlocal attempts
        if key == "nudge":  # wakes the workers, which go by the clock of the test
            return None
        attempts += 1
        if attempts < 4:
            raise Busy("not now") if attempts > 1 else RuntimeError("a bug")
        return None

    queue: WorkQueue[str] = WorkQueue(clock=clock, base_delay=10, max_delay=15)
    queue.add("a")
    with working(queue, reconcile):
        await until(lambda: queue.failures("a") == 1)
        for delay, expected in ((9.9, 1), (0.2, 2), (14.9, 2), (0.2, 3), (15.1, 4)):
            clock.now += delay
            before = queue.done
            queue.add("nudge")
            await until(partial(lambda before: queue.done > before, before))
            await until(partial(lambda expected: attempts >= expected, expected))
            assert attempts == expected
        await until(lambda: queue.failures("a") == 0)
    assert "a bug" in caplog.text


async def test_a_later_wish_is_kept_and_an_earlier_one_wins() -> None:
    clock, seen = Clock(), 0

    async def reconcile(_key: str) -> float | None:
        nonlocal seen
        seen += 1
        return 50 if seen == 1 else None

    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add("a", delay=60)
    queue.add("a", delay=5)
    queue.add("a", delay=600)
    clock.now += 6
    queue.add("b", delay=5_000)
    assert queue.age() == pytest.approx(1)
    assert (queue.depth(), len(queue)) == (1, 2)
    with working(queue, reconcile):
        await until(lambda: seen == 1)
        await until(lambda: len(queue) == 2)
        clock.now += 51
        queue.add("nudge")
        await until(lambda: seen >= 2)
