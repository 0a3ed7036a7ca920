"""Where work that keeps a processor busy is done: in a thread, or at once when the way there would cost more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

SMALL_BYTES = 4 * 1024
"""What it takes to decode and check so many bytes, a few milliseconds at worst, may keep the event loop waiting.

To hand work to a thread and to be woken by its end costs some 0.2 ms of processor time, and more of waiting.
"""

P = ParamSpec("P")
T = TypeVar("T")


async def offload(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what the work returns, or raises what it raises; the event loop waits only for work on few bytes."""
    if size <= SMALL_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
