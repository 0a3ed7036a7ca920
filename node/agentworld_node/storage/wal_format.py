"""How records lie in the files of the log, and how a write that was cut short is told from damage.

A segment is a header and records. Every record carries a CRC, its sequence, the hash of the record before it, and
``synced``: the last sequence that was durable when this record was written. The log writes only after its previous
write was synced, so ``synced`` is proof: a bad record that a later record calls durable was damaged after the fact,
which is corruption. A bad record that no later record calls durable belongs to a write that may never have been synced;
the disk may keep any part of such a write, also a later part without an earlier one, so it is a torn tail and is cut.

Each record begins with the log's own random mark. It lets the reader find the records behind a bad one, and payloads
written by others cannot imitate it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from agentworld_core.hashing import digest
from agentworld_node.storage.errors import CorruptLog

MARK_BYTES = 8
MAX_KIND = 2**32 - 1

_MAGIC = b"AWWAL\x00\x00\x01"
_CRC = struct.Struct("<I")
_SEGMENT = struct.Struct("<8s8sQ32s")  # magic, mark, last sequence before the segment, hash of that record
_RECORD = struct.Struct("<8sIQQI32s")  # mark, payload length, sequence, synced, kind, hash of the record before
_CRC_AND_RECORD = struct.Struct("<I" + _RECORD.format.removeprefix("<"))
_CRC_BYTES = _CRC.size
SEGMENT_HEADER_BYTES = _SEGMENT.size + _CRC.size
RECORD_HEADER_BYTES = _RECORD.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the log."""

    sequence: int
    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain: the last record there and its hash."""

    sequence: int
    record_hash: bytes


FIRST_LINK = Link(0, bytes(32))


@dataclass(frozen=True, slots=True)
class TornTail:
    """The end of the log that was cut on opening, because the write that made it had never been completed.

    ``sequence`` is the first record that is gone; ``later_records`` counts whole records of the same write behind it.
    """

    file: str
    offset: int
    sequence: int
    cut_bytes: int
    later_records: int


def _with_crc(body: bytes) -> bytes:
    return _CRC.pack(crc32(body)) + body


def encode_segment_header(mark: bytes, link: Link) -> bytes:
    """Returns the header of a segment that continues the log after the link."""
    return _with_crc(_SEGMENT.pack(_MAGIC, mark, link.sequence, link.record_hash))


def encode_record(kind: int, payload: bytes, *, mark: bytes, link: Link, synced: int) -> tuple[bytes, Link]:
    """Returns the bytes of the record that follows the link, and the link it makes."""
    sequence = link.sequence + 1
    head = _RECORD.pack(mark, len(payload), sequence, synced, kind, link.record_hash)
    encoded = _with_crc(head + payload)
    return encoded, Link(sequence, digest(encoded))


_Whole = tuple[int, int, int, bytes, int]
"""A record whose CRC is right, wherever it was found: sequence, kind, synced, hash of the record before, end."""


@dataclass(frozen=True, slots=True)
class KnownEnd:
    """A place in a segment up to which everything is durable: the log's mark, the record that ends there, and where."""

    mark: bytes
    link: Link
    offset: int


