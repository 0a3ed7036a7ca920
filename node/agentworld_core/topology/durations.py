"""Durations as people write them in manifests (``15s``, ``1m30s``, ``500ms``), and as code has them: milliseconds."""

from __future__ import annotations

import re

from agentworld_core.errors import InvalidField

_DURATION = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m(?!s))?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?")
_UNITS = (("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


def parse_duration(text: object, *, field: str) -> int:
    """Returns the milliseconds of a duration such as ``1h``, ``1m30s`` or ``500ms``; raises InvalidField otherwise."""
    matched = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if matched is None:
        raise InvalidField(
            "is not a duration",
            field=field,
            value=text,
            remedy="use whole hours, minutes, seconds, milliseconds: 1h, 1m30s, 500ms",
        )
    return sum(int(part) * size for part, (_, size) in zip(matched.groups(), _UNITS, strict=True) if part)


def format_duration(milliseconds: int) -> str:
    """Returns the shortest text that ``parse_duration`` reads back as the same number: 90000 gives ``1m30s``."""
    if milliseconds <= 0:
        return "0s"
    text = ""
    for unit, size in _UNITS:
        count, milliseconds = divmod(milliseconds, size)
        if count:
            text += f"{count}{unit}"
    return text
