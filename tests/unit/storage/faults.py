"""A disk in memory that loses, tears, refuses and lies the way disks do; every loss is drawn from a seeded generator.

Contents and names are durable only after ``sync`` and ``sync_folder``. At a crash every write that was not synced
survives in arbitrary sectors and every change of a name that was not synced survives or not, independently: worse than
most file systems, which is the point. A failed sync drops what it should have written while reads go on to see it, and
the next sync succeeds, as the page cache of Linux does.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agentworld_node.storage.files import Closing, File, ReadableFile


class PowerCut(Exception):
    """The machine is off; only ``crash`` brings it back."""


@dataclass
class _Inode:
    visible: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    used: int = 0
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data) or (size, None): truncate


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _truncate(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


class CrashDisk:
    """A FileSystem. ``root`` exists and is durable from the beginning."""

    def __init__(self, root: Path, *, seed: int = 0, capacity: int | None = None, sector: int = 16):
        self.root = root
        self.rng = random.Random(seed)
        self.capacity = capacity
        self.sector = sector
        self.file_syncs = 0
        self.operations = 0
        self.failing_syncs = 0
        self.failing_folder_syncs = 0
        self.sync_error = errno.EIO
        self.failing_truncates = 0
        self.unreadable: set[Path] = set()
        self.before_sync: Callable[[], None] = lambda: None
        self.epoch = 0
        self._guard = threading.RLock()
        self._clock = 0
        self._power_at: int | None = None
        self._off = False
        self._folders = {root}
        self._durable_folders = {root}
        self._files: dict[Path, _Inode] = {}
        self._durable_files: dict[Path, _Inode] = {}
        self._renames: list[tuple[Path, _Inode | None]] = []  # changes of names that are not durable, in order
        self._locks: set[Path] = set()

    # What tests do to it.

    def cut_power_in(self, operations: int) -> None:
        """The operation with this number from now on, counted from 1, does not return."""
        self._power_at = self.operations + operations

    @property
    def is_off(self) -> bool:
        """True after the power was cut, until ``crash`` or ``kill``."""
        return self._off

    def crash(self) -> None:
        """Turns the machine off and on: what was not synced may be gone, open files and locks are."""
        with self._guard:
            visible = self._folders
            for inode in {id(i): i for i in (*self._files.values(), *self._durable_files.values())}.values():
                self._lose(inode)
            for path, renamed in self._renames:
                if self.rng.random() < 0.5:
                    if renamed is None:
                        self._durable_files.pop(path, None)
                    else:
                        self._durable_files[path] = renamed
            self._folders = {self.root}
            for folder in sorted(self._durable_folders | visible):
                if folder.parent in self._folders and (folder in self._durable_folders or self.rng.random() < 0.5):
                    self._folders.add(folder)
            self._durable_folders = set(self._folders)
            self._durable_files = {p: i for p, i in self._durable_files.items() if p.parent in self._folders}
            self._files = dict(self._durable_files)
            self._renames.clear()
            for inode in self._files.values():
                inode.visible = bytearray(inode.durable)
            self.kill()

    def kill(self) -> None:
        """Ends the process: open files and locks are gone, nothing else is."""
        self.epoch += 1
        self._locks.clear()
        self._power_at = None
        self._off = False

    def _lose(self, inode: _Inode) -> None:
        mode = self.rng.choice(("all", "none", "prefix", "sectors"))
        kept = self.rng.random()
        for offset, data in inode.pending:
            if mode == "none" or (mode == "prefix" and self.rng.random() > kept):
                break
            if data is None:
                if mode != "sectors" or self.rng.random() < 0.5:
                    _truncate(inode.durable, offset)
                continue
            begin = 0
            while begin < len(data):
                end = min(len(data), begin + self.sector - (offset + begin) % self.sector)
                if mode != "sectors" or self.rng.random() < 0.5:
                    _write(inode.durable, offset + begin, data[begin:end])
                if mode == "prefix" and self.rng.random() > kept:
                    break
                begin = end
        inode.pending.clear()

    def put(self, path: Path, data: bytes) -> None:
        """Makes the file hold these bytes, durably: a log of an earlier life, or damage."""
        inode = _Inode(bytearray(data), bytearray(data))
        self._files[path] = inode
        self._durable_files[path] = inode

    def used(self) -> int:
        """Bytes in files."""
        return sum(len(inode.visible) for inode in self._files.values())

    def tick(self) -> int:
        """The next moment of the disk's own clock."""
        self._clock += 1
        return self._clock

    # What the stores do with it.

    def step(self) -> None:
        if self._off:
            raise PowerCut
        self.operations += 1

    def finish(self) -> None:
        """Cuts the power behind an operation: done, but nobody hears of it."""
        if self._power_at is not None and self.operations >= self._power_at:
            self._off = True
            raise PowerCut

    def make_folder(self, path: Path) -> bool:
        with self._guard:
            self.step()
            if path in self._folders:
                return False
            if path.parent not in self._folders:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            self._folders.add(path)
            self.finish()
            return True

    def names(self, path: Path) -> list[str]:
        with self._guard:
            if self._off:
                raise PowerCut
            prefix = f"{path}/"
            below = (
                str(entry).removeprefix(prefix)
                for entry in (*self._files, *self._folders)
                if str(entry).startswith(prefix)
            )
            return sorted(name for name in below if "/" not in name)

    def size(self, path: Path) -> int | None:
        with self._guard:
            inode = self._files.get(path)
            return None if inode is None else len(inode.visible)

    def last_used(self, path: Path) -> int | None:
        with self._guard:
            inode = self._files.get(path)
            return None if inode is None else inode.used

    def read(self, path: Path, *, unnoticed: bool = False) -> bytes:
        with self._guard:
            if self._off:
                raise PowerCut
            if path in self.unreadable:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            inode = self._inode(path)
            if not unnoticed:
                inode.used = self.tick()
            return bytes(inode.visible)

    def open_to_read(self, path: Path) -> ReadableFile:
        with self._guard:
            if self._off:
                raise PowerCut
            return _CrashReader(self, path, self._inode(path))

    def map(self, path: Path) -> bytes:
        return self.read(path, unnoticed=True)

    def read_part(self, path: Path, inode: _Inode, offset: int, length: int) -> bytes:
        with self._guard:
            if self._off:
                raise PowerCut
            if path in self.unreadable:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return bytes(inode.visible[offset : offset + length])

    def _inode(self, path: Path) -> _Inode:
        try:
            return self._files[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def create(self, path: Path) -> File:
        with self._guard:
            self.step()
            if path in self._files:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            if path.parent not in self._folders:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if self.capacity is not None and self.used() >= self.capacity:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            inode = self._files[path] = _Inode(used=self.tick())
            self._renames.append((path, inode))
            self.finish()
            return _CrashFile(self, inode)

    def open(self, path: Path) -> File:
        with self._guard:
            if self._off:
                raise PowerCut
            return _CrashFile(self, self._inode(path))

    def rename(self, source: Path, target: Path) -> None:
        with self._guard:
            self.step()
            inode = self._inode(source)
            del self._files[source]
            self._files[target] = inode
            self._renames += [(target, inode), (source, None)]
            self.unreadable.discard(target)
            if source in self.unreadable:
                self.unreadable.remove(source)
                self.unreadable.add(target)
            self.finish()

    def remove(self, path: Path) -> None:
        with self._guard:
            self.step()
            self._inode(path)
            del self._files[path]
            self._renames.append((path, None))
            self.unreadable.discard(path)
            self.finish()

    def sync_folder(self, path: Path) -> None:
        with self._guard:
            self.step()
            if self.failing_folder_syncs:
                self.failing_folder_syncs -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            for name, inode in self._renames:
                if name.parent == path:
                    if inode is None:
                        self._durable_files.pop(name, None)
                    else:
                        self._durable_files[name] = inode
            self._renames = [change for change in self._renames if change[0].parent != path]
            self._durable_folders |= {folder for folder in self._folders if folder.parent == path}
            self.finish()

    def lock(self, path: Path) -> Closing:
        with self._guard:
            if self._off:
                raise PowerCut
            if path in self._locks:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
            self._locks.add(path)
            return _CrashLock(self, path)

    def unlock(self, path: Path) -> None:
        self._locks.discard(path)

    def write(self, inode: _Inode, offset: int, data: bytes) -> None:
        with self._guard:
            self.step()
            fits = len(data)
            if self.capacity is not None:
                free = max(0, self.capacity - self.used())
                fits = min(fits, max(0, len(inode.visible) - offset) + free)
            _write(inode.visible, offset, data[:fits])
            inode.pending.append((offset, data[:fits]))
            self.finish()
            if fits < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate(self, inode: _Inode, size: int) -> None:
        with self._guard:
            self.step()
            if self.failing_truncates:
                self.failing_truncates -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            _truncate(inode.visible, size)
            inode.pending.append((size, None))
            self.finish()

    def sync(self, inode: _Inode) -> None:
        self.before_sync()
        with self._guard:
            self.step()
            self.file_syncs += 1
            if self.failing_syncs:
                self.failing_syncs -= 1
                self._lose(inode)
                raise OSError(self.sync_error, os.strerror(self.sync_error))
            # Only what is pending: what a failed sync has dropped stays dropped.
            for offset, data in inode.pending:
                if data is None:
                    _truncate(inode.durable, offset)
                else:
                    _write(inode.durable, offset, data)
            inode.pending.clear()
            self.finish()


class _CrashFile:
    def __init__(self, disk: CrashDisk, inode: _Inode):
        self._disk = disk
        self._inode = inode
        self._epoch = disk.epoch
        self._open = True

    def _usable(self) -> _Inode:
        if self._epoch != self._disk.epoch:
            raise PowerCut
        assert self._open, "file is closed"
        return self._inode

    def write_at(self, offset: int, data: bytes) -> None:
        self._disk.write(self._usable(), offset, bytes(data))

    def truncate(self, size: int) -> None:
        self._disk.truncate(self._usable(), size)

    def sync(self) -> None:
        self._disk.sync(self._usable())

    def close(self) -> None:
        self._open = False


class _CrashReader:
    def __init__(self, disk: CrashDisk, path: Path, inode: _Inode):
        self._disk = disk
        self._path = path
        self._inode = inode
        self._epoch = disk.epoch

    def read_at(self, offset: int, length: int) -> bytes:
        if self._epoch != self._disk.epoch:
            raise PowerCut
        return self._disk.read_part(self._path, self._inode, offset, length)


class _CrashLock:
    def __init__(self, disk: CrashDisk, path: Path):
        self._disk = disk
        self._path = path
        self._epoch = disk.epoch

    def close(self) -> None:
        if self._epoch == self._disk.epoch:
            self._disk.unlock(self._path)
