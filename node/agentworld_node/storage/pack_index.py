"""Where the blobs of a pack lie, in a file beside it that follows from the pack and can be lost at any time.

It is sorted by content id and searched where it lies, so opening a store costs next to nothing however much it holds.
It covers the pack from its begin up to a place; what was written behind that is read from the pack.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from zlib import crc32

from agentworld_node.storage.pack_format import HASH_BYTES

_MAGIC = b"AWPIDX\x00\x01"
_NATIVE = 0x0102030405060708
_HEAD = struct.Struct("=8s8sQQQQ")  # magic, mark, byte order, bytes covered, entries, packs with dead blobs
_CRC = struct.Struct("=I")
_PREFIX_BYTES = 8
_REST_BYTES = HASH_BYTES - _PREFIX_BYTES
_GONE = 2**32 - 1


class Place(NamedTuple):
    """Where the bytes of a blob lie in a pack, and when they were stored; a blob that is gone has the size -1."""

    offset: int
    size: int
    stamp: int

    @property
    def is_gone(self) -> bool:
        """True when the pack says that the blob, which an older one holds, is gone."""
        return self.size < 0


class PackIndex:
    """The places of a pack's blobs; ``dead`` says how many bytes of which packs its records have made useless."""

    def __init__(self, data: bytes | memoryview):
        """Takes the bytes of an index; raises ValueError for any that are damaged, or of another machine."""
        view = memoryview(data)
        begin = _CRC.size + _HEAD.size
        if len(view) < begin or _CRC.unpack_from(view)[0] != crc32(view[_CRC.size :]):
            raise ValueError("damaged")
        magic, mark, order, self.covered, count, packs = _HEAD.unpack_from(view, _CRC.size)
        if (magic, order) != (_MAGIC, _NATIVE):
            raise ValueError("of another version or machine")
        self.mark = bytes(mark)

        def column(width: int) -> memoryview:
            nonlocal begin
            end = begin + count * width
            part, begin = view[begin:end], end
            return part

        self._prefixes, self._offsets, self._stamps = (column(8).cast("Q") for _ in range(3))
        self._sizes = column(4).cast("I")
        self._rests = column(_REST_BYTES)
        pairs = view[begin : begin + 16 * packs].cast("Q")
        self.dead: dict[int, int] = {pairs[at]: pairs[at + 1] for at in range(0, 2 * packs, 2)}

    def __len__(self) -> int:
        return len(self._prefixes)

    def find(self, key: bytes) -> Place | None:
        """Returns the place of a content id, None when the pack says nothing of it."""
        prefix = int.from_bytes(key[:_PREFIX_BYTES], "big")
        at = bisect_left(self._prefixes, prefix)
        while at < len(self._prefixes) and self._prefixes[at] == prefix:
            if self._rests[at * _REST_BYTES : (at + 1) * _REST_BYTES] == key[_PREFIX_BYTES:]:
                return self._place(at)
            at += 1
        return None

    def items(self) -> Iterator[tuple[bytes, Place]]:
        """Yields content ids and places in order."""
        for at, prefix in enumerate(self._prefixes):
            rest = bytes(self._rests[at * _REST_BYTES : (at + 1) * _REST_BYTES])
            yield prefix.to_bytes(_PREFIX_BYTES, "big") + rest, self._place(at)

    def _place(self, at: int) -> Place:
        size = self._sizes[at]
        return Place(self._offsets[at], -1 if size == _GONE else size, self._stamps[at])


def encode_index(*, mark: bytes, covered: int, places: Mapping[bytes, Place], dead: Mapping[int, int]) -> bytes:
    """Returns the bytes of the index of a pack whose first ``covered`` bytes hold these blobs."""
    keys = sorted(places)
    found = [places[key] for key in keys]
    parts = [
        _HEAD.pack(_MAGIC, mark, _NATIVE, covered, len(keys), len(dead)),
        array("Q", (int.from_bytes(key[:_PREFIX_BYTES], "big") for key in keys)).tobytes(),
        array("Q", (place.offset for place in found)).tobytes(),
        array("Q", (place.stamp for place in found)).tobytes(),
        array("I", (_GONE if place.is_gone else place.size for place in found)).tobytes(),
        b"".join(key[_PREFIX_BYTES:] for key in keys),
        array("Q", (number for pair in sorted(dead.items()) for number in pair)).tobytes(),
    ]
    body = b"".join(parts)
    return _CRC.pack(crc32(body)) + body
