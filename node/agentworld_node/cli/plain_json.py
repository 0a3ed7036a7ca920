"""CBOR documents as JSON that people can write: what JSON lacks is byte strings, which stand as one of two maps.

``{"$hex": "00ff"}`` is the bytes themselves, ``{"$cbor": ...}`` the bytes of the encoding of what stands in it.
"""

from __future__ import annotations

import json
from typing import Any

from agentworld_core.codec import Value, decode_value, encode_value
from agentworld_core.errors import InvalidField, MalformedEncoding

HEX = "$hex"
CBOR = "$cbor"


def parse(text: str | bytes, *, field: str) -> Value:
    """Returns the value that a JSON document stands for; raises InvalidField for what has no deterministic encoding."""
    try:
        value = _from_json(json.loads(text))
        encode_value(value)
    except (ValueError, RecursionError, MalformedEncoding) as error:
        raise InvalidField(f"is not a JSON document that stands for a value: {error}", field=field) from None
    return value


def render(value: Value) -> Any:
    """Returns the JSON form of a value; bytes that hold a list or a map stand as ``$cbor``, all others as ``$hex``."""
    if isinstance(value, bytes):
        try:
            inner = decode_value(value)
        except MalformedEncoding:
            inner = None
        return {CBOR: render(inner)} if isinstance(inner, list | dict) else {HEX: value.hex()}
    if isinstance(value, list):
        return [render(item) for item in value]
    if isinstance(value, dict):
        return {key: render(item) for key, item in value.items()}
    return value


def _from_json(value: Any) -> Value:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {HEX}:
            if not isinstance(value[HEX], str):
                raise ValueError(f"{HEX} must be text")
            return bytes.fromhex(value[HEX])
        if value.keys() == {CBOR}:
            return encode_value(_from_json(value[CBOR]))
        return {key: _from_json(item) for key, item in value.items()}
    return value  # type: ignore[no-any-return]
