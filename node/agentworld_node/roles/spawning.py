"""How what a message calls for is started: messages also come while a node is ending its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Spawner:
    """Starts tasks in a group, once it has been given one."""

    def __init__(self) -> None:
        self._tasks: asyncio.TaskGroup | None = None

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """Starts tasks in this group from now on."""
        self._tasks = tasks

    def spawn(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Starts the work, or drops it when the group is ending, which has cancelled all others.

        Raises RuntimeError before ``open``.
        """
        if self._tasks is None:
            work.close()
            raise RuntimeError("the role has not been started")
        try:
            self._tasks.create_task(work, name=name)
        except RuntimeError:  # this is how a group says that it is ending, and there is no way to ask
            work.close()
