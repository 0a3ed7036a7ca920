"""Durations as people write them in manifests (``15s``, ``1m30s``, ``500ms``), and as code has them: milliseconds."""

from __future__ import annotations

import re

from agentworld_core.errors import InvalidField

_FRACTION = r"(?:\.[0-9]{1,3})?"
_PARTS = (("h", _FRACTION), ("m(?!s)", _FRACTION), ("s", _FRACTION), ("ms", ""))
_DURATION = re.compile("".join(f"(?:([0-9]{{1,6}}{fraction}){unit})?" for unit, fraction in _PARTS))
_SIZES = (("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


def parse_duration(text: object, *, field: str) -> int:
    """Returns the milliseconds of a duration such as ``1h``, ``1m30s`` or ``500ms``; raises InvalidField otherwise."""
    matched = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if matched is None:
        raise InvalidField(
            "is not a duration",
            field=field,
            value=text,
            remedy="use hours, minutes, seconds, milliseconds in this order, such as 1h, 1m30s, 1.5s or 500ms",
        )
    return sum(_milliseconds(part, size) for part, (_, size) in zip(matched.groups(), _SIZES, strict=True) if part)


def format_duration(milliseconds: int) -> str:
    """Returns the shortest text that ``parse_duration`` reads back as the same number: 90000 gives ``1m30s``."""
    if milliseconds <= 0:
        return "0s"
    text = ""
    for unit, size in _SIZES:
        count, milliseconds = divmod(milliseconds, size)
        if count:
            text += f"{count}{unit}"
    return text


def _milliseconds(number: str, unit: int) -> int:
    """Returns a decimal number of units in whole milliseconds, without floats."""
    whole, _, fraction = number.partition(".")
    return int(whole) * unit + int(fraction.ljust(3, "0") or 0) * unit // 1_000
