"""One pack: its records, found through an index or by reading them, and how more of them get into it."""

from __future__ import annotations

import errno
import heapq
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

from agentworld_node.storage.files import File, FileSystem, ReadableFile, put_again
from agentworld_node.storage.pack_format import (
    BLOB,
    GONE,
    MARK_BYTES,
    PACK_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    PackScan,
    encode_pack_header,
    encode_record_header,
    mark_of,
)
from agentworld_node.storage.pack_index import PackIndex, Place, encode_index
from agentworld_node.storage.unsynced import Lost

log = logging.getLogger(__name__)

PACK_SUFFIX, INDEX_SUFFIX, TEMPORARY_SUFFIX = ".pack", ".index", ".new"
HEADER = RECORD_HEADER_BYTES


class Pack:
    """A pack as far as it has been read: ``size`` is where its last whole record ends, ``synced`` what is durable.

    Readers need no lock: what was published once stays right, whatever is appended. Raises OSError.
    """

    def __init__(self, path: Path, number: int, *, files: FileSystem):
        self.path = path
        self.number = number
        self.mark = b""
        self.size = PACK_HEADER_BYTES
        self.synced = 0
        self.damaged_bytes = 0
        self.dead: dict[int, int] = {}
        self.file: File | None = None  # of the one who appends
        self.name_is_durable = False
        self.failure: int | None = None  # why a sync has failed: the number of the system's error
        self._files = files
        self._reader: ReadableFile | None = None
        self._index: PackIndex | None = None
        self._recent: dict[bytes, Place] = {}
        self._unconfirmed = 0  # up to where an earlier process has written what this one cannot tell to be durable

    @classmethod
    def create(cls, path: Path, number: int, *, files: FileSystem) -> Pack:
        """Begins an empty pack; its name is not durable yet."""
        pack = cls(path, number, files=files)
        pack.mark = secrets.token_bytes(MARK_BYTES)
        pack.file = files.create(path)
        try:
            pack.file.write_at(0, encode_pack_header(pack.mark))
        except OSError:
            pack.file.close()
            files.remove(path)
            raise
        pack.read_at(0, 0)  # opened now, so that those who found a blob in it can read it when its name is gone
        return pack

    @property
    def index_path(self) -> Path:
        """The index beside it."""
        return self.path.with_suffix(INDEX_SUFFIX)

    @property
    def covered(self) -> int:
        """Up to where its index tells what it holds; all of that was durable when the index was written."""
        return 0 if self._index is None else self._index.covered

    def load(self) -> bool:
        """Reads the index, and the records behind what that covers; False when it holds nothing that can be read."""
        size = self._files.size(self.path) or 0
        self.mark = mark_of(self.read_at(0, PACK_HEADER_BYTES + HEADER)) or b""
        self._index = self._load_index(size)
        if self._index is not None:
            self.mark = self._index.mark
            self.size = max(PACK_HEADER_BYTES, self._index.covered)
            self.dead = dict(self._index.dead)
        if not self.mark:
            return False
        self.advance()
        return True

    def _load_index(self, size: int) -> PackIndex | None:
        if self._files.size(self.index_path) is None:
            return None
        try:
            index = PackIndex(self._files.map(self.index_path))
        except ValueError as error:
            log.warning("the index %s is built again: it is %s", self.index_path, error)
            return None
        return index if self.mark in (b"", index.mark) and index.covered <= size else None

    def advance(self) -> int:
        """Reads the records that were appended since it was last read; returns how many."""
        size = self._files.size(self.path) or 0
        scan = PackScan(self.read_at, mark=self.mark, begin=self.size, size=size)
        count = 0
        for record in scan.records():
            count += 1
            if record.kind == BLOB:
                self._recent[record.key] = Place(record.offset + HEADER, record.size, record.stamp)
            else:
                self._note_gone(record.key, record.offset, number=record.stamp, size=record.size)
        self.size = scan.end
        self.damaged_bytes += scan.damaged_bytes
        return count

    def find(self, key: bytes) -> Place | None:
        """Returns where a blob lies, or that it is gone; None when this pack says nothing of it."""
        found = self._recent.get(key)
        if found is None and self._index is not None:
            found = self._index.find(key)
        return found

    def items(self) -> Iterator[tuple[bytes, Place]]:
        """Yields what it says of blobs by content id, the last word on each."""
        recent = dict(self._recent)
        index = self._index
        old = () if index is None else ((key, place) for key, place in index.items() if key not in recent)
        return heapq.merge(old, sorted(recent.items()))

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns the bytes there, fewer at the end; raises FileNotFoundError when the pack has been rewritten."""
        reader = self._reader
        if reader is None:
            # Whoever loses a race closes the file when nobody uses it any more.
            reader = self._reader = self._files.open_to_read(self.path)
        return reader.read_at(offset, length)

    def read_record(self, key: bytes, place: Place) -> bytes | None:
        """Returns the bytes of a blob, right or wrong, None when the header before them is not what was written."""
        record = self.read_at(place.offset - HEADER, HEADER + place.size)
        header = encode_record_header(self.mark, BLOB, key, size=place.size, stamp=place.stamp)
        return record[HEADER:] if record.startswith(header) else None

    def append_blob(self, key: bytes, data: bytes, *, stamp: int) -> None:
        """Writes a blob behind the last record."""
        header = encode_record_header(self.mark, BLOB, key, size=len(data), stamp=stamp)
        self._append(header + data)
        self._recent[key] = Place(self.size + HEADER, len(data), stamp)
        self.size += HEADER + len(data)

    def append_gone(self, key: bytes, *, number: int, size: int) -> None:
        """Writes that a blob of this size, which the pack of this number holds, is gone."""
        self._append(encode_record_header(self.mark, GONE, key, size=size, stamp=number))
        self._note_gone(key, self.size, number=number, size=size)
        self.size += HEADER

    def _note_gone(self, key: bytes, offset: int, *, number: int, size: int) -> None:
        self._recent[key] = Place(offset, -1, number)
        for pack, useless in ((number, HEADER + size), (self.number, HEADER)):
            self.dead[pack] = self.dead.get(pack, 0) + useless

    def note_useless(self, size: int) -> None:
        """Notes that a blob of this size in it is of no use any more, though no record says so."""
        self.dead[self.number] = self.dead.get(self.number, 0) + HEADER + size

    def _append(self, data: bytes) -> None:
        assert self.file is not None
        try:
            self.file.write_at(self.size, data)
        except OSError:
            self.file.truncate(self.size)
            raise

    def sync(self, folder: Path) -> None:
        """Makes durable what it holds when this is called; not again after it has failed."""
        if self.failure is not None or self.file is None:
            raise OSError(self.failure or errno.EIO, "what was written last may be lost", str(self.path))
        size = self.size
        try:
            self._write_through(folder)
        except OSError as error:
            self.failure = error.errno or errno.EIO
            raise
        self.synced = max(self.synced, size)

    def _write_through(self, folder: Path) -> None:
        assert self.file is not None
        if self.synced < self._unconfirmed:
            # A process that has ended may have left this in the page cache, marked clean by a sync that had failed; a
            # sync alone would then wrongly succeed.
            self.file.write_at(self.synced, self.read_at(self.synced, self._unconfirmed - self.synced))
        self.file.sync()
        if not self.name_is_durable:
            self._files.sync_folder(folder)
            self.name_is_durable = True

    def resume(self) -> None:
        """Opens it for appending, and cuts what was never finished."""
        self.file = self._files.open(self.path)
        self.synced = self.covered
        self._unconfirmed = self.size
        torn = (self._files.size(self.path) or 0) - self.size
        if torn > 0:
            log.warning("pack %s: cut %d bytes that were never finished", self.path, torn)
            self.file.truncate(self.size)

    def forget_unsynced(self) -> list[Lost]:
        """Cuts off what is not known to be durable, after a sync has failed; returns the blobs that went."""
        lost = {key: place for key, place in self._recent.items() if place.offset >= self.synced}
        blobs = [
            Lost(key.hex(), place.size, self._what_was(key, place)) for key, place in lost.items() if not place.is_gone
        ]
        self._recent = {key: place for key, place in self._recent.items() if key not in lost}
        self.size = max(PACK_HEADER_BYTES, self.synced)
        if self.file is not None:
            self.file.truncate(self.size)
            self.close()
        return blobs

    def _what_was(self, key: bytes, place: Place) -> bytes | None:
        try:
            return self.read_record(key, place)
        except OSError:
            return None  # its sectors cannot be read, either

    def write_index(self) -> None:
        """Writes the index of all that it holds, which must be durable; without room there will be none."""
        if not self._recent and self._index is not None and self._index.covered == self.size:
            return
        data = encode_index(mark=self.mark, covered=self.size, places=dict(self.items()), dead=self.dead)
        temporary = self.index_path.with_suffix(TEMPORARY_SUFFIX)
        try:
            put_again(self._files, self.index_path, data, temporary=temporary)
        except OSError as error:
            log.warning("the index %s is not written: %s", self.index_path, error)
            return
        # In this order, for those who read meanwhile.
        self._index = PackIndex(data)
        self._recent = {}

    def close(self) -> None:
        """Closes the file of the one who appends; readers go on."""
        if self.file is not None:
            self.file.close()
            self.file = None
