"""How the meaning of an event is read: fields of its payload by type, and the records that it is about."""

from __future__ import annotations

from typing import TypeVar

from agentworld_core.codec import Value
from agentworld_core.errors import MalformedEncoding, StateMismatch
from agentworld_core.world.state import Draft, Record

_T = TypeVar("_T")
_R = TypeVar("_R", bound=Record)


def take(payload: dict[str, Value], name: str, kind: type[_T]) -> _T:
    """Returns a field of exactly this type; raises MalformedEncoding."""
    value = payload.get(name)
    if type(value) is not kind:
        raise MalformedEncoding(f"must be {kind.__name__}", field=f"payload.{name}", value=value)
    return value


def existing(draft: Draft, key: bytes, kind: type[_R]) -> _R:
    """Returns the record under a key; raises StateMismatch when there is none."""
    record = draft.record(key, kind)
    if record is None:
        raise StateMismatch("the event is about something that does not exist", field="state", value=key.decode())
    return record
