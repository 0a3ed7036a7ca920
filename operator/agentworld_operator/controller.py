"""Drives the reconciles: what the watches say, what the nodes say, and now and then a look at everything."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from agentworld_core.errors import AgentWorldError
from agentworld_operator.errors import KubernetesError
from agentworld_operator.queue import WorkQueue
from agentworld_operator.reconcile import observe
from agentworld_operator.reconcile.context import Context
from agentworld_operator.reconcile.world import Outcome, fingerprint, reconcile_world
from agentworld_operator.settings import Options
from agentworld_operator.watching import OWN_KINDS, WatchMemory, WorldKey, world_of

log = logging.getLogger(__name__)

STUCK_SECONDS = 180.0
"""A key that is overdue for this long means that the workers do not work."""


class Controller:
    """Keeps all worlds of the watched namespaces as their manifests say."""

    def __init__(self, context: Context, options: Options):
        self._context = context
        self._options = options
        self.queue: WorkQueue[WorldKey] = WorkQueue(clock=time.monotonic)
        self.watches = WatchMemory()
        self._outcomes: dict[WorldKey, Outcome] = {}
        self.listed = asyncio.Event()
        self.polls = 0

    def saw(self, kind: str, event: str, obj: Mapping[str, Any]) -> None:
        """Takes in one watch event."""
        key = self.watches.saw(kind, event, obj)
        if key is not None and self._is_watched(key.namespace):
            self.queue.add(key)

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run(self._reconcile, workers=self._options.workers))
            group.create_task(self._relist_forever())
            group.create_task(self._poll_forever())

    def failure(self) -> str | None:
        """Returns why only a restart helps, None while all is well."""
        if self.queue.age() > STUCK_SECONDS:
            return f"a world has waited {self.queue.age():.0f} s for its reconcile"
        if self.watches.deaf:
            return f"the watch of {', '.join(self.watches.deaf)} has missed changes"
        return None

    def not_ready(self) -> str | None:
        """Returns why the operator does not do its work yet, None when it does."""
        return None if self.listed.is_set() else "the resources have not been listed yet"

    @property
    def worlds(self) -> int:
        """The number of worlds that were reconciled and exist."""
        return len(self._outcomes)

    async def relist(self) -> None:
        """Looks at every world, whatever the watches have shown."""
        for kind in OWN_KINDS:
            for namespace in self._options.namespaces or (None,):
                found = await self._context.kube.find(kind, namespace)
                self.watches.check(kind, found)
                for obj in found:
                    key = world_of(kind, obj)
                    if key is not None:
                        self.queue.add(key)
        self.listed.set()

    async def poll(self) -> None:
        """Asks the nodes of all worlds; a world whose nodes say something new is reconciled."""
        self.polls += 1
        await asyncio.gather(*(self._poll_world(key, outcome) for key, outcome in list(self._outcomes.items())))

    async def _reconcile(self, key: WorldKey) -> float | None:
        outcome = await reconcile_world(self._context, key.namespace, key.name)
        if outcome.exists:
            self._outcomes[key] = outcome
        else:
            self._outcomes.pop(key, None)
        return outcome.again_seconds

    async def _poll_world(self, key: WorldKey, outcome: Outcome) -> None:
        statuses = await observe.poll(self._context.nodes, outcome.pods)
        if self._outcomes.get(key) is outcome and fingerprint(statuses) != outcome.fingerprint:
            self.queue.add(key)

    async def _relist_forever(self) -> None:
        while True:
            try:
                await self.relist()
                delay = self._options.relist_seconds
            except KubernetesError as error:
                log.warning("listing failed: %s", error)
                delay = min(5.0, self._options.relist_seconds)
            await asyncio.sleep(delay)

    async def _poll_forever(self) -> None:
        while True:
            await asyncio.sleep(self._options.poll_seconds)
            try:
                await self.poll()
            except AgentWorldError as error:
                log.warning("polling the nodes failed: %s", error)

    def _is_watched(self, namespace: str) -> bool:
        return not self._options.namespaces or namespace in self._options.namespaces
