"""The schema table in a form for people and programs: every message with its fields, their types and their bounds."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Union

from agentworld_core.codec import Value, schema_table
from agentworld_core.codec_plans import Rule

NODE = Path(__file__).resolve().parents[2] / "node"


@dataclasses.dataclass(frozen=True)
class FieldType:
    """One field: ``kind`` is int, bool, text, bytes, value, message or list; ``of`` is the message or the item.

    ``alternatives`` are the other messages that may be there in place of ``of``.
    """

    kind: str
    rules: tuple[Rule, ...] = ()
    optional: bool = False
    of: FieldType | str | None = None
    alternatives: tuple[str, ...] = ()

    @property
    def must(self) -> tuple[str, ...]:
        """What the value must be, in words."""
        return tuple(rule.says for rule in self.rules)

    def allows(self, value: Any) -> bool:
        """True when a value of the right type passes the rules."""
        return all(rule.check(value) for rule in self.rules)

    def as_json(self) -> dict[str, Any]:
        """Returns the form of the vectors file."""
        result: dict[str, Any] = {"type": self.kind}
        if self.of is not None:
            result["of"] = self.of.as_json() if isinstance(self.of, FieldType) else self.of
        if self.alternatives:
            result["or"] = list(self.alternatives)
        if self.must:
            result["must"] = list(self.must)
        if self.optional:
            result["optional"] = True
        return result

    def words(self) -> tuple[str, str]:
        """Returns the type and the bounds in the words of the reference."""
        kind, bounds = self.kind, "; ".join(self.must)
        if isinstance(self.of, FieldType):
            inner, inner_bounds = self.of.words()
            kind = f"list of {inner}"
            bounds = "; ".join(filter(None, (bounds, f"each {inner_bounds}" if inner_bounds else "")))
        elif self.of is not None:
            kind = " or ".join(f"[{name}](#{name})" for name in (self.of, *self.alternatives))
        return (f"{kind}, or null" if self.optional else kind), bounds


@dataclasses.dataclass(frozen=True)
class Message:
    """One message of the schema table."""

    cls: type[Any]
    number: int
    name: str
    meaning: str
    fields: tuple[tuple[str, FieldType], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields in order."""
        return tuple(name for name, _ in self.fields)

    @property
    def signature_field(self) -> str | None:
        """``signature`` or ``signatures`` when the message is signed as a whole, else None."""
        if "world_id" not in self.names:
            return None
        return next((name for name in ("signature", "signatures") if name in self.names), None)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the messages that this one may contain directly."""
        found = [name for _, kind in self.fields for name in (_message_in(kind), *kind.alternatives)]
        return tuple(dict.fromkeys(name for name in found if name is not None))


@functools.cache
def all_messages() -> dict[int, Message]:
    """Returns every message that any module of ours declares, by number."""
    for path in sorted(NODE.rglob("*.py")):
        if re.search(r"^@message\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            importlib.import_module(".".join(path.relative_to(NODE).with_suffix("").parts))
    return {number: _describe(number, cls) for number, cls in schema_table().items()}


def _describe(number: int, cls: type[Any]) -> Message:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = tuple((field.name, _field_type(hints[field.name])) for field in dataclasses.fields(cls))
    return Message(cls, number, cls.SCHEMA_NAME, inspect.cleandoc(cls.__doc__ or ""), fields)


_KINDS = {int: "int", bool: "bool", str: "text", bytes: "bytes"}


def _field_type(hint: Any) -> FieldType:
    rules: tuple[Rule, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        rules = tuple(extra for extra in extras if isinstance(extra, Rule))
    if hint == Value:
        return FieldType("value", rules)
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        if len(inner) == len(typing.get_args(hint)):
            others = tuple(str(other.SCHEMA_NAME) for other in inner[1:])
            return dataclasses.replace(_field_type(inner[0]), alternatives=others)
        return dataclasses.replace(_field_type(inner[0]), optional=True)
    if origin is tuple:
        return FieldType("list", rules, of=_field_type(typing.get_args(hint)[0]))
    if hasattr(hint, "SCHEMA_NUMBER"):
        return FieldType("message", rules, of=str(hint.SCHEMA_NAME))
    return FieldType(_KINDS[hint], rules)


def _message_in(kind: FieldType) -> str | None:
    if isinstance(kind.of, FieldType):
        return _message_in(kind.of)
    return kind.of
