"""The actions that wait for a block: bounded, fair by arrival, in nonce order per actor, never silently dropped.

A full mempool refuses what is new and keeps what it has (W1): nobody can push out an earlier action by sending more.
Taking a batch removes nothing; actions leave when they are committed, when the state shows that they never can be, or
when they have waited for too long. Times are milliseconds of any clock that only goes forward, but for
``accepted_at_ms``, which is Unix time for people to read, and decides nothing.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agentworld_core.codec import encode
from agentworld_core.errors import ActorLimit, Busy, NonceUsed, TooLarge
from agentworld_core.messages import ActionEnvelope
from agentworld_core.ordering.batch import BatchLimits

RETRY_AFTER_MS = 1000
"""When to come again for whom there is no room: blocks make some, one a second unless a world says otherwise."""


@dataclass(frozen=True, kw_only=True)
class MempoolLimits:
    """How much may wait, in all, per actor, in bytes, and per source (0: no limit), and for how long (0: for ever)."""

    max_actions: int = 10_000
    max_per_actor: int = 256
    max_bytes: int = 64 * 1024 * 1024
    max_per_source: int = 0
    expiry_ms: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """An action that waits, who brought it (empty when nobody said), since when, and when it was first accepted."""

    action: ActionEnvelope
    source: str
    since_ms: int
    accepted_at_ms: int


@dataclass
class _Actor:
    """One actor's waiting actions: ``nonces`` sorted, with the action of each."""

    nonces: list[int] = field(default_factory=list)
    actions: dict[int, tuple[ActionEnvelope, int]] = field(default_factory=dict)


