"""What can go wrong on a disk, each with a stable code and, where there is one, the way out."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentworld_core.errors import (
    AgentWorldError,
    Busy,
    HashMismatch,
    InvalidField,
    NotFound,
    StateMismatch,
    TooLarge,
    Unsupported,
)

# EFBIG: the file may not grow (a limit of the process or of the file system), which is the same to the caller.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StorageFailed(AgentWorldError):
    """The disk or the file system refused an operation."""

    code = "storage_failed"
    wire = "ERR_NOT_AVAILABLE"
    http_status = 503


class StorageFull(StorageFailed):
    """There is no room left; what was stored before is intact, and the same call may succeed once there is room."""

    code = "storage_full"
    http_status = 507


class FolderLocked(StorageFailed):
    """Another process has this folder open."""

    code = "folder_locked"


class LogFailed(StorageFailed):
    """The log could not tell whether its records reached the disk, so it accepts nothing more until it is reopened."""

    code = "log_failed"


class LogClosed(StorageFailed):
    """The log has been closed."""

    code = "log_closed"


class LogBusy(Busy):
    """More records wait for a sync than may wait."""

    code = "log_busy"


class RecordTooLarge(TooLarge):
    """A record is larger than the log accepts."""


class CorruptLog(StorageFailed):
    """A record that had been made durable is damaged: the history cannot be trusted beyond it."""

    code = "corrupt_log"

    def __init__(self, reason: str, *, file: str, offset: int, sequence: int):
        super().__init__(
            f"log is corrupt in file {file} at offset {offset}, record {sequence}: {reason}",
            field="wal",
            remedy=(
                "stop this node and keep the folder for inspection; restore it from a copy, or start with an empty "
                "folder and let the node sync from its peers, after rotating the key it votes with, because the "
                "record of what it has signed is gone"
            ),
        )
        self.reason = reason
        self.file = file
        self.offset = offset
        self.sequence = sequence


class VotesMissing(StorageFailed):
    """The log of votes is gone, and nobody knows what this node has signed."""

    code = "votes_missing"

    def __init__(self, folder: Path):
        super().__init__(
            "the log of votes that this node has written is not there",
            field="path",
            value=folder,
            remedy=(
                "put it back as it was; if it is lost, start with an empty data folder and let the node sync from its "
                "peers, after rotating the key it votes with, because it could vote twice"
            ),
        )


class InvalidBlobHash(InvalidField):
    """The text is not a content id."""

    code = "blob_hash_invalid"
    wire = "ERR_INVALID_HASH"


class BlobHashMismatch(HashMismatch):
    """The bytes do not hash to the id they were given under; nothing was stored."""

    code = "blob_hash_mismatch"

    def __init__(self, *, expected: str, actual: str):
        super().__init__(f"blob hashes to {actual}, not to {expected}", field="blob_hash", value=expected)
        self.expected = expected
        self.actual = actual


class BlobNotFound(NotFound):
    """The store has no such blob."""

    code = "blob_not_found"

    def __init__(self, blob_hash: str):
        super().__init__("no such blob", field="blob_hash", value=blob_hash)
        self.blob_hash = blob_hash


class BlobCorrupt(StorageFailed):
    """The stored bytes are damaged; the file has been set aside, and storing the blob again heals it."""

    code = "blob_corrupt"

    def __init__(self, blob_hash: str, *, actual: str):
        super().__init__(
            f"stored bytes hash to {actual}",
            field="blob_hash",
            value=blob_hash,
            remedy="fetch the blob from a peer and store it again; the damaged file is in the quarantine folder",
        )
        self.blob_hash = blob_hash
        self.actual = actual


class IndexConflict(StateMismatch):
    """The index holds something else under this key."""

    code = "index_conflict"


class IndexDamaged(StorageFailed):
    """The index file is damaged; it will be set aside and can be rebuilt when the index is opened again."""

    code = "index_damaged"


class IndexTooNew(Unsupported):
    """The index was written by a newer version."""

    code = "index_too_new"


class PinsDamaged(StorageFailed):
    """The file of the pins is damaged, so nobody knows what is pinned."""

    code = "pins_damaged"


class TooManyPins(Busy):
    """There are as many pins as there may be."""

    code = "too_many_pins"


def is_no_room(error: OSError) -> bool:
    """True when the operating system says that there is no room."""
    return error.errno in _FULL


def storage_error(error: OSError, *, doing: str, path: Path) -> StorageFailed:
    """Returns the typed error for what the operating system said."""
    reason = error.strerror or str(error)
    if is_no_room(error):
        return StorageFull(
            f"no room for {doing}: {reason}", field="path", value=path, remedy="free space or enlarge the volume"
        )
    return StorageFailed(f"{doing} failed: {reason}", field="path", value=path, remedy="check the disk and its mount")


@contextmanager
def typed_errors(doing: str, path: Path) -> Iterator[None]:
    """Turns an OSError of the block into StorageFull or StorageFailed."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, doing=doing, path=path) from error


@contextmanager
def sqlite_errors(
    field: str, path: Path, *, damaged: Callable[[Path, str], AgentWorldError], busy: str
) -> Iterator[None]:
    """Turns errors of SQLite into ours: damage into what ``damaged`` makes of path and reason, a lock into Busy."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise damaged(path, str(error)) from error
        if primary == sqlite3.SQLITE_FULL:
            raise StorageFull(
                f"no room for the {field}", field=field, value=path, remedy="free space or enlarge the volume"
            ) from error
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Busy(busy, field=field, value=path) from error
        raise StorageFailed(f"the {field} failed: {error}", field=field, value=path) from error
