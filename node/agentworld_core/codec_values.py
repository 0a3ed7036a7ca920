"""Data without a schema, as messages may carry it: what it may be, and the one order of its maps.

As for whole messages there is a *quick* way, which says only that something is wrong, and one that names what.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentworld_core.errors import MalformedEncoding

MAX_DEPTH = 16

Value = None | bool | int | str | bytes | list[Any] | dict[str, Any]
"""Data without a schema: null, booleans, 64-bit integers, text, bytes, lists and maps with text keys."""


def is_unicode(text: str) -> bool:
    """False for text with half a surrogate pair, which Python and JSON can hold and UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Refused(Exception):
    """A quick function found something wrong; the naming function says what."""


_LEAVES = frozenset((str, bytes, bool, type(None)))


def quick_value(value: Any, depth: int = 0) -> Any:
    """Returns data without a schema, its maps sorted by encoded key; raises Refused for what has no encoding."""
    kind = type(value)
    if depth > MAX_DEPTH:
        raise Refused
    if kind in _LEAVES:
        return value
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        raise Refused
    if kind is dict:
        return _quick_map(value, depth + 1)
    if kind is list or kind is tuple:
        return [quick_value(item, depth + 1) for item in value]
    raise Refused


def _quick_map(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    """Returns a map whose values are at this depth; one that was decoded is in order already, as a look at it shows."""
    keys = tuple(value)
    if keys not in _in_order and not _is_in_order(keys):
        if depth > MAX_DEPTH:
            raise Refused
        return {key: quick_value(value[key], depth) for key in sorted(value, key=_key_order)}
    if depth > MAX_DEPTH and value:
        raise Refused
    return {key: item if type(item) in _LEAVES else quick_value(item, depth) for key, item in value.items()}


_in_order: set[tuple[str, ...]] = set()
_REMEMBERED = 1024
_REMEMBERED_KEYS = 8
_REMEMBERED_LENGTH = 64


def _is_in_order(keys: tuple[Any, ...]) -> bool:
    """True for keys in the order of their encodings; raises Refused for what is no key.

    Nearly all maps are of a few kinds, so short keys in order are remembered, as many as there is room for.
    """
    size, last = -1, ""
    ordered = True
    for key in keys:
        if type(key) is not str:
            raise Refused
        if ordered:
            length = len(key)
            ordered = key.isascii() and (length > size or (length == size and key > last))
            size, last = length, key
    if ordered and len(keys) <= _REMEMBERED_KEYS and size <= _REMEMBERED_LENGTH and len(_in_order) < _REMEMBERED:
        _in_order.add(keys)
    return ordered


def _key_order(key: str) -> tuple[int, bytes]:
    data = key.encode()
    return len(data), data


def checked_value(value: Any, path: str, depth: int = 0) -> Any:
    """Checks data without a schema and sorts its maps by encoded key."""
    if depth > MAX_DEPTH:
        raise MalformedEncoding(f"is nested deeper than {MAX_DEPTH}", field=path)
    kind = type(value)
    if value is None or kind in (bool, bytes):
        return value
    if kind is str:
        if not is_unicode(value):
            raise MalformedEncoding("must be Unicode text", field=path, value=ascii(value))
        return value
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise MalformedEncoding("must fit 64 bits", field=path, value=value)
        return value
    if isinstance(value, list | tuple):
        return [checked_value(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str or not is_unicode(key):
                raise MalformedEncoding("must have text keys", field=path, value=ascii(key))
        ordered = sorted(value.items(), key=lambda item: _key_order(item[0]))
        return {key: checked_value(item, f"{path}.{key}", depth + 1) for key, item in ordered}
    raise MalformedEncoding(
        f"may not hold {kind.__name__}",
        field=path,
        remedy="use integers, text, bytes, lists, maps",
    )