class Mempool:
    """Holds verified actions in the order of their arrival until a block contains them."""

    def __init__(self, limits: MempoolLimits, batch_limits: BatchLimits):
        self.limits = limits
        self.batch_limits = batch_limits
        self.bytes = 0
        self._arrivals: dict[str, Waiting] = {}
        self._actors: dict[str, _Actor] = {}
        self._sources: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, action_id: str) -> bool:
        return action_id in self._arrivals

    def get(self, action_id: str) -> ActionEnvelope | None:
        """Returns the waiting action of that id, or None."""
        entry = self._arrivals.get(action_id)
        return None if entry is None else entry.action

    def entry(self, action_id: str) -> Waiting | None:
        """Returns what is known of the waiting action of that id, or None."""
        return self._arrivals.get(action_id)

    def waiting(self, action: ActionEnvelope) -> ActionEnvelope:
        """Returns the action that waits here if it is the same in every byte, with what has been worked out of it."""
        known = self.get(action.action_id)
        return known if known is not None and known == action else action

    def actions(self) -> list[ActionEnvelope]:
        """Returns all waiting actions in the order of their arrival."""
        return [entry.action for entry in self._arrivals.values()]

    def waiting_now(self) -> list[Waiting]:
        """Returns all waiting actions in the order of their arrival, with what is known of each."""
        return list(self._arrivals.values())

    def of_source(self, source: str) -> int:
        """Returns how many of the waiting actions a source has brought."""
        return self._sources.get(source, 0)

    def of_actor(self, actor_id: str) -> list[ActionEnvelope]:
        """Returns the waiting actions of one actor in the order of their nonces."""
        actor = self._actors.get(actor_id)
        return [] if actor is None else [actor.actions[nonce][0] for nonce in actor.nonces]

    def add(self, action: ActionEnvelope, *, source: str = "", now_ms: int = 0, accepted_at_ms: int = 0) -> bool:
        """Takes in a verified action; False when exactly this action is waiting already, whoever has brought it.

        Raises TooLarge when no batch could ever hold it, NonceUsed when another action of the actor waits under its
        nonce, ActorLimit when the actor has too many waiting, Busy when the mempool is full or the source has its
        share; these two say when to come again. An action without a source counts for nobody.
        """
        if action.action_id in self._arrivals:
            return False
        size = len(encode(action))
        if size > self.batch_limits.max_bytes:
            says = f"{size} bytes exceed the {self.batch_limits.max_bytes} bytes of a whole batch"
            raise TooLarge(says, field="payload_cbor")
        actor = self._actors.get(action.actor_id) or _Actor()
        if action.nonce in actor.actions:
            raise NonceUsed("another action of the actor waits under this nonce", field="nonce", value=action.nonce)
        if len(actor.nonces) >= self.limits.max_per_actor:
            says = f"the actor has {len(actor.nonces)} actions waiting, the most it may have"
            raise ActorLimit(
                says,
                field="actor_id",
                value=action.actor_id,
                remedy="wait until some are committed",
                retry_after_ms=RETRY_AFTER_MS,
            )
        if len(self) >= self.limits.max_actions or self.bytes + size > self.limits.max_bytes:
            says = f"{len(self)} actions are waiting, the most there may be"
            raise Busy(says, remedy="try again later", retry_after_ms=RETRY_AFTER_MS)
        held = self._sources.get(source, 0)
        if source and 0 < self.limits.max_per_source <= held:
            says = f"{held} actions from the same place are waiting, the most there may be"
            remedy = "try again when some are committed, or through another node"
            raise Busy(says, remedy=remedy, retry_after_ms=RETRY_AFTER_MS)
        self._actors[action.actor_id] = actor
        bisect.insort(actor.nonces, action.nonce)
        actor.actions[action.nonce] = (action, size)
        self._arrivals[action.action_id] = Waiting(action, source, now_ms, accepted_at_ms)
        if source:
            self._sources[source] = held + 1
        self.bytes += size
        return True

    def remove(self, action_ids: Iterable[str]) -> int:
        """Removes committed actions; returns how many of them were waiting."""
        removed = 0
        for action_id in action_ids:
            entry = self._arrivals.pop(action_id, None)
            if entry is not None:
                self._forget(entry.action, entry.source)
                removed += 1
        return removed

    def expire(self, now_ms: int) -> list[ActionEnvelope]:
        """Removes and returns, in the order of their arrival, the actions that have waited longer than they may."""
        if not self.limits.expiry_ms:
            return []
        last = now_ms - self.limits.expiry_ms
        # All are looked at: what comes from before a restart has waited for longer than its place says.
        expired = [entry.action for entry in self._arrivals.values() if entry.since_ms < last]
        self.remove(action.action_id for action in expired)
        return expired

    def remove_where(
        self, is_stale: Callable[[ActionEnvelope], bool], *, actor_ids: Iterable[str] | None = None
    ) -> list[ActionEnvelope]:
        """Removes and returns the actions (of these actors, or of all) that the check finds can never be committed."""
        actors = self._actors if actor_ids is None else [name for name in actor_ids if name in self._actors]
        waiting = [action for name in actors for action, _ in self._actors[name].actions.values()]
        stale = [action for action in waiting if is_stale(action)]
        self.remove(action.action_id for action in stale)
        return stale

    def take_batch(self, limits: BatchLimits | None = None) -> tuple[ActionEnvelope, ...]:
        """Returns the next actions in order, as many as fit; they stay in the mempool.

        The place in the queue belongs to the actor: when it comes up, the actor's lowest waiting nonce is taken. The
        first action that does not fit ends the batch, so that a large one is not overtaken for ever; one that would
        not fit alone is passed over.
        """
        limits = limits or self.batch_limits
        batch: list[ActionEnvelope] = []
        used = 0
        taken: dict[str, int] = {}
        for entry in self._arrivals.values():
            if len(batch) >= limits.max_actions:
                break
            actor_id = entry.action.actor_id
            actor = self._actors[actor_id]
            index = taken.get(actor_id, 0)
            action, size = actor.actions[actor.nonces[index]]
            if size <= limits.max_bytes < used + size:
                break
            taken[actor_id] = index + 1
            if size > limits.max_bytes:
                continue
            used += size
            batch.append(action)
        return tuple(batch)

    def _forget(self, action: ActionEnvelope, source: str) -> None:
        actor = self._actors[action.actor_id]
        _, size = actor.actions.pop(action.nonce)
        del actor.nonces[bisect.bisect_left(actor.nonces, action.nonce)]
        self.bytes -= size
        if not actor.nonces:
            del self._actors[action.actor_id]
        if source:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]
