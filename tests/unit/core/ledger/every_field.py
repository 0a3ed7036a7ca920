"""Every field of every message, changed: derived from the message schema, so that a new field is covered by itself."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from agentworld_core.codec import Value
from agentworld_core.codec_plans import Rule

_SAMPLES: tuple[Any, ...] = ("x", "ada", "a.b", "1" * 32, "2" * 64, 7, b"\x07" * 32, b"\x07" * 64, b"x", True)


def hints(kind: type[Any]) -> dict[str, Any]:
    """The fields of a message with their annotations, in order."""
    known = typing.get_type_hints(kind, include_extras=True)
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def kinds_within(kind: type[Any]) -> set[type[Any]]:
    """The message and all messages that it may hold."""
    found = {kind}
    waiting = list(hints(kind).values())
    while waiting:
        hint = waiting.pop()
        if hasattr(hint, "SCHEMA_NUMBER"):
            if hint not in found:
                found.add(hint)
                waiting += hints(hint).values()
        elif hint != Value:
            waiting += [item for item in get_args(hint) if not isinstance(item, Rule)]
    return found


def sample(hint: Any) -> Any:
    """Some value that the annotation allows."""
    rules: list[Rule] = []
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        rules = [item for item in extras if isinstance(item, Rule)]
    if get_origin(hint) in (Union, types.UnionType):
        return sample(next(item for item in get_args(hint) if item is not type(None)))
    if get_origin(hint) is tuple:
        return (sample(get_args(hint)[0]),)
    if hasattr(hint, "SCHEMA_NUMBER"):
        return hint(**{name: sample(inner) for name, inner in hints(hint).items()})
    return next(item for item in _SAMPLES if type(item) is hint and all(rule.check(item) for rule in rules))


def changes(message: Any, path: str = "") -> Iterator[tuple[str, type[Any], str, Any]]:
    """Yields (path, kind, field, message with just this changed) for every field at every depth of a message.

    A list loses its last item, gains one, and has each of its items changed.
    """
    kind = type(message)
    for name, hint in hints(kind).items():
        value = getattr(message, name)
        for step, inner_kind, inner_name, other in _others(value, hint):
            yield (
                f"{path}{name}{step}",
                inner_kind or kind,
                inner_name or name,
                dataclasses.replace(message, **{name: other}),
            )


def _others(value: Any, hint: Any) -> Iterator[tuple[str, type[Any] | None, str, Any]]:
    if hasattr(type(value), "SCHEMA_NUMBER"):
        yield from changes(value, ".")
        if _is_optional(hint):
            yield "", None, "", None
    elif isinstance(value, tuple):
        inner = get_args(get_args(hint)[0] if get_origin(hint) is Annotated else hint)[0]
        yield "", None, "", (*value, sample(inner))
        if value:
            yield "", None, "", value[:-1]
        for index, item in enumerate(value):
            for path, item_kind, name, other in _others(item, inner):
                yield f"[{index}]{path}", item_kind, name, (*value[:index], other, *value[index + 1 :])
    elif value is None:
        yield "", None, "", sample(hint)
    else:
        yield "", None, "", _other(value, hint)


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _other(value: Any, hint: Any) -> Any:
    """Another value that the annotation allows, as near to the old one as that goes."""
    rules = [item for item in get_args(hint) if isinstance(item, Rule)] if get_origin(hint) is Annotated else []
    candidates = (_near(value), *(item for item in _SAMPLES if type(item) is type(value)))
    return next(item for item in candidates if item != value and all(rule.check(item) for rule in rules))


def _near(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:] if value else b"\x01" * 64
        case str():
            return ("1" if value[:1] != "1" else "2") + value[1:]
        case dict():
            return {**value, "x": 1}
        case list():
            return [*value, 1]
    raise TypeError(type(value))
