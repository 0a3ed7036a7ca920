"""Keeps the native form of modules on disk, so that a node that starts again does not compile them again.

A native form is machine code. Only what this user has written may be run: the folder is ours alone (0700), a file must
be ours, writable by nobody else and begin with the hash of its key and contents. Whatever is not is removed and made
again; the folder may be deleted at any time. A cache that fails costs time and never an answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from pathlib import Path

from agentworld_core.errors import InvalidField
from agentworld_core.hashing import digest

_log = logging.getLogger(__name__)

_MAGIC = b"agentworld native 1\n"
_SUFFIX = ".native"
_TEMPORARY = ".part"


class NativeCache:
    """A folder of native forms of one engine, bounded in bytes: what was used longest ago goes first."""

    def __init__(self, folder: Path, *, engine_id: str, limit_bytes: int):
        self._folder = folder
        self._engine_id = engine_id
        self._limit = limit_bytes
        _own(folder)

    def get(self, artifact: str) -> bytes | None:
        """Returns the native form of an artifact, or None; a file that cannot be trusted is removed."""
        path = self._path(artifact)
        try:
            content = _read_trusted(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cannot read the native form of module %s: %s", artifact, error)
            return None
        head = len(_MAGIC) + 32
        if content is not None and content[:head] == _MAGIC + self._seal(artifact, content[head:]):
            with contextlib.suppress(OSError):  # only the order of removal depends on it
                os.utime(path)
            return content[head:]
        _log.warning("the native form of module %s is damaged or not ours, it is made again", artifact)
        self.drop(artifact)
        return None

    def put(self, artifact: str, form: bytes) -> None:
        """Keeps a native form, when it fits and the disk allows it."""
        content = _MAGIC + self._seal(artifact, form) + form
        if len(content) > self._limit:
            return
        try:
            self._make_room(len(content))
            self._write(self._path(artifact), content)
        except OSError as error:
            _log.warning("cannot keep the native form of module %s: %s", artifact, error)

    def drop(self, artifact: str) -> None:
        """Removes a native form."""
        with contextlib.suppress(OSError):  # what stays is judged again when it is read
            self._path(artifact).unlink()

    def _path(self, artifact: str) -> Path:
        return self._folder / f"{artifact}.{self._engine_id[:16]}{_SUFFIX}"

    def _seal(self, artifact: str, form: bytes) -> bytes:
        return digest(f"{artifact} {self._engine_id}\n".encode() + digest(form))

    def _write(self, path: Path, content: bytes) -> None:
        # Not synced: a file that a crash has torn does not have the hash that it begins with.
        descriptor, name = tempfile.mkstemp(suffix=_TEMPORARY, dir=self._folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                os.unlink(name)
            raise

    def _make_room(self, size: int) -> None:
        files = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):  # another node of this folder was faster
                files.append((entry.stat(follow_symlinks=False), entry.path))
        files.sort(key=lambda item: (item[0].st_mtime_ns, item[1]))
        total = sum(item[0].st_size for item in files)
        for status, path in files:
            if total + size <= self._limit:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= status.st_size


def _own(folder: Path) -> None:
    """Makes the folder ours alone; what was in one that others could write to is removed first."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise InvalidField(
                "must be a folder of the user who runs the node: machine code is read from it",
                field="cache_folder",
                value=folder,
            )
        if stat.S_IMODE(status.st_mode) != 0o700:
            folder.chmod(0o700)
            for entry in list(os.scandir(folder)):
                os.unlink(entry.path)
        for leftover in folder.glob(f"*{_TEMPORARY}"):
            with contextlib.suppress(FileNotFoundError):
                leftover.unlink()
    except OSError as error:
        raise InvalidField(f"cannot be used: {error}", field="cache_folder", value=folder) from error


def _read_trusted(path: Path) -> bytes | None:
    """Returns the contents of a regular file that nobody else can have written, None for any other."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return None
        return file.read()
