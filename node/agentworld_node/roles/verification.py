"""Judges actions, many off the event loop: signatures in a number of threads at once, then what the state says of them.

The check of a signature lets other threads run, so that the threads do get as many cores as there are.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import ActionEnvelope
from agentworld_core.world.actions import Actors, check_envelope, check_prospects, envelope_id
from agentworld_node.offload import SMALL_BYTES

Judged = list[tuple[ActionEnvelope, AgentWorldError | None]]

VERIFIED_KEPT = 50_000
MOST_WORKERS = 8
"""So many threads unless a node is told otherwise; a pod sees all cores of its machine, whatever it may use."""
_PIECE = 8
"""Fewer actions are not worth another thread."""
_FEW = 4
"""So many small ones, some 0.1 ms each, are judged at once: the way to a thread and back would cost more."""


def worker_count(setting: int) -> int:
    """Returns the number of threads that a setting asks for; 0 asks for one for each core, up to eight."""
    return setting or max(1, min(MOST_WORKERS, os.cpu_count() or 1))


class Verifier:
    """Checks actions in threads of its own, and remembers which signed actions have passed the stateless checks."""

    def __init__(self, world_id: str, *, workers: int):
        self.workers = workers
        self._world_id = world_id
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="verification")
        self._verified: OrderedDict[str, None] = OrderedDict()  # a dict finds its oldest ever more slowly

    def __len__(self) -> int:
        return len(self._verified)

    def __contains__(self, signed_action_id: str) -> bool:
        return signed_action_id in self._verified

    def note(self, actions: Iterable[ActionEnvelope]) -> None:
        """Remembers that these signed actions have passed the stateless checks, which nobody here need do again."""
        for action in actions:
            self._verified[envelope_id(action)] = None
        self._forget_oldest()

    async def judge(self, actions: Sequence[ActionEnvelope], actors: Actors, registering: Container[str]) -> Judged:
        """Returns each action, in their order, with why it is refused, or None.

        ``registering`` are the actors whose registration waits, so that their other actions may wait as well.
        """
        loop = asyncio.get_running_loop()
        pieces = self._pieces(actions)
        try:
            if len(actions) <= _FEW and sum(len(action.payload_cbor) for action in actions) <= SMALL_BYTES:
                return self._judge_all(actions, actors, registering)
            if len(pieces) == 1:
                return await loop.run_in_executor(self._threads, self._judge_all, actions, actors, registering)
            checks = [loop.run_in_executor(self._threads, self._check_signatures, piece) for piece in pieces]
            errors = [error for piece in await asyncio.gather(*checks) for error in piece]
            # By one thread: this is work of the interpreter, which only one can do at a time.
            return await loop.run_in_executor(
                self._threads, _check_prospects, list(zip(actions, errors, strict=True)), actors, registering
            )
        finally:
            self._forget_oldest()

    def close(self) -> None:
        """Ends the threads when they have done what they do; what waits for them is cancelled."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _pieces(self, actions: Sequence[ActionEnvelope]) -> list[Sequence[ActionEnvelope]]:
        count = max(1, min(self.workers, len(actions) // _PIECE))
        size = -(-len(actions) // count)
        return [actions[start : start + size] for start in range(0, len(actions), size)] or [actions]

    def _judge_all(self, actions: Sequence[ActionEnvelope], actors: Actors, registering: Container[str]) -> Judged:
        errors = self._check_signatures(actions)
        return _check_prospects(list(zip(actions, errors, strict=True)), actors, registering)

    def _check_signatures(self, actions: Sequence[ActionEnvelope]) -> list[AgentWorldError | None]:
        errors: list[AgentWorldError | None] = []
        for action in actions:
            try:
                signed_id = envelope_id(action)
                if signed_id not in self._verified:
                    check_envelope(action, self._world_id)
                    # At once: a block with the same actions may be judged meanwhile, and need not verify them as well.
                    self._verified[signed_id] = None
                errors.append(None)
            except AgentWorldError as error:
                errors.append(error.with_traceback(None))  # which would hold this list, and be a cycle
        return errors

    def _forget_oldest(self) -> None:
        while len(self._verified) > VERIFIED_KEPT:
            self._verified.popitem(last=False)


def _check_prospects(judged: Judged, actors: Actors, registering: Container[str]) -> Judged:
    now_ms = time.time_ns() // 1_000_000
    result: Judged = []
    for action, error in judged:
        if error is None:
            try:
                check_prospects(actors, action, now_ms=now_ms, register_pending=action.actor_id in registering)
            except AgentWorldError as refused:
                result.append((action, refused.with_traceback(None)))
                continue
        result.append((action, error))
    return result
