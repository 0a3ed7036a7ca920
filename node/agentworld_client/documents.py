"""The JSON form of messages and state values, the same in the HTTP API and on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def document(value: Any) -> Any:
    """Returns the JSON form of a message: an object of its fields; bytes become hex, lists stay lists."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [document(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: document(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: document(item) for key, item in value.items()}
    return value
