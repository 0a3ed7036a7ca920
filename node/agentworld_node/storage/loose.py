"""Blobs as files of their own: ``ab/cd/<hash>`` below one folder, for what is too large for a pack.

Every write goes to a temporary file and is renamed into place, so no locks are needed between readers and writers.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from agentworld_core.errors import TooLarge
from agentworld_core.hashing import content_id
from agentworld_core.ids import is_hash
from agentworld_node.storage.blob_store import BlobEntry, checked_hash
from agentworld_node.storage.errors import BlobNotFound, typed_errors
from agentworld_node.storage.files import FileSystem
from agentworld_node.storage.quarantine import Quarantine
from agentworld_node.storage.unsynced import Lost

_SHARD = re.compile(r"[0-9a-f]{2}")
_ATTEMPTS = 3


class Unreadable(Exception):
    """The disk cannot read a blob's sectors, which is damage like any other."""


class LooseBlobs:
    """The blobs that are files; ``on_lost`` hears of those that go because they cannot be made durable."""

    def __init__(
        self, root: Path, *, blob_bytes: int, files: FileSystem, quarantine: Quarantine, on_lost: Callable[[Lost], None]
    ):
        self._root = root
        self._limit = blob_bytes
        self._files = files
        self._quarantine = quarantine
        self._on_lost = on_lost
        self.temporary = root / "tmp"
        self._numbers = itertools.count()
        self._durable_folders: set[Path] = set()  # whose names are known to be on the disk; at most 256 + 65,536
        self._made_folders: set[Path] = set()  # that were there when they were last looked for; at most 65,536

    def path(self, blob_hash: str) -> Path:
        """Where the blob is, or would be."""
        checked_hash(blob_hash)
        return self._root / blob_hash[:2] / blob_hash[2:4] / blob_hash

    def size(self, blob_hash: str) -> int | None:
        """Returns how many bytes the file has, None when there is none."""
        path = self.path(blob_hash)
        with typed_errors("looking for a blob", path):
            return self._files.size(path)

    def shards(self) -> set[str]:
        """Returns the first digits of all blobs that may be here."""
        with typed_errors("listing the blobs", self._root):
            return {folder.name for folder in self._shards(self._root)}

    def read(self, blob_hash: str, *, unnoticed: bool = False) -> bytes | None:
        """Returns the file, None when there is none; raises Unreadable for a bad sector and TooLarge for a giant."""
        return self._read(self.path(blob_hash), unnoticed=unnoticed)

    def _read(self, path: Path, *, unnoticed: bool = False) -> bytes | None:
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
                    raise Unreadable from error
                raise

    def holds(self, blob_hash: str, data: bytes) -> bool:
        """True when the file has just these bytes."""
        try:
            return self.size(blob_hash) == len(data) and self.read(blob_hash) == data
        except Unreadable:
            return False

    def temporary_path(self, blob_hash: str) -> Path:
        """Returns a name that nobody else uses."""
        return self.temporary / f"{blob_hash}.{os.getpid()}.{threading.get_ident()}.{next(self._numbers)}"

    def write(self, blob_hash: str, data: bytes) -> None:
        """Puts the bytes in place under a temporary name first; raises OSError."""
        path = self.path(blob_hash)
        for attempt in itertools.count(1):
            if path.parent not in self._made_folders:
                for folder in (path.parent.parent, path.parent):
                    self._files.make_folder(folder)
                self._made_folders.add(path.parent)
            temporary = self.temporary_path(path.name)
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
                self.remove_file(temporary)
                if attempt == _ATTEMPTS:
                    raise
            except OSError:
                self.remove_file(temporary)
                raise
            else:
                return

    def remove_file(self, path: Path) -> bool:
        """Removes a file; False when there was none. Raises OSError."""
        try:
            self._files.remove(path)
        except FileNotFoundError:
            return False
        return True

    def remove(self, blob_hash: str) -> int | None:
        """Removes the blob and returns how many bytes it had; None when there was none."""
        path = self.path(blob_hash)
        with typed_errors("deleting a blob", path):
            size = self._files.size(path)
            return (size or 0) if self.remove_file(path) else None

    def hashes(self) -> Iterator[str]:
        """Yields the ids of all blobs in order."""
        with typed_errors("listing the blobs", self._root):
            for first in self._shards(self._root):
                for second in self._shards(first):
                    prefix = first.name + second.name
                    yield from (n for n in self._files.names(second) if is_hash(n) and n.startswith(prefix))

    def entries(self) -> Iterator[BlobEntry]:
        """Yields what is known of every blob without reading it, in order."""
        for blob_hash in self.hashes():
            path = self.path(blob_hash)
            with typed_errors("listing the blobs", self._root):
                size, used_ns = self._files.size(path), self._files.last_used(path)
            if size is not None and used_ns is not None:
                yield BlobEntry(blob_hash, size, used_ns)

    def _shards(self, folder: Path) -> Iterator[Path]:
        return (folder / name for name in self._files.names(folder) if _SHARD.fullmatch(name))

    def sync(self, blob_hashes: Iterable[str]) -> None:
        """Returns when these blobs survive a crash; raises BlobNotFound for one that is missing."""
        folders: dict[Path, None] = {}
        for blob_hash in blob_hashes:
            path = self.path(blob_hash)
            self._sync_file(blob_hash, path)
            folders[path.parent] = None
        with typed_errors("syncing the blob folders", self._root):
            for folder in folders:
                for parent in (folder, folder.parent):
                    if parent not in self._durable_folders:
                        self._files.sync_folder(parent.parent)
                        self._durable_folders.add(parent)
                self._files.sync_folder(folder)

    def _sync_file(self, blob_hash: str, path: Path) -> None:
        with typed_errors("syncing a blob", path):
            try:
                file = self._files.open(path)
            except FileNotFoundError:
                raise BlobNotFound(blob_hash) from None
            try:
                file.sync()
            except OSError:
                # A second sync might wrongly succeed. Without the file nobody can take it for durable.
                self._forget(blob_hash, path)
                raise
            finally:
                file.close()

    def _forget(self, blob_hash: str, path: Path) -> None:
        size = self._files.size(path)
        try:
            data = self._read(path)
        except (Unreadable, TooLarge):
            data = None
        if self.remove_file(path):
            self._on_lost(Lost(blob_hash, size or 0, data))

    def set_aside(self, blob_hash: str) -> tuple[bytes | None, str, int]:
        """Moves a damaged file to the quarantine; returns bytes that were healed meanwhile, else what they are.

        That is: the id that they hash to, and how many they were. Raises BlobNotFound when there is no file.
        """
        path = self.path(blob_hash)
        target = self._quarantine.path(blob_hash)
        with typed_errors("setting a damaged blob aside", path):
            try:
                self._files.rename(path, target)
            except FileNotFoundError:
                raise BlobNotFound(blob_hash) from None
            try:
                data = self._read(target)
            except (Unreadable, TooLarge):
                data = None
            actual = "nothing" if data is None else content_id(data)
            if data is not None and actual == blob_hash:
                # A writer put good bytes in place between our read and our rename. Another reader may put them back.
                with contextlib.suppress(FileNotFoundError):
                    self._files.rename(target, path)
                return data, actual, 0
            size = self._files.size(target) or 0
            self._quarantine.bound(blob_hash)
        return None, actual, size
