"""How blobs lie in a pack, and how what a crash or a bad sector has left of one is read.

A pack is a header and records. Every record has a header with a CRC of its own, which holds the content id, and the
bytes of the blob behind it, which that content id proves. A record without bytes says that a blob is gone. Each header
begins with the pack's own random mark: with it the reader finds the records behind a bad one, so damage costs the blob
that it hits and no other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

MARK_BYTES = 8
HASH_BYTES = 32
BLOB, GONE = 1, 2

_MAGIC = b"AWPACK\x00\x01"
_CRC = struct.Struct("<I")
_PACK = struct.Struct("<8s8s")  # magic, mark
_RECORD = struct.Struct("<8sBIQ32s")  # mark, kind, size of the blob, stamp, content id
_WHOLE_RECORD = struct.Struct("<I" + _RECORD.format.removeprefix("<"))
PACK_HEADER_BYTES = _CRC.size + _PACK.size
RECORD_HEADER_BYTES = _WHOLE_RECORD.size
_WINDOW_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class PackRecord:
    """A record: where its header begins, and what that says.

    ``stamp`` is when a blob was stored, in nanoseconds; of one that is GONE it is the number of the pack that holds it.
    """

    offset: int
    kind: int
    size: int
    stamp: int
    key: bytes

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + RECORD_HEADER_BYTES + (self.size if self.kind == BLOB else 0)


def encode_pack_header(mark: bytes) -> bytes:
    """Returns the first bytes of a pack."""
    body = _PACK.pack(_MAGIC, mark)
    return _CRC.pack(crc32(body)) + body


def encode_record_header(mark: bytes, kind: int, key: bytes, *, size: int, stamp: int) -> bytes:
    """Returns the header of a record; the bytes of a blob follow it."""
    body = _RECORD.pack(mark, kind, size, stamp, key)
    return _CRC.pack(crc32(body)) + body


def mark_of(head: bytes) -> bytes | None:
    """Returns the mark of a pack from its first bytes: its header, or where that is damaged its first record."""
    header = head[:PACK_HEADER_BYTES]
    if len(header) == PACK_HEADER_BYTES:
        magic, mark = _PACK.unpack_from(header, _CRC.size)
        if magic == _MAGIC and encode_pack_header(mark) == header:
            return bytes(mark)
    record = head[PACK_HEADER_BYTES : PACK_HEADER_BYTES + RECORD_HEADER_BYTES]
    if len(record) == RECORD_HEADER_BYTES and _CRC.unpack_from(record)[0] == crc32(record[_CRC.size :]):
        return record[_CRC.size : _CRC.size + MARK_BYTES]
    return None


class PackScan:
    """Reads the headers of a pack from one place to another, and passes over what is damaged between them.

    After ``records()`` is exhausted, ``end`` is where the last whole record ends; what lies behind it was never
    finished. ``damaged_bytes`` counts what was passed over.
    """

    def __init__(self, read_at: Callable[[int, int], bytes], *, mark: bytes, begin: int, size: int):
        self._read_at = read_at
        self._mark = mark
        self._size = size
        self._window = b""
        self._window_at = 0
        self.end = begin
        self.damaged_bytes = 0

    def records(self) -> Iterator[PackRecord]:
        """Yields every whole record."""
        while self.end < self._size:
            record = self._record_at(self.end) or self._next_behind(self.end)
            if record is None:
                return
            self.damaged_bytes += record.offset - self.end
            self.end = record.end
            yield record

    def _record_at(self, offset: int) -> PackRecord | None:
        header = self._bytes(offset, RECORD_HEADER_BYTES)
        if len(header) < RECORD_HEADER_BYTES:
            return None
        crc, mark, kind, size, stamp, key = _WHOLE_RECORD.unpack(header)
        if mark != self._mark or kind not in (BLOB, GONE) or crc32(header[_CRC.size :]) != crc:
            return None
        record = PackRecord(offset, kind, size, stamp, key)
        return record if record.end <= self._size else None

    def _next_behind(self, offset: int) -> PackRecord | None:
        """Returns the first whole record behind a bad one, found by the mark because no length can be trusted."""
        position = offset + _CRC.size + 1
        while position + MARK_BYTES <= self._size:
            window = self._read_at(position, _WINDOW_BYTES)
            found = window.find(self._mark)
            if found < 0:
                position += max(1, len(window) - MARK_BYTES + 1)
                continue
            record = self._record_at(position + found - _CRC.size)
            if record is not None:
                return record
            position += found + 1
        return None

    def _bytes(self, offset: int, length: int) -> bytes:
        begin = offset - self._window_at
        if begin < 0 or begin + length > len(self._window):
            self._window = self._read_at(offset, _WINDOW_BYTES)
            self._window_at, begin = offset, 0
        return self._window[begin : begin + length]
