"""Takes actions from clients and from gossip into the mempool, and answers for them until they are in a block.

``pooled`` says that this node has the action, since when by its clock, and passes it on; ``committed`` says that a
quorum has made it part of the ledger and this node has it on disk. Only the second is a promise. An action that this
node took from a client is gossiped again until it is committed, since gossip may lose it and the writer may change, or
until it has waited for too long, and is forgotten here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agentworld_core.codec import decode, encode
from agentworld_core.errors import (
    ActorLimit,
    AgentWorldError,
    Busy,
    Expired,
    HashMismatch,
    InvalidSignature,
    MalformedEncoding,
    NotFound,
    TooLarge,
    WrongWorld,
)
from agentworld_core.messages import ActionEnvelope, Actions, BlockBundle
from agentworld_core.names import topic
from agentworld_core.ordering.mempool import Mempool
from agentworld_core.world.actions import AGENT_REGISTER, check_actor
from agentworld_core.world.errors import FromTheFuture
from agentworld_node.api.documents import receipt_document
from agentworld_node.api.services import Submission
from agentworld_node.ledger import Ledger
from agentworld_node.metrics import Metrics
from agentworld_node.network.port import Network
from agentworld_node.offload import offload
from agentworld_node.pool_file import Kept
from agentworld_node.roles.acceptance import Acceptance, unix_ms
from agentworld_node.roles.gossip_queue import GossipQueue
from agentworld_node.roles.newcomers import Newcomers
from agentworld_node.roles.strikes import Strikes
from agentworld_node.roles.verification import Judged, Verifier
from agentworld_node.roles.waiters import Waiters

log = logging.getLogger(__name__)

GOSSIP_BYTES = 256 * 1024
GOSSIP_ACTIONS = 256
REPEAT_SECONDS = 3.0
REPEAT_ACTIONS = 1024
REPEAT_BYTES = 1024 * 1024
DROPPED_KEPT = 4096
WAITING_ACTIONS = 50_000
MESSAGE_LIMIT = 1024 * 1024

_DISHONEST = (MalformedEncoding, TooLarge, HashMismatch, InvalidSignature, WrongWorld)
"""What no honest node passes on, whatever it knows of the world's state."""


