"""Blobs on a disk: small ones in packs, large ones as files of their own.

Blobs never change, so readers need no locks. One process at a time appends to the packs; another one that stores blobs
meanwhile makes files of all of them, which is also how older versions stored them. A blob that was not made durable
may be missing or damaged after a crash; it is then quarantined when it is read, and healed when it is stored again.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from agentworld_core.errors import TooLarge
from agentworld_core.hashing import content_id
from agentworld_node.storage.blob_store import (
    DEFAULT_BLOB_BYTES,
    BlobCounters,
    BlobEntry,
    Counting,
    Room,
    check_size,
    checked_hash,
)
from agentworld_node.storage.errors import (
    BlobCorrupt,
    BlobHashMismatch,
    BlobNotFound,
    FolderLocked,
    StorageFull,
    typed_errors,
)
from agentworld_node.storage.files import LOCAL_FILES, FileSystem, make_folders
from agentworld_node.storage.loose import LooseBlobs, Unreadable
from agentworld_node.storage.pack_file import Pack
from agentworld_node.storage.pack_index import Place
from agentworld_node.storage.pack_rewrite import DEAD_PART, Rewritten, rewrite
from agentworld_node.storage.packs import PACK_BYTES, PackFolder
from agentworld_node.storage.quarantine import Quarantine
from agentworld_node.storage.unsynced import Unsynced

PACKED_BYTES = 64 * 2**10
"""Blobs up to this size go into packs."""
PACKS = "packs"


class FileBlobStore:
    """A BlobStore below one folder; safe for many threads, and for many processes that read while one writes."""

    def __init__(self, root: Path, *, blob_bytes: int, packed_bytes: int, pack_bytes: int, files: FileSystem):
        self._root = root
        self._limit = blob_bytes
        self._packed_bytes = packed_bytes
        self._files = files
        self._is_writable = False
        self._quarantine = Quarantine(root / "quarantine", files=files)
        self._counting = Counting()
        self._room = Room()
        self._unsynced = Unsynced(self._room)
        self._loose = LooseBlobs(
            root, blob_bytes=blob_bytes, files=files, quarantine=self._quarantine, on_lost=self._unsynced.note
        )  # fmt: skip
        self._packs = PackFolder(root / PACKS, files=files, pack_bytes=pack_bytes, on_lost=self._unsynced.note)
        self._shards: set[str] | None = None  # of loose blobs, once nobody else can add any

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        blob_bytes: int = DEFAULT_BLOB_BYTES,
        packed_bytes: int = PACKED_BYTES,
        pack_bytes: int = PACK_BYTES,
        files: FileSystem = LOCAL_FILES,
    ) -> Self:
        """Opens or creates the store in the folder and removes what interrupted writes have left behind.

        Blobs of up to ``packed_bytes`` go into packs of ``pack_bytes`` or a little more.
        """
        store = cls(root, blob_bytes=blob_bytes, packed_bytes=packed_bytes, pack_bytes=pack_bytes, files=files)
        store._is_writable = True
        with typed_errors("opening the blob store", root):
            for folder in (root, store._loose.temporary, store._quarantine.folder):
                make_folders(files, folder)
            for name in files.names(store._loose.temporary):
                store._loose.remove_file(store._loose.temporary / name)
        return store

    @classmethod
    def reading(cls, root: Path, *, blob_bytes: int = DEFAULT_BLOB_BYTES, files: FileSystem = LOCAL_FILES) -> Self:
        """Returns the store of a folder that belongs to somebody else and is only read; it may not even exist."""
        return cls(root, blob_bytes=blob_bytes, packed_bytes=0, pack_bytes=PACK_BYTES, files=files)

    def own(self) -> None:
        """Becomes the process that appends to the packs, as the first small blob does; raises FolderLocked."""
        if not self._packs.is_owner:
            with typed_errors("opening the packs", self._packs.folder):
                self._packs.own()
                self._shards = self._loose.shards()

    def close(self) -> None:
        """Makes the newest pack durable, and lets another process append; the store can be used on."""
        self._shards = None
        with typed_errors("closing the packs", self._packs.folder):
            self._packs.close()

    @property
    def counters(self) -> BlobCounters:
        return self._counting.values

    def put(self, data: bytes, *, durable: bool = False) -> str:
        return self.put_many([data], durable=durable)[0]

    def put_verified(self, blob_hash: str, data: bytes, *, durable: bool = False) -> None:
        checked_hash(blob_hash)
        check_size(data, self._limit)
        actual = content_id(data)
        if actual != blob_hash:
            raise BlobHashMismatch(expected=blob_hash, actual=actual)
        self._store(blob_hash, data)
        if durable:
            self.sync([blob_hash])

    def put_many(self, items: Iterable[bytes], *, durable: bool = False) -> list[str]:
        return self._put_all(items, durable=durable, owed=False)

    def put_owed(self, items: Iterable[bytes], *, durable: bool = False) -> list[str]:
        """Does what ``put_many`` does for what is committed already: the limit of ``limit_total`` does not count.

        How far it is passed follows from what was committed before ``is_full`` was looked at.
        """
        return self._put_all(items, durable=durable, owed=True)

    def _put_all(self, items: Iterable[bytes], *, durable: bool, owed: bool) -> list[str]:
        hashes = []
        for data in items:
            check_size(data, self._limit)
            blob_hash = content_id(data)
            self._store(blob_hash, data, owed=owed)
            hashes.append(blob_hash)
        if durable:
            self.sync(hashes)
        return hashes

    def get(self, blob_hash: str) -> bytes:
        checked_hash(blob_hash)
        data, is_there = self._look(blob_hash, unnoticed=False)
        if data is not None:
            return data
        if not is_there:
            raise BlobNotFound(blob_hash)
        return self._set_aside(blob_hash)

    def peek(self, blob_hash: str) -> bytes | None:
        checked_hash(blob_hash)
        try:
            data, is_there = self._look(blob_hash, unnoticed=True)
        except TooLarge:
            return None
        if not is_there:
            raise BlobNotFound(blob_hash)
        return data

    def _look(self, blob_hash: str, *, unnoticed: bool) -> tuple[bytes | None, bool]:
        """Returns the blob if it is whole, and whether there is anything under its id."""
        is_there = False
        for _ in range(2):
            data, is_packed = self._in_packs(blob_hash, whole=unnoticed)
            if data is not None:
                return data, True
            is_there = is_there or is_packed
            try:
                data = self._loose.read(blob_hash, unnoticed=unnoticed)
            except Unreadable:
                return None, True
            if data is not None:
                return (data if content_id(data) == blob_hash else None), True
            if not is_packed or self._packs.is_owner:
                break
            # The process that appends may have cut or moved what this one took for a blob.
            with typed_errors("reading the packs", self._packs.folder):
                if not self._packs.reload():
                    break
        return None, is_there

    def _in_packs(self, blob_hash: str, *, whole: bool) -> tuple[bytes | None, bool]:
        """Returns the blob if the packs hold it whole, and whether they hold anything under its id."""
        key = bytes.fromhex(blob_hash)
        try:
            found = self._packs.find_anew(key)
            if found is None:
                return None, False
            data = self._packs.read(found, key=key if whole else None)
        except FileNotFoundError:
            return None, True  # the pack was rewritten between the two
        except OSError:
            with typed_errors("reading a blob", self._packs.folder):
                raise
        return (data if data is not None and content_id(data) == blob_hash else None), True

    def has(self, blob_hash: str) -> bool:
        checked_hash(blob_hash)
        with typed_errors("looking for a blob", self._packs.folder):
            if self._packs.find_anew(bytes.fromhex(blob_hash)) is not None:
                return True
        return self._loose.size(blob_hash) is not None

    def delete(self, blob_hash: str) -> bool:
        checked_hash(blob_hash)
        self._unsynced.forget([blob_hash])
        with typed_errors("deleting a blob", self._packs.folder):
            packed = self._packs.delete(bytes.fromhex(blob_hash))
        loose = self._loose.remove(blob_hash)
        self._room.give((packed or 0) + (loose or 0))
        return packed is not None or loose is not None

    def iterate(self) -> Iterator[str]:
        yield from (entry.blob_hash for entry in self.entries())

    def entries(self) -> Iterator[BlobEntry]:
        with typed_errors("listing the packs", self._packs.folder):
            packed = self._packs.entries()
            both = heapq.merge(packed, self._loose.entries(), key=lambda entry: entry.blob_hash)
            # One that is in both counts once.
            yield from (next(same) for _, same in itertools.groupby(both, key=lambda entry: entry.blob_hash))

    def sync(self, blob_hashes: Iterable[str]) -> None:
        loose, packed = [], []
        wanted = tuple(dict.fromkeys(blob_hashes))
        for blob_hash in wanted:
            checked_hash(blob_hash)
            again = self._unsynced.get(blob_hash)
            if again is not None:
                self._store(blob_hash, again, owed=True)
            with typed_errors("looking for a blob", self._packs.folder):
                key = bytes.fromhex(blob_hash)
                found = self._packs.find_anew(key)
            if found is None:
                loose.append(blob_hash)
            else:
                packed.append(key)
        self._loose.sync(loose)
        if packed:
            self.own()
            with typed_errors("syncing a blob", self._packs.folder):
                self._packs.sync(map(self._packed, packed))
        self._unsynced.forget(wanted)

    def _packed(self, key: bytes) -> tuple[Pack, Place]:
        found = self._packs.find(key)
        if found is None:
            raise BlobNotFound(key.hex())
        return found

    def limit_total(self, max_bytes: int) -> None:
        """Refuses from now on, with StorageFull, what would make all blobs together larger than this; 0 is no limit.

        Blobs that are damaged and were set aside do not count, nor does what packs take besides. Looks at every blob
        once.
        """
        self._room.limit(0, used=0)
        if max_bytes:
            self._room.limit(max_bytes, used=sum(entry.size for entry in self.entries()))

    @property
    def is_full(self) -> bool:
        """True when the limit of ``limit_total`` is reached or passed."""
        return self._room.is_full

    def compact(self, *, dead_part: float = DEAD_PART, seal: bool = False) -> Rewritten:
        """Rewrites the packs of which this part is of no use any more; with ``seal`` also the newest one.

        Ends early when the store is closed meanwhile, or when there is no room for it. Raises FolderLocked.
        """
        try:
            with typed_errors("rewriting packs", self._packs.folder):
                if seal:
                    self._packs.seal()
                return rewrite(
                    self._packs,
                    dead_part=dead_part,
                    is_right=lambda key, data: data is not None and content_id(data) == key.hex(),
                    set_aside=lambda key: self.set_aside(key.hex()),
                )
        except StorageFull:
            return Rewritten()

    def set_aside(self, blob_hash: str) -> None:
        """Moves a blob that is damaged to the quarantine; nothing happens to one that is whole or not there."""
        try:
            if self.peek(blob_hash) is None:
                self._set_aside(blob_hash)
        except (BlobCorrupt, BlobNotFound):
            return

    def quarantine(self) -> dict[str, int]:
        """Returns the damaged files that were set aside, by the id they should have had, with their sizes."""
        with typed_errors("listing the quarantine", self._quarantine.folder):
            return self._quarantine.sizes()

    def clear_quarantine(self, names: Iterable[str]) -> None:
        """Removes these files from the quarantine."""
        with typed_errors("clearing the quarantine", self._quarantine.folder):
            self._quarantine.clear(names)

    def _store(self, blob_hash: str, data: bytes, *, owed: bool = False) -> None:
        if self._is_known(blob_hash, data):
            self._counting.add(known=1)
            return
        self._room.take(len(data), owed=owed)
        try:
            with typed_errors("storing a blob", self._root):
                is_new = self._write(blob_hash, data)
        except BaseException:
            self._room.give(len(data))
            raise
        if is_new:
            self._counting.add(stored=1)
        else:
            self._room.give(len(data))
            self._counting.add(known=1)

    def _write(self, blob_hash: str, data: bytes) -> bool:
        """Puts a blob into a pack or a file; False when another thread has just done it."""
        if len(data) <= self._packed_bytes:
            with contextlib.suppress(FolderLocked):  # when another process writes the packs
                self.own()
            if self._packs.is_owner:
                return self._packs.append(bytes.fromhex(blob_hash), data)
        if self._shards is not None:
            self._shards.add(blob_hash[:2])
        self._loose.write(blob_hash, data)
        return True

    def _is_known(self, blob_hash: str, data: bytes) -> bool:
        """True when the blob is stored; one that is damaged is set aside first."""
        with typed_errors("looking for a blob", self._packs.folder):
            key = bytes.fromhex(blob_hash)
            found = self._packs.find_anew(key)
            if found is not None and self._packs.read(found, key=key) == data:
                return True
        if found is None:
            if self._shards is not None and blob_hash[:2] not in self._shards:
                return False
            if self._loose.holds(blob_hash, data):
                return True
            if self._loose.size(blob_hash) is None:
                return False
        try:
            self._set_aside(blob_hash)
        except (BlobCorrupt, BlobNotFound):
            self._counting.add(healed=1)
            return False
        return True

    def _set_aside(self, blob_hash: str) -> bytes:
        """Moves damaged bytes to the quarantine and raises BlobCorrupt; returns bytes that were healed meanwhile."""
        key = bytes.fromhex(blob_hash)
        with typed_errors("looking for a blob", self._packs.folder):
            is_packed = self._packs.find_anew(key) is not None
        data: bytes | None
        if is_packed:
            data, actual, size = self._set_packed_aside(blob_hash, key)
        else:
            data, actual, size = self._loose.set_aside(blob_hash)
        if data is not None:
            return data
        self._room.give(size)
        self._counting.add(quarantined=1)
        raise BlobCorrupt(blob_hash, actual=actual)

    def _set_packed_aside(self, blob_hash: str, key: bytes) -> tuple[bytes | None, str, int]:
        if not self._is_writable:
            raise BlobCorrupt(blob_hash, actual="something else")
        self.own()
        with typed_errors("setting a damaged blob aside", self._packs.folder), self._packs.lock:
            found = self._packs.find(key)
            if found is None:
                raise BlobNotFound(blob_hash)
            data = self._packs.read(found, key=key)
            actual = "nothing" if data is None else content_id(data)
            if data is not None and actual == blob_hash:
                return data, actual, 0
            self._quarantine.keep(blob_hash, data or b"", temporary=self._loose.temporary_path(blob_hash))
            self._packs.delete(key)
            return None, actual, found[1].size
