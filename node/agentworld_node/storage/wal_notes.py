"""What a segment of the log holds, kept beside it, so that opening a log reads its end and not its history.

A note names each record's place and kind, and the hash of the last one. As records are chained by hash, a segment whose
last record has that hash is the one that was noted. A note follows from its segment: one that is gone, damaged or of
another life of the log is made again. It does not prove that nothing before the last record has been damaged since;
whoever reads a record checks it.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from zlib import crc32

from agentworld_node.storage.wal_format import Link

NOTE_SUFFIX = ".note"
_MAGIC = b"AWNOTE\x00\x01"
_NATIVE = 0x0102030405060708
_CRC = struct.Struct("=I")
_HEAD = struct.Struct("=8s8sQQQ32sQQ")  # magic, mark, byte order, first, covered, last hash, records, kinds
_KIND = struct.Struct("=QQ")  # kind, records of it
_NUMBER = 8


class SegmentNote:
    """The records of a segment up to ``covered`` bytes: from ``first`` on, where each begins and of which kind it is.

    One thread adds records while others ask for those that are there.
    """

    def __init__(self, *, mark: bytes, first: int, link: Link, covered: int):
        self.mark = mark
        self.first = first
        self.link = link
        self.covered = covered
        self._offsets: Sequence[int] = array("Q")
        self._kinds: dict[int, Sequence[int]] = {}

    @classmethod
    def decode(cls, data: bytes | memoryview) -> SegmentNote:
        """Returns the note that the bytes are; raises ValueError for bytes that are damaged or of another machine."""
        view = memoryview(data)
        begin = _CRC.size + _HEAD.size
        if len(view) < begin or _CRC.unpack_from(view)[0] != crc32(view[_CRC.size :]):
            raise ValueError("damaged")
        magic, mark, order, first, covered, last, records, kinds = _HEAD.unpack_from(view, _CRC.size)
        if (magic, order) != (_MAGIC, _NATIVE):
            raise ValueError("of another version or machine")
        note = cls(mark=bytes(mark), first=first, link=Link(first + records - 1, bytes(last)), covered=covered)
        note._offsets = view[begin : begin + records * _NUMBER].cast("Q")
        begin += records * _NUMBER
        for _ in range(kinds):
            kind, count = _KIND.unpack_from(view, begin)
            begin += _KIND.size
            note._kinds[kind] = view[begin : begin + count * _NUMBER].cast("Q")
            begin += count * _NUMBER
        return note

    def encode(self) -> bytes:
        """Returns the bytes to keep."""
        head = (_MAGIC, self.mark, _NATIVE, self.first, self.covered, self.link.record_hash)
        parts = [_HEAD.pack(*head, len(self._offsets), len(self._kinds)), array("Q", self._offsets).tobytes()]
        for kind, sequences in sorted(self._kinds.items()):
            parts += [_KIND.pack(kind, len(sequences)), array("Q", sequences).tobytes()]
        body = b"".join(parts)
        return _CRC.pack(crc32(body)) + body

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, records: Sequence[tuple[int, int]], *, link: Link, covered: int) -> None:
        """Takes the next records, as kind and place, the last of which is the link's."""
        if not isinstance(self._offsets, array):
            # It came from a file, and now it grows.
            self._offsets = array("Q", self._offsets)
            self._kinds = {kind: array("Q", found) for kind, found in self._kinds.items()}
        sequence = self.first + len(self._offsets)
        for kind, offset in records:
            self._offsets.append(offset)
            found = self._kinds.get(kind)
            if found is None:
                found = self._kinds[kind] = array("Q")
            found.append(sequence)  # type: ignore[attr-defined]
            sequence += 1
        self.link, self.covered = link, covered

    def span(self, sequence: int) -> tuple[int, int]:
        """Returns where a record begins and ends; raises IndexError for one that is not here."""
        at = sequence - self.first
        if not 0 <= at < len(self._offsets):
            raise IndexError(sequence)
        return self._offsets[at], self._offsets[at + 1] if at + 1 < len(self._offsets) else self.covered

    def sequences(self, kind: int) -> array[int]:
        """Returns the sequences of all records of a kind."""
        return array("Q", self._kinds.get(kind, ()))