class SegmentScan:
    """Reads the records of one segment in order and says what the bytes behind the last good one are.

    After ``records()`` is exhausted, ``offset`` is the end of the good records, ``link`` the last of them, and
    ``unconfirmed_offset`` the begin of the last write, which nothing behind it proves to have been synced.
    Raises CorruptLog for a bad header and for whole records that do not continue the chain.
    """

    def __init__(self, data: bytes, *, file: str, behind: KnownEnd | None = None):
        """Takes a whole segment, or what follows a record that is durable."""
        self._data = data
        self._view = memoryview(data)
        self._file = file
        if behind is None:
            self._base, self._at = 0, SEGMENT_HEADER_BYTES
            self.mark, self.link = self._read_header()
        else:
            self._base, self._at = behind.offset, 0
            self.mark, self.link = behind.mark, behind.link
        self.found: list[tuple[int, int]] = []  # kind and offset of each record, after check()
        self.synced = self.link.sequence  # a segment is begun only when everything before it is durable
        self.unconfirmed_offset = self.offset

    @property
    def offset(self) -> int:
        """The end of the good records in the file."""
        return self._base + self._at

    def unconfirmed(self) -> bytes:
        """Returns the last write, which nothing behind it proves to have been synced."""
        return self._data[self.unconfirmed_offset - self._base : self._at]

    def _read_header(self) -> tuple[bytes, Link]:
        header = self._data[:SEGMENT_HEADER_BYTES]
        if len(header) < SEGMENT_HEADER_BYTES or _with_crc(header[_CRC.size :]) != header:
            # A segment gets its name only after its header is durable, so no crash leaves this behind.
            raise self._corrupt("the segment header is damaged", offset=0, sequence=0)
        magic, mark, sequence, record_hash = _SEGMENT.unpack_from(header, _CRC.size)
        if magic != _MAGIC:
            raise self._corrupt("not a segment of a format this version knows", offset=0, sequence=0)
        return mark, Link(sequence, record_hash)

    def _corrupt(self, reason: str, *, offset: int, sequence: int) -> CorruptLog:
        return CorruptLog(reason, file=self._file, offset=self._base + offset, sequence=sequence)

    def records(self) -> Iterator[Record]:
        """Yields the good records up to the end or to the first bad one."""
        for sequence, kind, begin, end in self._advance():
            yield Record(sequence, kind, self._data[begin:end])

    def check(self) -> None:
        """Goes through the good records without handing them out, and notes them in ``found``."""
        base, header = self._base, RECORD_HEADER_BYTES
        self.found = [(kind, base + begin - header) for _, kind, begin, _ in self._advance()]

    def _advance(self) -> Iterator[tuple[int, int, int, int]]:
        """Moves behind the next good record and yields its sequence, its kind, and where its payload begins and ends.

        Every record of the history is read here when a node starts, so nothing is made that is not needed.
        """
        last, last_hash, offset = self.link.sequence, self.link.record_hash, self._at
        data, header = self._data, RECORD_HEADER_BYTES
        try:
            while (whole := self._whole_at(offset)) is not None:
                sequence, kind, synced, previous, end = whole
                if sequence != last + 1:
                    reason = f"it carries sequence {sequence}"
                    raise self._corrupt(reason, offset=offset, sequence=last + 1)
                if previous != last_hash:
                    raise self._corrupt("it does not follow the record before it", offset=offset, sequence=sequence)
                if synced > self.synced:
                    self.synced = synced
                    self.unconfirmed_offset = self._base + offset
                begin, offset = offset, end
                last, last_hash = sequence, digest(data[begin:end])
                yield sequence, kind, begin + header, end
        finally:
            self._at, self.link = offset, Link(last, last_hash)

    def torn_tail(self, *, last_segment: bool) -> TornTail | None:
        """Returns what to cut behind the good records, None when nothing is there; raises CorruptLog for damage."""
        rest = len(self._data) - self._at
        if rest == 0:
            return None
        sequence = self.link.sequence + 1
        if not last_segment:
            reason = "it is damaged, and a later segment exists"
            raise self._corrupt(reason, offset=self._at, sequence=sequence)
        later_records = 0
        for later in self._whole_behind(self._at):
            later_sequence, _, synced, _, _ = later
            if synced >= sequence:
                reason = f"it is damaged, and record {later_sequence} shows that it had been durable"
                raise self._corrupt(reason, offset=self._at, sequence=sequence)
            later_records += 1
        return TornTail(self._file, self.offset, sequence, rest, later_records)

    def _whole_behind(self, offset: int) -> Iterator[_Whole]:
        """Yields the whole records behind a bad one, found by the mark because its length cannot be trusted."""
        position = self._data.find(self.mark, offset + _CRC.size + 1)
        while position >= 0:
            whole = self._whole_at(position - _CRC.size)
            if whole is not None:
                yield whole
            position = self._data.find(self.mark, position + 1 if whole is None else whole[-1])

    def _whole_at(self, offset: int) -> _Whole | None:
        data = self._data
        begin = offset + RECORD_HEADER_BYTES
        if begin > len(data):
            return None
        crc, mark, length, sequence, synced, kind, previous = _CRC_AND_RECORD.unpack_from(data, offset)
        end = begin + length
        if mark != self.mark or end > len(data) or crc32(self._view[offset + _CRC_BYTES : end]) != crc:
            return None
        return sequence, kind, synced, previous, end


def decode_record(data: bytes, *, mark: bytes, sequence: int, file: str, offset: int) -> Record:
    """Returns the record that lies at the offset of a file; raises CorruptLog when its bytes are not this record."""
    if len(data) >= RECORD_HEADER_BYTES:
        crc, found, length, number, _, kind, _ = _CRC_AND_RECORD.unpack_from(data)
        whole = len(data) == RECORD_HEADER_BYTES + length and crc32(memoryview(data)[_CRC_BYTES:]) == crc
        if whole and (found, number) == (mark, sequence):
            return Record(sequence, kind, data[RECORD_HEADER_BYTES:])
    raise CorruptLog("it is damaged, and had been durable", file=file, offset=offset, sequence=sequence)
