"""Work that is finished also when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def begin(work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Starts a task for others to wait for behind ``asyncio.shield``; the work itself notes what goes wrong.

    Who still waits is told how it ends. If nobody does, the event loop would report an error that nobody has looked at.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
