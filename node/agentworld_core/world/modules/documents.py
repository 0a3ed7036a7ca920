"""Reads documents of people field by field: what is missing, left over or of another type is named, nothing is guessed.

Messages become part of the ledger, so they are this module's own and the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NoReturn

from agentworld_core.codec import Value, encode_value
from agentworld_core.errors import InvalidField, MalformedEncoding
from agentworld_core.ids import is_hash, is_id

_KIND_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._")
_VERSION_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-")
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")

MAX_VERSION_LENGTH = 32
MAX_PATTERN_LENGTH = 65


def read_json(text: str, field: str) -> Value:
    """Returns the document that a JSON text holds; raises InvalidField for anything that has no place in one.

    That is: fractions, exponents, keys that occur twice, numbers beyond 64 bits, and what JSON itself does not allow.
    """

    def refuse(number: str) -> NoReturn:
        raise InvalidField(f"{number[:32]} is not a whole number", field=field)

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidField("a key occurs twice", field=field)
        return found

    try:
        value: Value = json.loads(text, parse_float=refuse, parse_constant=refuse, object_pairs_hook=distinct)
        encode_value(value)
    except (ValueError, RecursionError) as error:
        raise InvalidField("is not JSON, or nested too deep", field=field) from error
    except MalformedEncoding as error:
        raise InvalidField(error.message, field=field) from error
    return value


def take_map(value: Value, field: str, *, needed: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """Returns the map when it has all needed fields and none beside the optional ones; raises InvalidField."""
    if not isinstance(value, dict):
        raise InvalidField("must be a map", field=field)
    for name in needed:
        if name not in value:
            first = min(other for other in needed if other not in value)
            raise InvalidField("is missing", field=f"{field}.{first}")
    for name in value:
        if name not in needed and name not in optional:
            raise InvalidField("is not a known field", field=f"{field}.{name[:64]}")
    return value


def take_list(value: Value, field: str, *, most: int, least: int = 0) -> list[Any]:
    """Returns the list when it has ``least`` to ``most`` items; raises InvalidField."""
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise InvalidField(f"must be a list of {least} to {most} items", field=field)
    return value


def take_text(value: Value, field: str, *, most: int, least: int = 0) -> str:
    """Returns the text when it has ``least`` to ``most`` characters; raises InvalidField."""
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise InvalidField(f"must be text of {least} to {most} characters", field=field)
    return value


def take_number(value: Value, field: str, *, most: int, least: int = 0) -> int:
    """Returns the whole number from ``least`` to ``most``; raises InvalidField."""
    if type(value) is not int or not least <= value <= most:
        raise InvalidField(f"must be a whole number from {least} to {most}", field=field)
    return value


def take_choice(value: Value, field: str, choices: Collection[str]) -> str:
    """Returns the text when it is one of the choices; raises InvalidField."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidField(f"must be one of {', '.join(sorted(choices))}", field=field)
    return value


def take_id(value: Value, field: str) -> str:
    """Returns the id; raises InvalidField."""
    if not is_id(value):
        raise InvalidField("must be an id (1 to 63 of a-z 0-9 -)", field=field)
    return str(value)


def take_hash(value: Value, field: str) -> str:
    """Returns the content id; raises InvalidField."""
    if not is_hash(value):
        raise InvalidField("must be a content id (64 lower-case hex digits)", field=field)
    return str(value)


def take_version(value: Value, field: str) -> str:
    """Returns the version; raises InvalidField unless it is 1 to 32 of letters, digits and ``. + -``."""
    version = take_text(value, field, most=MAX_VERSION_LENGTH, least=1)
    if not _VERSION_CHARACTERS.issuperset(version):
        raise InvalidField("must be letters, digits and . + -", field=field)
    return version


def take_export(value: Value, field: str) -> str:
    """Returns the name of an export; raises InvalidField unless it is 1 to 64 of letters, digits and ``_``."""
    name = take_text(value, field, most=64, least=1)
    if not _NAME_CHARACTERS.issuperset(name):
        raise InvalidField("must be letters, digits and _", field=field)
    return name


def take_pattern(value: Value, field: str) -> str:
    """Returns a pattern for kinds: ``*``, a kind, or the beginning of kinds followed by ``*``; raises InvalidField."""
    pattern = take_text(value, field, most=MAX_PATTERN_LENGTH, least=1)
    if not _KIND_CHARACTERS.issuperset(pattern.removesuffix("*")):
        raise InvalidField("must be a kind, the beginning of kinds followed by *, or *", field=field)
    return pattern


def kind_matches(pattern: str, kind: str) -> bool:
    """True when a pattern of ``take_pattern`` names the kind."""
    return kind.startswith(pattern[:-1]) if pattern.endswith("*") else kind == pattern
