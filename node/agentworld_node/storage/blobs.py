"""Blobs as files: ``ab/cd/<hash>`` below one folder.

Blobs never change, so a store needs no locks between its readers and writers: every write goes to a temporary file of
its own and is renamed into place. A blob that was not made durable may be missing or damaged after a crash; it is then
quarantined when it is read, and healed when it is stored again.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from agentworld_core.errors import TooLarge
from agentworld_core.hashing import content_id
from agentworld_core.ids import is_hash
from agentworld_node.storage.blob_store import (
    DEFAULT_BLOB_BYTES,
    BlobCounters,
    BlobEntry,
    Counting,
    Room,
    check_size,
    checked_hash,
)
from agentworld_node.storage.errors import BlobCorrupt, BlobHashMismatch, BlobNotFound, StorageFailed, typed_errors
from agentworld_node.storage.files import LOCAL_FILES, FileSystem, make_folders

log = logging.getLogger(__name__)

_SHARD = re.compile(r"[0-9a-f]{2}")
_QUARANTINE_FILES = 256  # enough to look at; damaged files beyond are dropped
_ATTEMPTS = 3


class _Unreadable(Exception):
    """The disk cannot read the file's sectors, which is damage like any other."""


class FileBlobStore:
    """A BlobStore of files ``ab/cd/<hash>`` below one folder; safe for many threads and processes."""

    def __init__(self, root: Path, *, blob_bytes: int, files: FileSystem):
        self._root = root
        self._limit = blob_bytes
        self._files = files
        self._temporary = root / "tmp"
        self._quarantine = root / "quarantine"
        self._numbers = itertools.count()
        self._durable_folders: set[Path] = set()  # whose names are known to be on the disk; at most 256 + 65,536
        self._made_folders: set[Path] = set()  # that were there when they were last looked for; at most 65,536
        self._unsynced: dict[str, bytes] = {}  # what a failed sync took away: one at a time, or few of many threads
        self._counting = Counting()
        self._room = Room()

    @classmethod
    def open(cls, root: Path, *, blob_bytes: int = DEFAULT_BLOB_BYTES, files: FileSystem = LOCAL_FILES) -> Self:
        """Opens or creates the store in the folder and removes what interrupted writes have left behind."""
        store = cls(root, blob_bytes=blob_bytes, files=files)
        with typed_errors("opening the blob store", root):
            for folder in (root, store._temporary, store._quarantine):
                make_folders(files, folder)
            for name in files.names(store._temporary):
                store._remove(store._temporary / name)
        return store

    @classmethod
    def reading(cls, root: Path, *, blob_bytes: int = DEFAULT_BLOB_BYTES, files: FileSystem = LOCAL_FILES) -> Self:
        """Returns the store of a folder that belongs to somebody else and is only read; it may not even exist."""
        return cls(root, blob_bytes=blob_bytes, files=files)

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
        path = self._path(blob_hash)
        try:
            data = self._read(path)
        except _Unreadable:
            return self._set_aside(blob_hash)
        if data is None:
            raise BlobNotFound(blob_hash)
        return data if content_id(data) == blob_hash else self._set_aside(blob_hash)

    def peek(self, blob_hash: str) -> bytes | None:
        try:
            data = self._read(self._path(blob_hash), unnoticed=True)
        except (_Unreadable, TooLarge):
            return None
        if data is None:
            raise BlobNotFound(blob_hash)
        return data if content_id(data) == blob_hash else None

    def has(self, blob_hash: str) -> bool:
        path = self._path(blob_hash)
        with typed_errors("looking for a blob", path):
            return self._files.size(path) is not None

    def delete(self, blob_hash: str) -> bool:
        path = self._path(blob_hash)
        self._unsynced.pop(blob_hash, None)
        with typed_errors("deleting a blob", path):
            size = self._files.size(path) if self._room.is_limited else None
            removed = self._remove(path)
        if removed:
            self._room.give(size or 0)
        return removed

    def iterate(self) -> Iterator[str]:
        with typed_errors("listing the blobs", self._root):
            for first in self._shards(self._root):
                for second in self._shards(first):
                    prefix = first.name + second.name
                    yield from (n for n in self._files.names(second) if is_hash(n) and n.startswith(prefix))

    def entries(self) -> Iterator[BlobEntry]:
        for blob_hash in self.iterate():
            path = self._path(blob_hash)
            with typed_errors("listing the blobs", self._root):
                size, used_ns = self._files.size(path), self._files.last_used(path)
            if size is not None and used_ns is not None:
                yield BlobEntry(blob_hash, size, used_ns)

    def sync(self, blob_hashes: Iterable[str]) -> None:
        folders: dict[Path, None] = {}
        for blob_hash in dict.fromkeys(blob_hashes):
            path = self._path(blob_hash)
            again = self._unsynced.get(blob_hash)
            if again is not None:
                with typed_errors("storing a blob", path):
                    self._write(path, again)
            self._sync_file(blob_hash, path)
            self._unsynced.pop(blob_hash, None)
            folders[path.parent] = None
        with typed_errors("syncing the blob folders", self._root):
            for folder in folders:
                for parent in (folder, folder.parent):
                    if parent not in self._durable_folders:
                        self._files.sync_folder(parent.parent)
                        self._durable_folders.add(parent)
                self._files.sync_folder(folder)

    def limit_total(self, max_bytes: int) -> None:
        """Refuses from now on, with StorageFull, what would make all blobs together larger than this; 0 is no limit.

        Blobs that are damaged and were set aside do not count. Looks at every blob once.
        """
        self._room.limit(0, used=0)
        if max_bytes:
            self._room.limit(max_bytes, used=sum(entry.size for entry in self.entries()))

    @property
    def is_full(self) -> bool:
        """True when the limit of ``limit_total`` is reached or passed."""
        return self._room.is_full

    def set_aside(self, blob_hash: str) -> None:
        """Moves a blob that is damaged to the quarantine; nothing happens to one that is whole or not there."""
        try:
            if self.peek(blob_hash) is None:
                self._set_aside(blob_hash)
        except (BlobCorrupt, BlobNotFound):
            return

    def quarantine(self) -> dict[str, int]:
        """Returns the damaged files that were set aside, by the id they should have had, with their sizes."""
        with typed_errors("listing the quarantine", self._quarantine):
            sizes = {name: self._files.size(self._quarantine / name) for name in self._files.names(self._quarantine)}
        return {name: size for name, size in sizes.items() if size is not None}

    def clear_quarantine(self, names: Iterable[str]) -> None:
        """Removes these files from the quarantine."""
        with typed_errors("clearing the quarantine", self._quarantine):
            for name in names:
                self._remove(self._quarantine / name)

    def _path(self, blob_hash: str) -> Path:
        checked_hash(blob_hash)
        return self._root / blob_hash[:2] / blob_hash[2:4] / blob_hash

    def _shards(self, folder: Path) -> Iterator[Path]:
        return (folder / name for name in self._files.names(folder) if _SHARD.fullmatch(name))

    def _remove(self, path: Path) -> bool:
        try:
            self._files.remove(path)
        except FileNotFoundError:
            return False
        return True

    def _read(self, path: Path, *, unnoticed: bool = False) -> bytes | None:
        """Returns the file, None when there is none; raises _Unreadable for a bad sector and TooLarge for a giant."""
        with typed_errors("reading a blob", path):
            try:
                size = self._files.size(path)
                if size is None:
                    return None
                if size > self._limit:
                    raise TooLarge(f"a blob may have {self._limit} bytes", field="blob", value=size)
                return self._files.read(path, unnoticed=unnoticed)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.EIO:
                    raise _Unreadable from error
                raise

    def _temporary_path(self, blob_hash: str) -> Path:
        return self._temporary / f"{blob_hash}.{os.getpid()}.{threading.get_ident()}.{next(self._numbers)}"

    def _store(self, blob_hash: str, data: bytes, *, owed: bool = False) -> None:
        path = self._path(blob_hash)
        with typed_errors("looking for a blob", path):
            size = self._files.size(path)
        if size is not None:
            if size == len(data) and self._holds(path, data):
                self._counting.add(known=1)
                return
            try:
                self._set_aside(blob_hash)
                return
            except (BlobCorrupt, BlobNotFound):
                self._counting.add(healed=1)
        self._room.take(len(data), owed=owed)
        try:
            with typed_errors("storing a blob", path):
                self._write(path, data)
        except BaseException:
            self._room.give(len(data))
            raise
        self._counting.add(stored=1)

    def _holds(self, path: Path, data: bytes) -> bool:
        try:
            return self._read(path) == data
        except _Unreadable:
            return False

    def _write(self, path: Path, data: bytes) -> None:
        """Puts the bytes in place under a temporary name first."""
        for attempt in itertools.count(1):
            if path.parent not in self._made_folders:
                for folder in (path.parent.parent, path.parent):
                    self._files.make_folder(folder)
                self._made_folders.add(path.parent)
            temporary = self._temporary_path(path.name)
            file = self._files.create(temporary)
            try:
                try:
                    file.write_at(0, data)
                finally:
                    file.close()
                self._files.rename(temporary, path)
            except FileNotFoundError:
                # Another process has opened the store just now and took our file for an interrupted write, or somebody
                # has removed the folder.
                self._made_folders.discard(path.parent)
                self._remove(temporary)
                if attempt == _ATTEMPTS:
                    raise
            except OSError:
                self._remove(temporary)
                raise
            else:
                return

    def _sync_file(self, blob_hash: str, path: Path) -> None:
        with typed_errors("syncing a blob", path):
            try:
                file = self._files.open(path)
            except FileNotFoundError:
                raise BlobNotFound(blob_hash) from None
            try:
                file.sync()
            except OSError:
                # A second sync might wrongly succeed. Without the file nobody can take it for durable; its bytes are
                # written anew when the sync is tried again, as it is by whoever waits for room.
                self._keep_to_write_again(blob_hash, path)
                self._remove(path)
                raise
            finally:
                file.close()

    def _keep_to_write_again(self, blob_hash: str, path: Path) -> None:
        try:
            data = self._read(path)
        except (_Unreadable, TooLarge, StorageFailed):
            return
        if data is not None and content_id(data) == blob_hash:
            self._unsynced[blob_hash] = data

    def _set_aside(self, blob_hash: str) -> bytes:
        """Moves a damaged file to the quarantine and raises BlobCorrupt; returns bytes that were healed meanwhile."""
        path = self._path(blob_hash)
        target = self._quarantine / blob_hash
        with typed_errors("setting a damaged blob aside", path):
            try:
                self._files.rename(path, target)
            except FileNotFoundError:
                raise BlobNotFound(blob_hash) from None
            try:
                data = self._read(target)
            except (_Unreadable, TooLarge):
                data = None
            actual = "nothing" if data is None else content_id(data)
            if data is not None and actual == blob_hash:
                # A writer put good bytes in place between our read and our rename.
                self._files.rename(target, path)
                return data
            self._counting.add(quarantined=1)
            self._room.give(self._files.size(target) or 0)
            if len(self._files.names(self._quarantine)) > _QUARANTINE_FILES:
                log.warning("the quarantine %s is full: damaged blob %s is dropped", self._quarantine, blob_hash)
                self._remove(target)
        raise BlobCorrupt(blob_hash, actual=actual)
