"""Takes actions from clients and from gossip into the mempool, and answers for them until they are in a block.

``pooled`` says that this node has the action and passes it on; ``committed`` says that a quorum has made it part of
the ledger and this node has it on disk. Only the second is a promise. An action that this node took from a client is
gossiped again until it is committed, since gossip may lose it and the writer may change.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, Busy, NotFound
from agentworld_core.messages import ActionEnvelope, Actions, BlockBundle
from agentworld_core.names import topic
from agentworld_core.ordering.mempool import Mempool
from agentworld_core.world.actions import AGENT_REGISTER, check_actor, check_admission, envelope_id
from agentworld_node.api.documents import receipt_document
from agentworld_node.api.services import Submission
from agentworld_node.ledger import Ledger
from agentworld_node.metrics import Metrics
from agentworld_node.network.port import Network

log = logging.getLogger(__name__)

GOSSIP_BYTES = 256 * 1024
GOSSIP_ACTIONS = 256
REPEAT_SECONDS = 3.0
VERIFIED_KEPT = 50_000
MESSAGE_LIMIT = 1024 * 1024
QUEUED_MESSAGES = 1024


class GatewayRole:
    """The way of actions into a node."""

    def __init__(self, *, ledger: Ledger, mempool: Mempool, network: Network, metrics: Metrics):
        self._ledger = ledger
        self._mempool = mempool
        self._network = network
        self._metrics = metrics
        self._topic = topic(ledger.genesis.world_id, "action")
        self._world_id = ledger.genesis.world_id
        self._verified: dict[str, None] = {}
        self._own: dict[str, float] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._gossip: asyncio.Queue[bytes] = asyncio.Queue(QUEUED_MESSAGES)
        self.refuse_work: Callable[[], AgentWorldError | None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Listens to gossip and repeats what this node took, until the task group ends."""
        self._network.subscribe(self._topic, lambda _peer, payload: self._on_gossip(payload))
        self._ledger.on_commit(self._committed)
        tasks.create_task(self._gossip_forever(), name="actions-from-gossip")
        tasks.create_task(self._repeat_forever(), name="repeat-actions")

    def is_verified(self, signed_action_id: str) -> bool:
        """True when the signed action of this ``envelope_id`` has passed the stateless checks here."""
        return signed_action_id in self._verified

    async def submit(self, actions: Sequence[ActionEnvelope]) -> list[Submission]:
        """Returns for each action its receipt, or the error it was refused with; a duplicate gets the first receipt."""
        results: dict[int, Submission] = {}
        fresh: list[ActionEnvelope] = []
        refusal = self.refuse_work()
        unknown = [action for action in actions if self._known(action.action_id) is None] if refusal is None else []
        verdicts = {id(action): error for action, error in await self._judge(unknown)}
        for index, action in enumerate(actions):
            known = self._known(action.action_id)
            error = verdicts.get(id(action), refusal)
            if known is not None:
                results[index] = {**known, "duplicate": True}
                continue
            try:
                if error is not None:
                    raise error
                self._add(action)
            except AgentWorldError as refused:
                self._metrics.count("agentworld_actions_refused_total", code=refused.code)
                results[index] = refused
                continue
            fresh.append(action)
            self._own[action.action_id] = time.monotonic()
            results[index] = {"action_id": action.action_id, "status": "pooled"}
        if fresh:
            self.on_change()
            await self._publish(fresh)
        return [results[index] for index in range(len(actions))]

    async def wait_committed(self, results: Sequence[Submission], *, seconds: float) -> list[Submission]:
        """Returns the results as they are when all pooled actions are committed, or after so many seconds."""
        loop = asyncio.get_running_loop()
        waiting: dict[str, asyncio.Future[None]] = {}
        for result in results:
            if isinstance(result, dict) and result["status"] == "pooled":
                future = loop.create_future()
                waiting[result["action_id"]] = future
                self._waiters.setdefault(result["action_id"], []).append(future)
        try:
            # The commit may have come between submission and here.
            for action_id, future in waiting.items():
                if self._ledger.receipt(action_id) is not None and not future.done():
                    future.set_result(None)
            if waiting:
                await asyncio.wait(waiting.values(), timeout=seconds)
        finally:
            for action_id, future in waiting.items():
                self._forget_waiter(action_id, future)
        return [self._latest(result) for result in results]

    def receipt(self, action_id: str) -> dict[str, Any]:
        """Returns the receipt of an action; NotFound when this node has not seen it."""
        known = self._known(action_id)
        if known is None:
            raise NotFound(
                "this node does not know the action",
                field="action_id",
                value=action_id,
                remedy="it may be waiting at another node; submit it again, it will count once",
            )
        return known

    def _known(self, action_id: str) -> dict[str, Any] | None:
        receipt = self._ledger.receipt(action_id)
        if receipt is not None:
            return receipt_document(receipt)
        return {"action_id": action_id, "status": "pooled"} if action_id in self._mempool else None

    def _latest(self, result: Submission) -> Submission:
        if isinstance(result, AgentWorldError) or result["status"] != "pooled":
            return result
        return self._known(result["action_id"]) or result

    async def _judge(self, actions: Sequence[ActionEnvelope]) -> list[tuple[ActionEnvelope, AgentWorldError | None]]:
        """Returns each action with why it is refused, or None; signatures are checked in a worker thread."""
        if not actions:
            return []
        registering = {action.actor_id for action in actions if action.action_kind == AGENT_REGISTER}
        for action in actions:
            if any(waiting.action_kind == AGENT_REGISTER for waiting in self._mempool.of_actor(action.actor_id)):
                registering.add(action.actor_id)
        return await asyncio.to_thread(self._judge_now, actions, registering)

    def _judge_now(
        self, actions: Sequence[ActionEnvelope], registering: Container[str]
    ) -> list[tuple[ActionEnvelope, AgentWorldError | None]]:
        state = self._ledger.chain.tree
        now_ms = time.time_ns() // 1_000_000
        judged: list[tuple[ActionEnvelope, AgentWorldError | None]] = []
        for action in actions:
            pending = action.actor_id in registering
            try:
                check_admission(state, action, world_id=self._world_id, now_ms=now_ms, register_pending=pending)
                judged.append((action, None))
            except AgentWorldError as error:
                judged.append((action, error))
        return judged

    def _add(self, action: ActionEnvelope) -> None:
        self._mempool.add(action)
        self._verified[envelope_id(action)] = None
        while len(self._verified) > VERIFIED_KEPT:
            del self._verified[next(iter(self._verified))]

    async def _publish(self, actions: Sequence[ActionEnvelope]) -> None:
        chunk: list[ActionEnvelope] = []
        size = 0
        for action in actions:
            length = len(action.payload_cbor) + 512
            if chunk and (size + length > GOSSIP_BYTES or len(chunk) >= GOSSIP_ACTIONS):
                await self._network.publish(self._topic, encode(Actions(tuple(chunk))))
                chunk, size = [], 0
            chunk.append(action)
            size += length
        await self._network.publish(self._topic, encode(Actions(tuple(chunk))))

    def _on_gossip(self, payload: bytes) -> None:
        try:
            self._gossip.put_nowait(payload)
        except asyncio.QueueFull:
            self._metrics.count("agentworld_messages_refused_total", topic="action", code=Busy.code)

    async def _gossip_forever(self) -> None:
        while True:
            payload = await self._gossip.get()
            try:
                actions = decode(Actions, payload, limit=MESSAGE_LIMIT).actions
            except AgentWorldError as error:
                self._metrics.count("agentworld_messages_refused_total", topic="action", code=error.code)
                continue
            fresh = [action for action in actions if self._known(action.action_id) is None]
            for action, refusal in await self._judge(fresh):
                self._take(action, refusal)
            if fresh:
                self.on_change()

    def _take(self, action: ActionEnvelope, error: AgentWorldError | None) -> None:
        try:
            if error is not None:
                raise error
            if self._ledger.receipt(action.action_id) is None:
                self._add(action)
        except AgentWorldError as refused:
            self._metrics.count("agentworld_messages_refused_total", topic="action", code=refused.code)

    async def _repeat_forever(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_SECONDS)
            before = time.monotonic() - REPEAT_SECONDS
            waiting = [action_id for action_id, since in self._own.items() if since < before]
            actions = [action for action in map(self._mempool.get, waiting) if action is not None]
            if actions:
                await self._publish(actions)

    def _committed(self, bundle: BlockBundle) -> None:
        action_ids = [action.action_id for action in bundle.batch.actions]
        self._mempool.remove(action_ids)
        self._metrics.count("agentworld_blocks_committed_total")
        self._metrics.count("agentworld_actions_committed_total", len(action_ids))
        for action_id in action_ids:
            self._own.pop(action_id, None)
            for future in self._waiters.pop(action_id, ()):
                if not future.done():
                    future.set_result(None)
        self._drop_stale({action.actor_id for action in bundle.batch.actions})

    def _drop_stale(self, actors: Iterable[str]) -> None:
        """Drops waiting actions of these actors whose nonce or key the new state refuses for good."""
        state = self._ledger.chain.tree
        for actor_id in sorted(actors):
            for action in self._mempool.of_actor(actor_id):
                try:
                    check_actor(state, action, register_pending=True)
                except AgentWorldError as error:
                    log.info("action %s can no longer be committed: %s", action.action_id, error)
                    self._mempool.remove([action.action_id])
                    self._own.pop(action.action_id, None)

    def _forget_waiter(self, action_id: str, future: asyncio.Future[None]) -> None:
        waiters = self._waiters.get(action_id, [])
        if future in waiters:
            waiters.remove(future)
        if not waiters:
            self._waiters.pop(action_id, None)
