"""Events: the only way in which the state of a world changes.

``apply_event`` is the whole meaning of an event. A step writes, in this order: ``step.started`` (tick and time),
``directory.scheduled`` when the block carries a directory, one event for each action (``action.rejected`` when it was
refused), and ``nonces.used``, which lists what the actions of the step used up. Nothing else is needed to rebuild the
state from the journal: neither the actions nor the receipts. Where modules are active or governed, an action has
several events, and there are more kinds of them (``modules.apply``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agentworld_core.codec import Value
from agentworld_core.errors import MalformedEncoding, StateMismatch
from agentworld_core.messages import WorldEvent
from agentworld_core.world.event_fields import existing, take
from agentworld_core.world.modules.apply import MODULE_EVENTS
from agentworld_core.world.nonces import NonceWindow
from agentworld_core.world.state import (
    META_KEY,
    AgentRecord,
    DirectoryRecord,
    Draft,
    MailRecord,
    Meta,
    ObjectRecord,
    agent_key,
    directory_key,
    mail_key,
    nonce_key,
    object_key,
)

STEP_STARTED = "step.started"
DIRECTORY_SCHEDULED = "directory.scheduled"
AGENT_REGISTERED = "agent.registered"
AGENT_MOVED = "agent.moved"
OBJECT_CREATED = "object.created"
OBJECT_UPDATED = "object.updated"
MESSAGE_SENT = "message.sent"
MAILBOX_CLEARED = "mailbox.cleared"
ACTION_REJECTED = "action.rejected"
NONCES_USED = "nonces.used"


def apply_event(draft: Draft, event: WorldEvent) -> None:
    """Changes the draft as the event says.

    Raises StateMismatch when the event does not follow the last one or does not fit the state, MalformedEncoding when
    its payload is not that of its kind. After an error the draft is of no further use.
    """
    meta = existing(draft, META_KEY, Meta)
    if event.event_id != meta.next_event:
        raise StateMismatch(f"the next event is {meta.next_event}", field="event_id", value=event.event_id)
    apply = _APPLY.get(event.kind)
    if apply is None:
        raise MalformedEncoding("is not a kind of event", field="kind", value=event.kind)
    if not isinstance(event.payload, dict):
        raise MalformedEncoding("must be a map", field="payload")
    if event.kind != STEP_STARTED and event.tick != meta.tick:
        raise StateMismatch(f"the tick is {meta.tick}", field="tick", value=event.tick)
    apply(draft, event, event.payload)
    if event.kind == STEP_STARTED:  # the only one that changes the other counters
        meta = existing(draft, META_KEY, Meta)
    draft.put(META_KEY, Meta(meta.tick, meta.time_ms, next_event=event.event_id + 1))


def _position(payload: dict[str, Value], name: str) -> tuple[int, int]:
    match payload.get(name):
        case [int(x), int(y)]:
            return x, y
    raise MalformedEncoding("must be two integers", field=f"payload.{name}")


def _step_started(draft: Draft, event: WorldEvent, payload: dict[str, Value]) -> None:
    meta = existing(draft, META_KEY, Meta)
    time_ms = take(payload, "time_ms", int)
    if event.tick != meta.tick + 1 or time_ms < meta.time_ms:
        raise StateMismatch("must follow the last step", field="tick", value=event.tick)
    draft.put(META_KEY, replace(meta, tick=event.tick, time_ms=time_ms))


def _directory_scheduled(draft: Draft, _event: WorldEvent, payload: dict[str, Value]) -> None:
    record = DirectoryRecord(take(payload, "directory_hash", str), take(payload, "effective_height", int))
    draft.put(directory_key(take(payload, "epoch", int)), record)


def _agent_registered(draft: Draft, _event: WorldEvent, payload: dict[str, Value]) -> None:
    key = agent_key(take(payload, "agent_id", str))
    draft.put(key, AgentRecord(take(payload, "public_key", bytes), *_position(payload, "position")))


def _agent_moved(draft: Draft, _event: WorldEvent, payload: dict[str, Value]) -> None:
    key = agent_key(take(payload, "agent_id", str))
    x, y = _position(payload, "to")
    agent = existing(draft, key, AgentRecord)
    draft.put(key, AgentRecord(agent.public_key, x, y, agent.mail_first, agent.mail_next))


def _object_changed(draft: Draft, _event: WorldEvent, payload: dict[str, Value]) -> None:
    owner, version = take(payload, "owner", str), take(payload, "version", int)
    draft.put(object_key(take(payload, "object_id", str)), ObjectRecord(owner, version, payload.get("data")))


def _message_sent(draft: Draft, event: WorldEvent, payload: dict[str, Value]) -> None:
    recipient, sequence = take(payload, "to", str), take(payload, "sequence", int)
    agent = existing(draft, agent_key(recipient), AgentRecord)
    draft.put(agent_key(recipient), replace(agent, mail_next=sequence + 1))
    mail = MailRecord(take(payload, "from", str), payload.get("body"), event.tick)
    draft.put(mail_key(recipient, sequence), mail)


def _mailbox_cleared(draft: Draft, _event: WorldEvent, payload: dict[str, Value]) -> None:
    agent_id = take(payload, "agent_id", str)
    first, last = take(payload, "first", int), take(payload, "last", int)
    agent = existing(draft, agent_key(agent_id), AgentRecord)
    if first != agent.mail_first or not first <= last < agent.mail_next:
        raise StateMismatch("are not messages of this mailbox", field="payload.last", value=last)
    for sequence in range(first, last + 1):
        draft.put(mail_key(agent_id, sequence), None)
    draft.put(agent_key(agent_id), replace(agent, mail_first=last + 1))


def _action_rejected(_draft: Draft, _event: WorldEvent, _payload: dict[str, Value]) -> None:
    """Changes nothing: what the action used up is in ``nonces.used``."""


def _nonces_used(draft: Draft, _event: WorldEvent, payload: dict[str, Value]) -> None:
    for item in take(payload, "used", list):
        match item:
            case [str(actor_id), str(key_id), int(nonce)]:
                key = nonce_key(actor_id, key_id)
                window = draft.record(key, NonceWindow) or NonceWindow()
                try:
                    draft.put(key, window.use(nonce))
                except ValueError:
                    raise StateMismatch("has been used before", field="payload.used", value=nonce) from None
            case _:
                raise MalformedEncoding("must be [actor, key, nonce]", field="payload.used")


_APPLY: dict[str, Callable[[Draft, WorldEvent, dict[str, Value]], None]] = {
    STEP_STARTED: _step_started,
    DIRECTORY_SCHEDULED: _directory_scheduled,
    AGENT_REGISTERED: _agent_registered,
    AGENT_MOVED: _agent_moved,
    OBJECT_CREATED: _object_changed,
    OBJECT_UPDATED: _object_changed,
    MESSAGE_SENT: _message_sent,
    MAILBOX_CLEARED: _mailbox_cleared,
    ACTION_REJECTED: _action_rejected,
    NONCES_USED: _nonces_used,
    **MODULE_EVENTS,
}

EVENT_KINDS = tuple(_APPLY)
