"""Refuses, before anything is decoded, bytes that would cost far more memory than their size says."""

from __future__ import annotations

from typing import Any

from agentworld_core.errors import MalformedEncoding

_NO_LIST_OR_MAP = bytes(byte for byte in range(256) if byte >> 5 not in (4, 5))


def check_density(data: bytes, cls: type[Any]) -> None:
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
