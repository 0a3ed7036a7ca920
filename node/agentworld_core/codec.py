"""Each message has exactly one encoding, and nothing else decodes to it (decisions 1 and 2 of the design).

Deterministic CBOR after RFC 8949 section 4.2.1: shortest integers, definite lengths, no floats, no tags. A message
is an array ``[schema number, field, ...]`` in the declared order of its dataclass; absent optional fields are null;
maps occur only in ``Value`` fields, where the keys are data. Decoding checks size and depth, then types,
then that encoding the result again gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias, TypeVar, dataclass_transform

import cbor2

from agentworld_core import codec_values
from agentworld_core.codec_density import check_density
from agentworld_core.codec_plans import Plan, Rule, message_of, plain_of, plan_of
from agentworld_core.codec_values import MAX_DEPTH, Refused, checked_value, quick_value
from agentworld_core.errors import MalformedEncoding, TooLarge
from agentworld_core.ids import (
    KIND_LENGTH,
    hash_match,
    id_match,
    is_hash,
    is_id,
    is_key_id,
    is_kind,
    key_id_match,
    kind_match,
)

Value: TypeAlias = codec_values.Value
DEFAULT_LIMIT = 4 * 1024 * 1024
_SMALL = 16 * 1024


def _is_u64(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _is_i64(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def text_up_to(limit: int) -> Rule:
    """Returns the rule of a text field of at most ``limit`` characters."""
    return Rule(
        lambda value: type(value) is str and len(value) <= limit,
        f"text of at most {limit} characters",
        f"len({{v}}) <= {limit}",
    )


def bytes_up_to(limit: int) -> Rule:
    """Returns the rule of a byte field of at most ``limit`` bytes."""
    return Rule(
        lambda value: type(value) is bytes and len(value) <= limit,
        f"at most {limit} bytes",
        f"len({{v}}) <= {limit}",
    )


def items_up_to(limit: int) -> Rule:
    """Returns the rule of a list field of at most ``limit`` items."""
    return Rule(lambda value: len(value) <= limit, f"a list of at most {limit} items", f"len({{v}}) <= {limit}")


U64 = Annotated[int, Rule(_is_u64, "an unsigned 64-bit integer", "0 <= {v} < 18446744073709551616")]
I64 = Annotated[int, Rule(_is_i64, "a signed 64-bit integer", "-9223372036854775808 <= {v} < 9223372036854775808")]
Id = Annotated[str, Rule(is_id, "an id (1 to 63 of a-z 0-9 -)", "test({v})", id_match)]
Hash = Annotated[str, Rule(is_hash, "a content id (64 hex digits)", "test({v})", hash_match)]
HashOrEmpty = Annotated[
    str,
    Rule(lambda value: value == "" or is_hash(value), "a content id or empty", "not {v} or test({v})", hash_match),
]
KeyId = Annotated[str, Rule(is_key_id, "a key id (32 hex digits)", "test({v})", key_id_match)]
Kind = Annotated[
    str, Rule(is_kind, "a kind (dotted lower-case words)", f"len({{v}}) <= {KIND_LENGTH} and test({{v}})", kind_match)
]
PublicKey = Annotated[
    bytes, Rule(lambda value: type(value) is bytes and len(value) == 32, "32 bytes", "len({v}) == 32")
]
Signature = Annotated[
    bytes,
    Rule(
        lambda value: type(value) is bytes and len(value) in (0, 64),
        "64 bytes, or empty before it is signed",
        "len({v}) == 64 or not {v}",
    ),
]
ShortText = Annotated[str, text_up_to(256)]
LongText = Annotated[str, text_up_to(4096)]

_registry: dict[int, type[Any]] = {}
_T = TypeVar("_T")


class _Keeping:
    """A message that keeps its encoding, because it is encoded again and again; nothing of it can change."""

    __slots__ = ("_content_id", "_encoding", "_payload")


@dataclass_transform(frozen_default=True)
def message(number: int, name: str, *, keeps_encoding: bool = False) -> Callable[[type[_T]], type[_T]]:
    """Declares a class as the frozen dataclass of a message: its schema number (never reused) and its name.

    With ``keeps_encoding`` its encoding is made once; for messages without ``Value`` fields, which could be changed.
    """

    def declare(cls: type[_T]) -> type[_T]:
        base: Any = cls
        if keeps_encoding:
            base = type(cls.__name__, (_Keeping,), {k: v for k, v in vars(cls).items() if k not in _OWN_STORAGE})
        declared: Any = dataclasses.dataclass(frozen=True, slots=True)(base)
        if number in _registry:
            raise ValueError(f"schema number {number} is taken by {_registry[number].__name__}")
        declared.SCHEMA_NUMBER = number
        declared.SCHEMA_NAME = name
        declared.KEEPS_ENCODING = keeps_encoding
        _registry[number] = declared
        return typing.cast("type[_T]", declared)

    return declare


_OWN_STORAGE = ("__dict__", "__weakref__")


def schema_table() -> dict[int, type[Any]]:
    """Returns all declared messages by schema number, in order."""
    return dict(sorted(_registry.items()))


def encode(value: Any) -> bytes:
    """Returns the deterministic encoding of a message; raises MalformedEncoding that names the field that is wrong."""
    cls = type(value)
    keeps = getattr(cls, "KEEPS_ENCODING", None)
    if keeps is None:
        raise MalformedEncoding(f"{cls.__name__} is not a message")
    if not keeps:
        return _encode(value, None)
    kept: bytes | None = getattr(value, "_encoding", None)
    if kept is None:
        kept = _encode(value, None)
        sequences = plan_of(cls).sequences
        if not sequences or all(type(getattr(value, name)) is tuple for name in sequences):
            object.__setattr__(value, "_encoding", kept)
    return kept


def encode_with(value: Any, fields: Mapping[str, Any]) -> bytes:
    """Returns the encoding of the message with these fields instead of its own, which must be right and plain.

    The same as encoding what ``dataclasses.replace`` returns, for texts, bytes and empty sequences, at a part of the
    cost: what is signed is a message without its signature.
    """
    plan = plan_of(type(value))
    if plan.values_of is not None and getattr(value, "_encoding", None) is not None:
        # It has been encoded before, so each of its fields is right, and none of them is converted.
        return _dumped(plan, [plan.number, *plan.values_of(value)], fields)
    return _encode(value, fields)


def _encode(value: Any, fields: Mapping[str, Any] | None) -> bytes:
    cls = type(value)
    plan = plan_of(cls)
    try:
        if plan.is_joined:
            return _encode_parts(value, plan, fields or {})
        return _dumped(plan, plan.to_plain(value), fields)
    except (Refused, MalformedEncoding, UnicodeEncodeError):
        return _dumped(plan, plain_of(value, cls, ""), fields)  # raises the error that names the field


def _dumped(plan: Plan, plain: list[Any], fields: Mapping[str, Any] | None) -> bytes:
    if fields:
        for name, item in fields.items():
            plain[plan.places[name]] = item
    return cbor2.dumps(plain)


def _encode_parts(value: Any, plan: Plan, fields: Mapping[str, Any]) -> bytes:
    """Returns the encoding of a message put together from those of the messages inside, which some of them keep."""
    parts = [array_head(len(plan.fields) + 1)]
    run: list[Any] = [plan.number]  # fields without messages inside, encoded together
    for name, codec in plan.fields:
        item = fields[name] if name in fields else getattr(value, name)
        if codec.message is None or item is None:
            run.append(codec.encode(item, name))
            continue
        parts.append(_items(run))
        run = []
        if not codec.is_sequence:
            parts.append(_encode_as(codec.message, item))
            continue
        if not isinstance(item, list | tuple):
            raise Refused
        codec.check_rules(item)
        parts.append(array_head(len(item)))
        parts += [_encode_as(codec.message, one) for one in item]
    parts.append(_items(run))
    return b"".join(parts)


def _encode_as(cls: type[Any], value: Any) -> bytes:
    if type(value) is not cls:
        raise Refused
    return encode(value)


def _items(values: list[Any]) -> bytes:
    """Returns the encodings of values one after the other."""
    return cbor2.dumps(values)[len(array_head(len(values))) :] if values else b""


def array_head(count: int) -> bytes:
    """Returns the CBOR head of an array (RFC 8949 section 3.1)."""
    if count < 24:
        return bytes([0x80 + count])
    if count < 256:
        return bytes([0x98, count])
    size, mark = (2, 0x99) if count < 65536 else (4, 0x9A)
    return bytes([mark]) + count.to_bytes(size, "big")


def decode(cls: type[_T], data: bytes, *, limit: int = DEFAULT_LIMIT) -> _T:
    """Returns the message whose one encoding is ``data``.

    Raises TooLarge above ``limit`` bytes, before any work; MalformedEncoding for everything that is not that encoding.
    """
    _check_size(data, limit)
    plan = plan_of(cls)
    if len(data) > _SMALL and not plan.has_values:  # in data without a schema lists may be as small as they like
        check_density(data, cls)
    plain = _load(data)
    try:
        result: Any = plan.build(plain)
    except Refused:
        result = message_of(cls, plain, "")  # raises the error that names the field
    # Without maps, what was checked is what the result would be made into again.
    again = plan.to_plain(result) if plan.has_values else plain
    if cbor2.dumps(again) != data:
        raise MalformedEncoding(f"is not the deterministic encoding of a {cls.__name__}")
    if cls.KEEPS_ENCODING:  # type: ignore[attr-defined]
        object.__setattr__(result, "_encoding", data)
    elif plan.is_joined:
        _keep_inside(plan, result, plain)
    return typing.cast("_T", result)


def _keep_inside(plan: Plan, value: Any, plain: list[Any]) -> None:
    """Has messages in a list that was just decoded keep their encodings: they are right, and need no check again."""
    for (name, codec), part in zip(plan.fields, plain[1:], strict=True):
        if codec.is_sequence and codec.message is not None and codec.message.KEEPS_ENCODING:
            for one, items in zip(getattr(value, name), part, strict=True):
                object.__setattr__(one, "_encoding", cbor2.dumps(items))


def schema_number(data: bytes) -> int | None:
    """Returns the schema number that an encoded message starts with, without decoding it; None when it has none."""
    if len(data) < 3 or data[0] >> 5 != 4 or data[0] & 31 > 24:
        return None
    start = 2 if data[0] & 31 == 24 else 1
    if data[start] < 24:
        return data[start]
    return data[start + 1] if data[start] == 24 and len(data) > start + 1 else None


def encode_value(value: Value) -> bytes:
    """Returns the deterministic encoding of data without a schema."""
    try:
        return cbor2.dumps(_plain_value(value))
    except UnicodeEncodeError:
        return cbor2.dumps(checked_value(value, "value"))  # raises the error that names the place


def _plain_value(value: Any) -> Any:
    try:
        return quick_value(value, 0)
    except (Refused, UnicodeEncodeError):
        return checked_value(value, "value")  # raises the error that names the place


def encode_nested(value: Value) -> bytes:
    """Returns the deterministic encoding of data around data that has been decoded, which makes it nest deeper."""
    try:
        return cbor2.dumps(quick_value(value, -MAX_DEPTH))
    except (Refused, UnicodeEncodeError):
        return cbor2.dumps(checked_value(value, "value", -MAX_DEPTH))  # raises the error that names the place


def decode_value(data: bytes, *, limit: int = DEFAULT_LIMIT) -> Value:
    """Returns the data whose one encoding is ``data``; the same errors as ``decode``."""
    _check_size(data, limit)
    plain = _plain_value(_load(data))
    if cbor2.dumps(plain) != data:
        raise MalformedEncoding("is not the deterministic encoding of its value")
    return typing.cast("Value", plain)


def _refuse_tag(*_: object) -> Any:
    raise MalformedEncoding("may not hold tags")


# Tags could compile regular expressions or build cycles before the comparison of encodings refuses them.
_NO_TAGS: Any = dict.fromkeys((*range(46), *range(100, 105), 256, 258, 260, 261, 1004, 43000, 55799), _refuse_tag)


def _check_size(data: bytes, limit: int) -> None:
    if type(data) is not bytes:
        raise MalformedEncoding("must be bytes", value=type(data).__name__)
    if len(data) > limit:
        raise TooLarge(f"{len(data)} bytes exceed the limit of {limit}")


def _load(data: bytes) -> Any:
    try:
        return cbor2.loads(
            data,
            max_depth=MAX_DEPTH + 8,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_NO_TAGS,
        )
    except (
        cbor2.CBORDecodeError,
        ValueError,
        OverflowError,
        RecursionError,
        TypeError,
        UnicodeError,
    ) as error:
        raise MalformedEncoding(f"is not well-formed CBOR: {error}") from error
