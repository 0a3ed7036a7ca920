"""One grammar for every name, checked at every boundary.

Ids of worlds, nodes, validators, keys (as resources), agents and objects are lower-case and label-like, so that they
can stand in topics, file names, Kubernetes names and state keys without escaping.
"""

from __future__ import annotations

import re

from agentworld_core.errors import InvalidField

_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HASH = re.compile(r"[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{32}")
_KIND = re.compile(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9_]*){0,3}")

# Truth about a text alone, at the cost of the match; ``is_id`` and the others also take what is no text.
id_match, hash_match, key_id_match, kind_match = _ID.fullmatch, _HASH.fullmatch, _KEY_ID.fullmatch, _KIND.fullmatch
KIND_LENGTH = 64

HASH_LENGTH = 64
KEY_ID_LENGTH = 32


def is_id(value: object) -> bool:
    """True when the value is an id: 1 to 63 of ``a-z 0-9 -``, not starting or ending with ``-``."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def check_id(value: object, *, field: str) -> str:
    """Returns the id unchanged, or raises InvalidField that names the field and the rule."""
    if not is_id(value):
        raise InvalidField(
            "is not an id",
            field=field,
            value=value,
            remedy="use 1 to 63 lower-case letters, digits or '-', starting and ending with a letter or digit",
        )
    return str(value)


def is_hash(value: object) -> bool:
    """True when the value is a content id: 64 lower-case hexadecimal digits (BLAKE3-256)."""
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def check_hash(value: object, *, field: str) -> str:
    """Returns the content id unchanged, or raises InvalidField."""
    if not is_hash(value):
        raise InvalidField(
            "is not a content id",
            field=field,
            value=value,
            remedy="use 64 lower-case hex digits",
        )
    return str(value)


def is_key_id(value: object) -> bool:
    """True when the value is a key id: 32 lower-case hexadecimal digits."""
    return isinstance(value, str) and _KEY_ID.fullmatch(value) is not None


def check_key_id(value: object, *, field: str) -> str:
    """Returns the key id unchanged, or raises InvalidField."""
    if not is_key_id(value):
        raise InvalidField(
            "is not a key id",
            field=field,
            value=value,
            remedy="use 32 lower-case hex digits",
        )
    return str(value)


def is_kind(value: object) -> bool:
    """True when the value is an action or event kind: up to four dotted words of ``a-z 0-9 _``."""
    return isinstance(value, str) and len(value) <= KIND_LENGTH and _KIND.fullmatch(value) is not None


def check_kind(value: object, *, field: str) -> str:
    """Returns the kind unchanged, or raises InvalidField."""
    if not is_kind(value):
        raise InvalidField(
            "is not a kind",
            field=field,
            value=value,
            remedy="use dotted lower-case words such as agent.move",
        )
    return str(value)
