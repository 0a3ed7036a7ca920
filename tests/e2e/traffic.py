"""Clients of a world that never stop acting while a test breaks things, and remember every promise they got."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from types import TracebackType

from agentworld_client import keys
from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent, submit_all
from agentworld_core.errors import AgentWorldError

PAUSE_SECONDS = 0.5
BATCH = 5
MOST_ROUNDS = 2000


class Traffic:
    """Submits a few actions at a time and waits for each batch; ``committed`` holds the ids that were promised."""

    def __init__(self, url: str):
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._act()), name="traffic")
        self.committed: list[str] = []
        self.refused: list[str] = []

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    async def _act(self) -> None:
        async with GatewayClient(self._url, patience=120) as client:
            agent = Agent(keys.generate(), world_id=(await client.genesis()).world_id, actor_id=_fresh_name())
            await self._submit(client, agent, "agent.register", {"position": [0, 0]}, 1)
            for turn in range(MOST_ROUNDS):
                if self._stop.is_set():
                    return
                await self._submit(client, agent, "agent.move", {"to": [turn, turn]}, BATCH)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _submit(self, client: GatewayClient, agent: Agent, kind: str, payload: dict[str, object], n: int) -> None:
        actions = [agent.act(kind, payload) for _ in range(n)]  # type: ignore[arg-type]
        try:
            receipts = await submit_all(client, actions, wait=True)
        except AgentWorldError as error:
            self.refused.append(str(error))
            return
        self.committed += [item["action_id"] for item in receipts if item.get("status") == "committed"]
        self.refused += [str(item["error"]) for item in receipts if "error" in item]


async def count_in_ledger(url: str) -> Counter[str]:
    """Returns how often each action id stands in the ledger that a gateway serves."""
    found: Counter[str] = Counter()
    async with GatewayClient(url, patience=60) as client:
        height = 1
        while bundles := await client.blocks(height):
            for bundle in bundles:
                found.update(action.action_id for action in bundle.batch.actions)
            height += len(bundles)
    return found


async def silence_before(url: str, term: int) -> float:
    """Returns the seconds between the first block of a term and the block before it, by the times that they carry."""
    async with GatewayClient(url, patience=60) as client:
        height, before = 1, 0
        while bundles := await client.blocks(height):
            for block in (bundle.block for bundle in bundles):
                if block.term >= term:
                    return (block.timestamp_ms - before) / 1000
                before = block.timestamp_ms
            height += len(bundles)
    raise AssertionError(f"no block has term {term} or a higher one")


def assert_each_once(url: str, promised: list[str]) -> None:
    """Fails unless every promised action stands in the ledger exactly once, and nothing stands there twice."""
    counts = asyncio.run(count_in_ledger(url))
    missing = [action_id for action_id in promised if counts[action_id] == 0]
    assert not missing, f"{len(missing)} of {len(promised)} committed actions are not in the ledger: {missing[:3]}"
    twice = [action_id for action_id, count in counts.items() if count > 1]
    assert not twice, f"in the ledger more than once: {twice[:3]}"


def _fresh_name() -> str:
    return f"agent-{keys.generate().key_id[:12]}"
