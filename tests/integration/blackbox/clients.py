"""Clients of a run: each acts, tries everywhere until its action is committed, and notes what it sees."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Mapping
from typing import Any

from agentworld_client.errors import GatewayError, GatewayUnreachable
from agentworld_client.submit import Agent
from agentworld_core.messages import ActionEnvelope
from tests.integration.blackbox.history import Acknowledged, History, Read
from tests.integration.blackbox.machines import Machine

ANSWER_SECONDS = 2.5
PAUSE_SECONDS = 0.2
LOOK_SECONDS = 0.5
Errors = (GatewayError, GatewayUnreachable)


class Clients:
    """Agents and readers that note what they see in one history, until they are told to end."""

    def __init__(self, machines: Mapping[str, Machine], history: History, *, seed: int):
        self.history = history
        self.refusals: dict[str, int] = {}
        self.ended = asyncio.Event()
        self._machines = machines
        self._rng = random.Random(seed)

    async def act(self, agent: Agent, *, pause: float) -> None:
        """Acts again and again; an action is tried until it is acknowledged, twice at once now and then."""
        for number in itertools.count():
            if self.ended.is_set():
                return
            await self.settle(agent.act("agent.move", {"to": [number, number % 7]}))
            await asyncio.sleep(pause)

    async def settle(self, action: ActionEnvelope) -> bool:
        """Tries one action at one node after the other until it is committed; False when the run is over before."""
        self.history.sent.setdefault(action.action_id, time.monotonic())
        while not self.ended.is_set():
            names = self._rng.sample(list(self._machines), 2 if self._rng.random() < 0.1 else 1)
            done = await asyncio.gather(*(self._try(name, action) for name in names))
            if any(done):
                if self._rng.random() < 0.1:  # a client that did not get the answer asks again, anywhere
                    await self._try(self._rng.choice(list(self._machines)), action)
                return True
            await asyncio.sleep(PAUSE_SECONDS)
        return False

    async def _try(self, name: str, action: ActionEnvelope) -> bool:
        began = time.monotonic()
        try:
            async with self._machines[name].client(patience=0, request_timeout=ANSWER_SECONDS) as client:
                (answer,) = await client.submit([action], wait=True)
        except Errors as error:
            self._refused(error.code)
            return False
        if answer.get("status") != "committed":
            self._refused(str(answer.get("error", {}).get("code", answer.get("status"))))
            return False
        ended = time.monotonic()
        self.history.acknowledged.append(
            Acknowledged(action_id=action.action_id, height=int(answer["height"]), node=name, began=began, ended=ended)
        )
        return True

    def _refused(self, code: str) -> None:
        self.refusals[code] = self.refusals.get(code, 0) + 1

    async def look(self, name: str) -> None:
        """Reads the head of a node again and again."""
        while not self.ended.is_set():
            began = time.monotonic()
            try:
                async with self._machines[name].client(patience=0, request_timeout=ANSWER_SECONDS) as client:
                    status = await client.status()
            except Errors:
                pass
            else:
                self.history.reads.append(_read(name, status["head"], began))
            await asyncio.sleep(LOOK_SECONDS)

    async def follow(self, name: str) -> None:
        """Follows the blocks of a node from the first one on, and goes on where it was when the node comes back."""
        blocks = self.history.follows.setdefault(name, [])
        while not self.ended.is_set():
            began = time.monotonic()
            try:
                async with self._machines[name].client(patience=0) as client:
                    async for block in client.events(blocks[-1].height + 1 if blocks else 1):
                        blocks.append(_read(name, block, began))
            except Errors:
                pass
            await asyncio.sleep(PAUSE_SECONDS)


def _read(node: str, block: Mapping[str, Any], began: float) -> Read:
    return Read(
        node=node,
        height=int(block["height"]),
        block_hash=str(block["block_hash"]),
        state_root=str(block["state_root"]),
        term=int(block["term"]),
        began=began,
        ended=time.monotonic(),
    )
