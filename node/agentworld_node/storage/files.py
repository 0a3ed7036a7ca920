"""The only door from the stores to the disk: a small port, so that tests can put a failing disk behind it.

Everything raises OSError; the stores turn it into typed errors. Nothing here is durable until ``sync`` (contents) and
``sync_folder`` (names) have returned.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from pathlib import Path
from typing import Protocol


class Closing(Protocol):
    """Something that is held until it is closed."""

    def close(self) -> None:
        """Gives it back; closing twice is allowed."""


class File(Closing, Protocol):
    """A file open for writing."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Writes all bytes at the offset; when it raises, any part of them may have been written."""

    def truncate(self, size: int) -> None:
        """Makes the file exactly this long."""

    def sync(self) -> None:
        """Returns when contents and length are on the disk."""


class ReadableFile(Protocol):
    """A file open for reading, for as long as somebody refers to it, also when its name is gone."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Returns the bytes at the offset, fewer at the end of the file."""


class FileSystem(Protocol):
    """What the stores need of a file system."""

    def make_folder(self, path: Path) -> bool:
        """Creates one folder in an existing one; False when it was there."""

    def names(self, path: Path) -> list[str]:
        """Returns the sorted names in a folder."""

    def size(self, path: Path) -> int | None:
        """Returns the length of a regular file, None when there is none."""

    def last_used(self, path: Path) -> int | None:
        """Returns when the file was last read or written, in nanoseconds, as the system notes it; None without one."""

    def read(self, path: Path, *, unnoticed: bool = False) -> bytes:
        """Returns the whole file; ``unnoticed`` reading does not count as a use of it."""

    def open_to_read(self, path: Path) -> ReadableFile:
        """Opens an existing file for reading parts of it."""

    def map(self, path: Path) -> bytes | memoryview:
        """Returns the contents of a file that is replaced, but never changed; they are read when they are needed."""

    def create(self, path: Path) -> File:
        """Creates a file that must not exist, open for writing."""

    def open(self, path: Path) -> File:
        """Opens an existing file for writing."""

    def rename(self, source: Path, target: Path) -> None:
        """Moves a file atomically, replacing the target."""

    def remove(self, path: Path) -> None:
        """Removes a file."""

    def sync_folder(self, path: Path) -> None:
        """Returns when the names in the folder are on the disk."""

    def lock(self, path: Path) -> Closing:
        """Takes the lock file for as long as the result is open; BlockingIOError when another one holds it."""


class LocalFile:
    """A file of the operating system."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def write_at(self, offset: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)
            offset += written
            rest = rest[written:]

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class LocalReadableFile:
    """A file of the operating system, open for reading."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        while len(data) < length and (more := os.pread(self._descriptor, length - len(data), offset + len(data))):
            data += more
        return data

    def __del__(self) -> None:
        os.close(self._descriptor)


class LocalFiles:
    """The file system of the operating system."""

    def make_folder(self, path: Path) -> bool:
        try:
            os.mkdir(path, 0o750)
        except FileExistsError:
            if path.is_dir():
                return False
            raise
        return True

    def names(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def size(self, path: Path) -> int | None:
        try:
            facts = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return facts.st_size if stat.S_ISREG(facts.st_mode) else None

    def last_used(self, path: Path) -> int | None:
        try:
            facts = path.stat()
        except FileNotFoundError:
            return None
        # Systems note reads lazily or not at all, but never set one of the two back.
        return max(facts.st_atime_ns, facts.st_mtime_ns)

    def read(self, path: Path, *, unnoticed: bool = False) -> bytes:
        if not unnoticed:
            return path.read_bytes()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOATIME)
        except PermissionError:
            # Only the owner of a file may do that.
            return path.read_bytes()
        with open(descriptor, "rb") as file:
            return file.read()

    def open_to_read(self, path: Path) -> ReadableFile:
        return LocalReadableFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def map(self, path: Path) -> bytes | memoryview:
        with path.open("rb") as file:
            try:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except ValueError:  # an empty file
                return b""

    def create(self, path: Path) -> File:
        return LocalFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640))

    def open(self, path: Path) -> File:
        return LocalFile(os.open(path, os.O_RDWR))

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def sync_folder(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> Closing:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return LocalFile(descriptor)


class _UnsyncedFile(LocalFile):
    def sync(self) -> None:
        """Leaves it to ``sync_tree``."""


class UnsyncedFiles(LocalFiles):
    """The file system without syncs, for folders that nobody relies on before ``sync_tree`` has returned."""

    def create(self, path: Path) -> File:
        return _UnsyncedFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640))

    def open(self, path: Path) -> File:
        return _UnsyncedFile(os.open(path, os.O_RDWR))

    def sync_folder(self, path: Path) -> None:
        """Leaves it to ``sync_tree``."""


LOCAL_FILES = LocalFiles()


def sync_tree(folder: Path) -> None:
    """Returns when everything below the folder is on the disk; raises OSError when any of it is not."""
    # All at once first, which is what makes it fast; then each file, because only that reports errors.
    os.sync()
    for place, _, names in os.walk(folder, topdown=False):
        for path in (*(os.path.join(place, name) for name in names), place):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def make_folders(files: FileSystem, path: Path) -> None:
    """Creates a folder and those above it, and returns when their names are on the disk."""
    try:
        files.make_folder(path)
    except FileNotFoundError:
        make_folders(files, path.parent)
        files.make_folder(path)
    # Also when it was there: whoever created it may have been killed before its name was on the disk.
    files.sync_folder(path.parent)


def put_file(files: FileSystem, path: Path, data: bytes, *, temporary: Path, sync: bool = False) -> None:
    """Puts a file in place whole or not at all, by way of a new temporary one; its bytes are synced if asked for."""
    file = files.create(temporary)
    try:
        file.write_at(0, data)
        if sync:
            file.sync()
    finally:
        file.close()
    files.rename(temporary, path)


def put_again(files: FileSystem, path: Path, data: bytes, *, temporary: Path, sync: bool = False) -> None:
    """Does what ``put_file`` does where a run that was interrupted may have left the temporary file."""
    if files.size(temporary) is not None:
        files.remove(temporary)
    put_file(files, path, data, temporary=temporary, sync=sync)


def put_durably(files: FileSystem, path: Path, data: bytes, *, temporary: Path) -> None:
    """Does what ``put_again`` does, and returns when the bytes and the name are on the disk."""
    put_again(files, path, data, temporary=temporary, sync=True)
    files.sync_folder(path.parent)