class GatewayRole:
    """The way of actions into a node."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        mempool: Mempool,
        network: Network,
        metrics: Metrics,
        workers: int = 1,
        clock_ms: Callable[[], int] = unix_ms,
    ):
        self._ledger = ledger
        self._mempool = mempool
        self._network = network
        self._metrics = metrics
        self._accepted = Acceptance(mempool, clock_ms=clock_ms)
        self._topic = topic(ledger.genesis.world_id, "action")
        self._verified = Verifier(ledger.genesis.world_id, workers=workers)
        self._new = Newcomers(ledger=ledger, mempool=mempool)
        self._own: OrderedDict[str, float] = OrderedDict()
        self._dropped: OrderedDict[str, AgentWorldError] = OrderedDict()
        self._waiters = Waiters(WAITING_ACTIONS)
        self._liars = Strikes(first=10.0, longest=320.0)
        self._gossip = GossipQueue()
        self.refuse_work: Callable[[], AgentWorldError | None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Listens to gossip and repeats what this node took, until the task group ends."""
        self._network.subscribe(self._topic, self._on_gossip)
        self._ledger.on_commit(self._committed)
        tasks.create_task(self._gossip_forever(), name="actions-from-gossip")
        tasks.create_task(self._repeat_forever(), name="repeat-actions")

    def close(self) -> None:
        """Ends the threads that verify; the role judges nothing more."""
        self._verified.close()

    def is_verified(self, signed_action_id: str) -> bool:
        """True when the signed action of this ``envelope_id`` has passed the stateless checks here."""
        return signed_action_id in self._verified

    def note_verified(self, actions: Iterable[ActionEnvelope]) -> None:
        """Remembers that these signed actions have passed the stateless checks, which nobody here need do again."""
        self._verified.note(actions)

    async def submit(self, actions: Sequence[ActionEnvelope], *, source: str = "") -> list[Submission]:
        """Returns for each action its receipt, or the error it was refused with; a duplicate gets the first receipt.

        ``source`` is the address that they come from, which may have only so many waiting.
        """
        results: list[Submission] = []
        fresh: list[ActionEnvelope] = []
        refusal = self.refuse_work()
        height = self._ledger.height
        unknown = self._new.among(actions) if refusal is None else []
        verdicts = {id(action): error for action, error in await self._judge(unknown)}
        # Asked again: it may have been committed, or have come by gossip, while it was judged.
        still = {id(action) for action in self._new.among(unknown, since=height)}
        for action in actions:
            is_new = id(action) in still and action.action_id not in self._mempool
            known = None if is_new else self._known(action.action_id)
            if known is not None:
                results.append({**known, "duplicate": True})
                continue
            try:
                verdict = verdicts[id(action)] if id(action) in verdicts else refusal or _dropped()
                receipt = self._take(action, verdict, source=source and f"client {source}")
            except AgentWorldError as refused:
                self._metrics.count("agentworld_actions_refused_total", code=refused.code)
                results.append(refused.with_traceback(None))  # which would hold this list, and be a cycle
                continue
            fresh.append(action)
            self._own[action.action_id] = time.monotonic()
            results.append(receipt)
        if fresh:
            self.on_change()
            await self._publish(fresh)
        return results

    async def wait_committed(self, results: Sequence[Submission], *, seconds: float) -> list[Submission]:
        """Returns the results as they are when all pooled actions are settled, or after so many seconds."""
        pooled = [item["action_id"] for item in results if isinstance(item, dict) and item["status"] == "pooled"]
        await self._waiters.wait(pooled, settled=self._is_settled, seconds=seconds)
        return [self._latest(result) for result in results]

    def answer_waiting(self) -> None:
        """Lets who waits for a commit go with what is known now, and whoever would wait from now on."""
        self._waiters.close()

    async def take_up(self, kept: Sequence[Kept]) -> list[Kept]:
        """Judges actions that waited here before a restart like those of others; returns what may fit later."""
        height = self._ledger.height
        unknown = self._new.among([one.action for one in kept])
        verdicts = {id(action): error for action, error in await self._judge(unknown)}
        still = {id(action) for action in self._new.among(unknown, since=height)}
        again: list[Kept] = []
        held_up: set[str] = set()  # whoever has one that must wait: the rest comes after it
        for one in kept:
            action_id = one.action.action_id
            if id(one.action) not in still or action_id in self._mempool:
                continue
            if one.action.actor_id in held_up:
                again.append(one)
                continue
            try:
                self._take(one.action, verdicts[id(one.action)], source=one.source, before=one)
                if one.own:
                    self._own[action_id] = time.monotonic() - REPEAT_SECONDS
            except (Busy, ActorLimit, FromTheFuture):
                again.append(one)
                held_up.add(one.action.actor_id)
            except AgentWorldError as error:
                log.info("action %s waited before the restart and can no longer be committed: %s", action_id, error)
                self._drop(action_id, error)
        self.on_change()
        return again

    def waiting(self) -> list[Kept]:
        """Returns what waits, in the order of its arrival, as ``take_up`` takes it."""
        return self._accepted.waiting(self._own)

    def receipt(self, action_id: str) -> dict[str, Any]:
        """Returns the receipt of an action; NotFound when this node has not seen it.

        Raises the reason when the action was pooled here and can no longer be committed.
        """
        known = self._known(action_id)
        if known is None:
            raise self._dropped.get(action_id) or NotFound(
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
        return self._accepted.receipt(action_id)

    def _is_settled(self, action_id: str) -> bool:
        return action_id not in self._mempool

    def _latest(self, result: Submission) -> Submission:
        if isinstance(result, AgentWorldError) or result["status"] != "pooled":
            return result
        action_id = result["action_id"]
        known = self._known(action_id)
        if known is None:
            return self._dropped.get(action_id) or result
        return {**known, "duplicate": True} if result.get("duplicate") else known

    # Judging

    async def _judge(self, actions: Sequence[ActionEnvelope]) -> Judged:
        """Returns each action with why it is refused, or None."""
        if not actions:
            return []
        actors = self._new.actors()
        registering = {action.actor_id for action in actions if action.action_kind == AGENT_REGISTER}
        for actor_id in sorted({action.actor_id for action in actions} - registering):
            # Of those whom the state knows it does not matter what else waits, which may be much.
            if actors.agent(actor_id) is None and any(
                waiting.action_kind == AGENT_REGISTER for waiting in self._mempool.of_actor(actor_id)
            ):
                registering.add(actor_id)
        return await self._verified.judge(actions, actors, registering)

    def _take(
        self, action: ActionEnvelope, error: AgentWorldError | None, *, source: str, before: Kept | None = None
    ) -> dict[str, Any]:
        if error is not None:
            raise error
        receipt = self._accepted.take(action, source=source, before=before)
        self._dropped.pop(action.action_id, None)
        return receipt

    # Gossip

    async def _publish(self, actions: Sequence[ActionEnvelope]) -> None:
        chunk: list[ActionEnvelope] = []
        size = 0
        for action in actions:
            length = _size(action)
            if chunk and (size + length > GOSSIP_BYTES or len(chunk) >= GOSSIP_ACTIONS):
                await self._network.publish(self._topic, encode(Actions(tuple(chunk))))
                chunk, size = [], 0
            chunk.append(action)
            size += length
        await self._network.publish(self._topic, encode(Actions(tuple(chunk))))

    def _on_gossip(self, peer_id: str, payload: bytes) -> None:
        if self._liars.is_struck(peer_id, time.monotonic()):
            self._refused(Busy("the peer has sent what no honest node passes on"))
        elif not self._gossip.put(peer_id, payload):
            self._refused(Busy("too many messages wait"))

    async def _gossip_forever(self) -> None:
        while True:
            await self._take_gossip(await self._gossip.take())

    async def _take_gossip(self, messages: Sequence[tuple[str, bytes]]) -> None:
        payloads = [payload for _, payload in messages]
        decoded = await offload(sum(map(len, payloads)), _decode_each, payloads)
        height = self._ledger.height
        fresh: list[ActionEnvelope] = []
        origins: list[tuple[int, str]] = []
        for number, ((peer_id, _), actions) in enumerate(zip(messages, decoded, strict=True)):
            if isinstance(actions, AgentWorldError):
                self._refused(actions)
                self._liars.add(peer_id, time.monotonic())
                continue
            new = self._new.among(actions)
            fresh += new
            origins += [(number, peer_id)] * len(new)
        verdicts = await self._judge(fresh)
        still = {id(action) for action in self._new.among(fresh, since=height)}
        lies: set[int] = set()  # the messages of which nothing more is taken
        for (action, verdict), (number, peer_id) in zip(verdicts, origins, strict=True):
            if number in lies or id(action) not in still or action.action_id in self._mempool:
                continue
            try:
                self._take(action, verdict, source=f"peer {peer_id}")
            except AgentWorldError as refused:
                self._refused(refused)
                if isinstance(refused, _DISHONEST):
                    self._liars.add(peer_id, time.monotonic())
                    lies.add(number)
        if fresh:
            self.on_change()

    def _refused(self, error: AgentWorldError) -> None:
        self._metrics.count("agentworld_messages_refused_total", topic="action", code=error.code)

    async def _repeat_forever(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_SECONDS)
            self._drop_expired()
            actions = self._to_repeat(time.monotonic())
            if actions:
                await self._publish(actions)

    def _to_repeat(self, now: float) -> list[ActionEnvelope]:
        """Returns the own actions that were passed on longest ago, as many as one turn may repeat."""
        chosen: list[ActionEnvelope] = []
        size = 0
        for action_id, since in list(self._own.items()):
            action = self._mempool.get(action_id)
            if action is None:
                del self._own[action_id]
                continue
            size += _size(action)
            if now - since < REPEAT_SECONDS or len(chosen) >= REPEAT_ACTIONS or size > REPEAT_BYTES:
                break
            chosen.append(action)
        for action in chosen:
            self._own[action.action_id] = now
            self._own.move_to_end(action.action_id)
        return chosen

    # What becomes of actions

    def _committed(self, bundle: BlockBundle) -> None:
        action_ids = [action.action_id for action in bundle.batch.actions]
        self._mempool.remove(action_ids)
        self._metrics.count("agentworld_blocks_committed_total")
        self._metrics.count("agentworld_actions_committed_total", len(action_ids))
        for action_id in action_ids:
            self._own.pop(action_id, None)
        self._waiters.release(action_ids)
        self._drop_stale({action.actor_id for action in bundle.batch.actions})

    def _drop_stale(self, actors: Iterable[str]) -> None:
        """Drops waiting actions of these actors whose nonce or key the new state refuses for good."""
        now = self._new.actors()
        for actor_id in sorted(actors):
            for action in self._mempool.of_actor(actor_id):
                try:
                    check_actor(now, action, register_pending=True)
                except AgentWorldError as error:
                    log.info("action %s can no longer be committed: %s", action.action_id, error)
                    self._drop(action.action_id, error)

    def _drop_expired(self) -> None:
        """Drops what has waited for too long: it is neither proposed nor passed on by this node any more."""
        expired = self._accepted.expire()
        for action in expired:
            self._drop(action.action_id, _expired(action.action_id, self._mempool.limits.expiry_ms))
        if expired:
            log.warning("%d actions have waited for too long, and were dropped", len(expired))
            self._metrics.count("agentworld_actions_expired_total", len(expired))
            self.on_change()

    def _drop(self, action_id: str, error: AgentWorldError) -> None:
        self._mempool.remove([action_id])
        self._own.pop(action_id, None)
        self._dropped[action_id] = error
        while len(self._dropped) > DROPPED_KEPT:
            self._dropped.popitem(last=False)
        self._waiters.release([action_id])


def _decode_each(payloads: Sequence[bytes]) -> list[tuple[ActionEnvelope, ...] | AgentWorldError]:
    """Returns the actions of each message, or why it cannot be read."""
    found: list[tuple[ActionEnvelope, ...] | AgentWorldError] = []
    for payload in payloads:
        try:
            found.append(decode(Actions, payload, limit=MESSAGE_LIMIT).actions)
        except AgentWorldError as error:
            found.append(error.with_traceback(None))  # which would hold this list, and be a cycle
    return found


def _dropped() -> Busy:
    """Why an action is refused that needed no judgement when it came, and whose copy has been dropped since."""
    return Busy("a copy of the action waited here until just now", field="action_id", remedy="submit it again")


def _expired(action_id: str, expiry_ms: int) -> Expired:
    return Expired(
        f"the action has waited here for more than {expiry_ms / 1000:g} s and is forgotten",
        field="action_id",
        value=action_id,
        remedy="submit it again, it will count once; another node may still have it",
    )


def _size(action: ActionEnvelope) -> int:
    return len(action.payload_cbor) + 512
