"""Each message has exactly one encoding, and nothing else decodes to it (decisions 1 and 2 of the design).

Deterministic CBOR after RFC 8949 section 4.2.1: shortest integers, definite lengths, no floats, no tags. A message
is an array ``[schema number, field, ...]`` in the declared order of its dataclass; absent optional fields are null;
maps occur only in ``Value`` fields, where the keys are data. Decoding checks size and depth, then types,
then that encoding the result again gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, Union, dataclass_transform

import cbor2

from agentworld_core.errors import MalformedEncoding, TooLarge
from agentworld_core.ids import is_hash, is_id, is_key_id, is_kind

MAX_DEPTH = 16
DEFAULT_LIMIT = 4 * 1024 * 1024

Value = None | bool | int | str | bytes | list[Any] | dict[str, Any]
"""Data without a schema: null, booleans, 64-bit integers, text, bytes, lists and maps with text keys."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """A named check on a decoded field value; ``says`` completes the sentence "field must be ..."."""

    check: Callable[[Any], bool]
    says: str


def _is_u64(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _is_unicode(text: str) -> bool:
    """False for text with half a surrogate pair, which Python and JSON can hold and UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_i64(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def text_up_to(limit: int) -> Rule:
    """Returns the rule of a text field of at most ``limit`` characters."""
    return Rule(
        lambda value: type(value) is str and len(value) <= limit,
        f"text of at most {limit} characters",
    )


def bytes_up_to(limit: int) -> Rule:
    """Returns the rule of a byte field of at most ``limit`` bytes."""
    return Rule(
        lambda value: type(value) is bytes and len(value) <= limit,
        f"at most {limit} bytes",
    )


def items_up_to(limit: int) -> Rule:
    """Returns the rule of a list field of at most ``limit`` items."""
    return Rule(lambda value: len(value) <= limit, f"a list of at most {limit} items")


U64 = Annotated[int, Rule(_is_u64, "an unsigned 64-bit integer")]
I64 = Annotated[int, Rule(_is_i64, "a signed 64-bit integer")]
Id = Annotated[str, Rule(is_id, "an id (1 to 63 of a-z 0-9 -)")]
Hash = Annotated[str, Rule(is_hash, "a content id (64 hex digits)")]
HashOrEmpty = Annotated[str, Rule(lambda value: value == "" or is_hash(value), "a content id or empty")]
KeyId = Annotated[str, Rule(is_key_id, "a key id (32 hex digits)")]
Kind = Annotated[str, Rule(is_kind, "a kind (dotted lower-case words)")]
PublicKey = Annotated[bytes, Rule(lambda value: type(value) is bytes and len(value) == 32, "32 bytes")]
Signature = Annotated[
    bytes,
    Rule(lambda value: type(value) is bytes and len(value) in (0, 64), "64 bytes, or empty before it is signed"),
]
ShortText = Annotated[str, text_up_to(256)]
LongText = Annotated[str, text_up_to(4096)]

_registry: dict[int, type[Any]] = {}
_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def message(number: int, name: str) -> Callable[[type[_T]], type[_T]]:
    """Declares a class as the frozen dataclass of a message: its schema number (never reused) and its name."""

    def declare(cls: type[_T]) -> type[_T]:
        declared: Any = dataclasses.dataclass(frozen=True, slots=True)(cls)
        if number in _registry:
            raise ValueError(f"schema number {number} is taken by {_registry[number].__name__}")
        declared.SCHEMA_NUMBER = number
        declared.SCHEMA_NAME = name
        _registry[number] = declared
        return typing.cast("type[_T]", declared)

    return declare


def schema_table() -> dict[int, type[Any]]:
    """Returns all declared messages by schema number, in order."""
    return dict(sorted(_registry.items()))


class _FieldCodec:
    """Checks and converts one field both ways; compiled once for each field of each message."""

    __slots__ = ("decode", "encode")

    def __init__(self, encode: Callable[[Any, str], Any], decode: Callable[[Any, str], Any]):
        self.encode = encode
        self.decode = decode


_plans: dict[type[Any], list[tuple[str, _FieldCodec]]] = {}


def _plan(cls: type[Any]) -> list[tuple[str, _FieldCodec]]:
    plan = _plans.get(cls)
    if plan is None:
        hints = typing.get_type_hints(cls, include_extras=True)
        plan = [(f.name, _compile(hints[f.name])) for f in dataclasses.fields(cls)]
        _plans[cls] = plan
    return plan


def _compile(hint: Any) -> _FieldCodec:
    rules: tuple[Rule, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        rules = tuple(extra for extra in extras if isinstance(extra, Rule))
    if hint == Value:
        return _FieldCodec(_value_to_plain, _value_to_plain)
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        return _optional(_compile(inner[0]))
    if origin is tuple:
        return _sequence(_compile(typing.get_args(hint)[0]), rules)
    if hasattr(hint, "SCHEMA_NUMBER"):
        return _FieldCodec(
            lambda value, path: _to_plain(value, hint, path),
            lambda p, path: _build(hint, p, path),
        )
    if hint in (int, str, bytes, bool):
        return _scalar(hint, rules)
    raise TypeError(f"no encoding for a field of type {hint!r}")


def _scalar(kind: type[Any], rules: tuple[Rule, ...]) -> _FieldCodec:
    def check(value: Any, path: str) -> Any:
        if type(value) is not kind:
            raise MalformedEncoding(f"must be {kind.__name__}", field=path, value=value)
        if kind is str and not _is_unicode(value):
            raise MalformedEncoding("must be Unicode text", field=path, value=ascii(value))
        for rule in rules:
            if not rule.check(value):
                raise MalformedEncoding(f"must be {rule.says}", field=path, value=value)
        return value

    return _FieldCodec(check, check)


def _optional(inner: _FieldCodec) -> _FieldCodec:
    return _FieldCodec(
        lambda value, path: None if value is None else inner.encode(value, path),
        lambda value, path: None if value is None else inner.decode(value, path),
    )


def _sequence(inner: _FieldCodec, rules: tuple[Rule, ...]) -> _FieldCodec:
    def convert(value: Any, path: str, each: Callable[[Any, str], Any]) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise MalformedEncoding("must be a list", field=path, value=value)
        for rule in rules:
            if not rule.check(value):
                raise MalformedEncoding(f"must be {rule.says}", field=path)
        return [each(item, f"{path}[{index}]") for index, item in enumerate(value)]

    return _FieldCodec(
        lambda value, path: convert(value, path, inner.encode),
        lambda value, path: tuple(convert(value, path, inner.decode)),
    )


def _value_to_plain(value: Any, path: str, depth: int = 0) -> Any:
    """Checks data without a schema and sorts its maps by encoded key."""
    if depth > MAX_DEPTH:
        raise MalformedEncoding(f"is nested deeper than {MAX_DEPTH}", field=path)
    kind = type(value)
    if value is None or kind in (bool, bytes):
        return value
    if kind is str:
        if not _is_unicode(value):
            raise MalformedEncoding("must be Unicode text", field=path, value=ascii(value))
        return value
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise MalformedEncoding("must fit 64 bits", field=path, value=value)
        return value
    if isinstance(value, list | tuple):
        return [_value_to_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str or not _is_unicode(key):
                raise MalformedEncoding("must have text keys", field=path, value=ascii(key))
        ordered = sorted(value.items(), key=lambda item: (len(item[0].encode()), item[0].encode()))
        return {key: _value_to_plain(item, f"{path}.{key}", depth + 1) for key, item in ordered}
    raise MalformedEncoding(
        f"may not hold {kind.__name__}",
        field=path,
        remedy="use integers, text, bytes, lists, maps",
    )


def _to_plain(value: Any, cls: type[Any], path: str) -> list[Any]:
    if type(value) is not cls:
        raise MalformedEncoding(f"must be {cls.__name__}", field=path, value=type(value).__name__)
    prefix = f"{path}." if path else ""
    plain: list[Any] = [cls.SCHEMA_NUMBER]
    for name, codec in _plan(cls):
        plain.append(codec.encode(getattr(value, name), prefix + name))
    return plain


def _build(cls: type[_T], plain: Any, path: str) -> _T:
    number: int = cls.SCHEMA_NUMBER  # type: ignore[attr-defined]
    plan = _plan(cls)
    if type(plain) is not list or len(plain) != len(plan) + 1 or type(plain[0]) is not int or plain[0] != number:
        raise MalformedEncoding(
            f"is not a {cls.__name__}: [{number}, {len(plan)} fields]",
            field=path or None,
        )
    prefix = f"{path}." if path else ""
    return cls(*(codec.decode(item, prefix + name) for (name, codec), item in zip(plan, plain[1:], strict=True)))


def encode(value: Any) -> bytes:
    """Returns the deterministic encoding of a message; raises MalformedEncoding that names the field that is wrong."""
    cls = type(value)
    if not hasattr(cls, "SCHEMA_NUMBER"):
        raise MalformedEncoding(f"{cls.__name__} is not a message")
    return cbor2.dumps(_to_plain(value, cls, ""))


def decode(cls: type[_T], data: bytes, *, limit: int = DEFAULT_LIMIT) -> _T:
    """Returns the message whose one encoding is ``data``.

    Raises TooLarge above ``limit`` bytes, before any work; MalformedEncoding for everything that is not that encoding.
    """
    _check_size(data, limit)
    if len(data) > _SMALL and not _holds_data(cls):
        _check_density(data, cls)
    plain = _load(data)
    result = _build(cls, plain, "")
    if cbor2.dumps(_to_plain(result, cls, "")) != data:
        raise MalformedEncoding(f"is not the deterministic encoding of a {cls.__name__}")
    return result


_SMALL = 16 * 1024


def _holds_data(cls: type[Any]) -> bool:
    """True when the message may hold data without a schema, in which lists may be as small as they like."""
    if cls not in _with_data:
        _with_data[cls] = any(map(_may_hold_data, typing.get_type_hints(cls).values()))
    return _with_data[cls]


_with_data: dict[type[Any], bool] = {}


def _may_hold_data(hint: Any) -> bool:
    if hint == Value:
        return True
    if hasattr(hint, "SCHEMA_NUMBER"):
        return _holds_data(hint)
    return any(map(_may_hold_data, typing.get_args(hint)))


_NO_LIST_OR_MAP = bytes(byte for byte in range(256) if byte >> 5 not in (4, 5))


def _check_density(data: bytes, cls: type[Any]) -> None:
    """Refuses bytes that hold more lists and maps than any message of their size.

    An empty list is one byte here and eighty in memory, and the library that builds it lets nothing else run meanwhile.
    Whatever is wrong otherwise is left to the decoder.
    """
    position, end = 0, len(data)
    left = end // 8 + 1024
    if len(data.translate(None, _NO_LIST_OR_MAP)) < left:
        return
    while position < end:
        major, argument = data[position] >> 5, data[position] & 31
        position += 1
        if 24 <= argument < 28:
            width = 1 << (argument - 24)
            argument = int.from_bytes(data[position : position + width], "big")
            position += width
        if major in (2, 3):
            position += argument
        elif major in (4, 5):
            left -= 1
            if not left:
                raise MalformedEncoding(f"holds more lists than a {cls.__name__} of {end} bytes can")


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
    return cbor2.dumps(_value_to_plain(value, "value"))


def decode_value(data: bytes, *, limit: int = DEFAULT_LIMIT) -> Value:
    """Returns the data whose one encoding is ``data``; the same errors as ``decode``."""
    _check_size(data, limit)
    plain = _value_to_plain(_load(data), "value")
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
