"""The index: where a block, a receipt, a directory or a snapshot is found, in SQLite.

It holds nothing that cannot be had again from the write-ahead log and the blobs. So a damaged file is set aside and an
empty index takes its place, which the caller fills again; and a crash may lose the last writes that no ``checkpoint``
covers, but never a part of one. All operations are short and synchronous; any thread may call them.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentworld_core.errors import Busy, InvalidField
from agentworld_node.storage.errors import (
    IndexConflict,
    IndexDamaged,
    IndexTooNew,
    sqlite_errors,
    typed_errors,
)
from agentworld_node.storage.files import LOCAL_FILES, make_folders
from agentworld_node.storage.index_schema import (
    BLOCKS,
    DIRECTORIES,
    PUT_RECEIPT,
    SCHEMA_VERSION,
    SNAPSHOTS,
    TABLE_NAMES,
    TABLES,
    VERSION_KEY,
    BlockEntry,
    DirectoryEntry,
    ReceiptEntry,
    RevocationEntry,
    SnapshotEntry,
    UniqueTable,
    values_of,
)

logger = logging.getLogger(__name__)

# A full check reads the whole file. Above this size only damage that was met in use makes the index start again.
CHECKED_BYTES = 64 * 2**20
PRUNE_ROWS = 10_000
_BUSY_SECONDS = 1.0
_TOGETHER = 512  # keys in one statement; every SQLite takes 999


class Index:
    """An index in one SQLite file. Raises IndexDamaged, StorageFull, StorageFailed or Busy when the file does."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self._path = path
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path) -> tuple[Self, bool]:
        """Opens or creates the index; True when it was damaged, has been set aside, and is now empty.

        The damaged file is kept as ``<name>.damaged``. Raises IndexTooNew for a file of a newer version.
        """
        with typed_errors("opening the index", path):
            make_folders(LOCAL_FILES, path.parent)
            damaged = _marker(path).exists()
        if not damaged:
            try:
                return cls(path, _connect(path)), False
            except IndexDamaged as error:
                logger.warning("index %s is damaged and is set aside: %s", path, error.message)
        return cls.begin_anew(path), True

    @classmethod
    def begin_anew(cls, path: Path) -> Self:
        """Sets the index aside, which must be closed, and opens an empty one in its place."""
        with typed_errors("setting the index aside", path):
            _set_aside(path)
        return cls(path, _connect(path))

    @classmethod
    def open_as_it_is(cls, path: Path) -> Self:
        """Opens an index that must exist and look whole, and changes nothing in it; raises IndexDamaged otherwise."""
        with typed_errors("opening the index", path):
            if not path.exists():
                raise _damaged(path, "there is none")
            if _marker(path).exists():
                raise _damaged(path, "it was found to be damaged while it was used")
        return cls(path, _connect(path))

    def examine(self) -> None:
        """Reads the whole file and raises IndexDamaged for damage anywhere in it."""
        with self._using() as connection:
            verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _damaged(self._path, verdict)

    def close(self) -> None:
        """Closes the file; closing twice does nothing."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def checkpoint(self) -> None:
        """Returns when everything written so far survives a crash of the machine."""
        with self._using() as connection:
            connection.execute("PRAGMA synchronous=FULL")
            try:
                (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.execute("PRAGMA synchronous=NORMAL")
        if busy:
            raise Busy("the index is being read by another process", field="index", value=self._path)

    def put_block(self, entry: BlockEntry, receipts: Iterable[ReceiptEntry]) -> None:
        """Stores a block and the receipts of its actions, all or nothing; storing the same again changes nothing.

        An action that was executed before keeps its first receipt. Raises IndexConflict when the height has another
        block.
        """
        rows = [values_of(receipt) for receipt in receipts]
        with self._transaction() as connection:
            self._insert(connection, BLOCKS, values_of(entry))
            connection.executemany(PUT_RECEIPT, rows)

    def block_at(self, height: int) -> BlockEntry | None:
        """Returns the block of the height."""
        return self._block("SELECT * FROM blocks WHERE height = ?", height)

    def block_by_hash(self, block_hash: str) -> BlockEntry | None:
        """Returns the block with the content id."""
        return self._block("SELECT * FROM blocks WHERE block_hash = ?", block_hash)

    def tip(self) -> BlockEntry | None:
        """Returns the highest block."""
        return self._block("SELECT * FROM blocks ORDER BY height DESC LIMIT 1")

    def receipt(self, action_id: str) -> ReceiptEntry | None:
        """Returns the receipt of the action."""
        found = self._receipts("SELECT * FROM receipts WHERE action_id = ?", action_id)
        return found[0] if found else None

    def heights_of(self, action_ids: Sequence[str]) -> dict[str, int]:
        """Returns the heights of those of the actions that have receipts."""
        found: dict[str, int] = {}
        for start in range(0, len(action_ids), _TOGETHER):
            part = action_ids[start : start + _TOGETHER]
            marks = ",".join("?" * len(part))
            found |= dict(self._rows(f"SELECT action_id, height FROM receipts WHERE action_id IN ({marks})", *part))  # noqa: S608
        return found

    def receipts_of(self, height: int) -> list[ReceiptEntry]:
        """Returns the receipts of the height by position."""
        return self._receipts("SELECT * FROM receipts WHERE height = ? ORDER BY position", height)

    def put_directory(self, entry: DirectoryEntry) -> None:
        """Stores a directory; raises IndexConflict when the epoch has another one."""
        with self._transaction() as connection:
            self._insert(connection, DIRECTORIES, values_of(entry))

    def directories(self) -> list[DirectoryEntry]:
        """Returns all directories by epoch."""
        return [DirectoryEntry(*row) for row in self._rows("SELECT * FROM directories ORDER BY epoch")]

    def put_revocation(self, entry: RevocationEntry) -> None:
        """Stores a revocation; a key that is revoked already keeps its first statement."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO revocations VALUES (?, ?)", values_of(entry))

    def revocations(self) -> list[RevocationEntry]:
        """Returns all revocations by key id."""
        return [RevocationEntry(*row) for row in self._rows("SELECT * FROM revocations ORDER BY key_id")]

    def put_snapshot(self, entry: SnapshotEntry) -> None:
        """Stores a snapshot; raises IndexConflict when the height has another state root."""
        with self._transaction() as connection:
            self._insert(connection, SNAPSHOTS, values_of(entry))

    def snapshots(self) -> list[SnapshotEntry]:
        """Returns all snapshots by height."""
        return [SnapshotEntry(*row) for row in self._rows("SELECT * FROM snapshots ORDER BY height")]

    def forget_block(self, height: int) -> None:
        """Forgets the block of one height and its receipts, so that right ones can be stored."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM receipts WHERE height = ?", (height,))
            connection.execute("DELETE FROM blocks WHERE height = ?", (height,))

    def prune_blocks(self, before_height: int, *, limit: int = PRUNE_ROWS) -> int:
        """Forgets up to ``limit`` of the oldest blocks below the height and their receipts; returns how many blocks."""
        with self._transaction() as connection:
            heights = connection.execute(
                "SELECT height FROM blocks WHERE height < ? ORDER BY height LIMIT ?", (before_height, limit)
            ).fetchall()
            connection.executemany("DELETE FROM receipts WHERE height = ?", heights)
            connection.executemany("DELETE FROM blocks WHERE height = ?", heights)
        return len(heights)

    def prune_receipts(self, before_height: int, *, limit: int = PRUNE_ROWS) -> int:
        """Forgets up to ``limit`` of the oldest receipts below the height; returns how many."""
        return self._changed(
            "DELETE FROM receipts WHERE action_id IN"
            " (SELECT action_id FROM receipts WHERE height < ? ORDER BY height, position LIMIT ?)",
            before_height,
            limit,
        )

    def prune_snapshots(self, before_height: int, *, limit: int = PRUNE_ROWS) -> int:
        """Forgets up to ``limit`` of the oldest snapshots below the height; returns how many."""
        return self._changed(
            "DELETE FROM snapshots WHERE height IN"
            " (SELECT height FROM snapshots WHERE height < ? ORDER BY height LIMIT ?)",
            before_height,
            limit,
        )

    def meta(self, key: str) -> str | None:
        """Returns a value of the caller's own."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return rows[0][0] if rows else None

    def set_meta(self, key: str, value: str) -> None:
        """Stores a value of the caller's own; the key of the schema version is not among them."""
        if key == VERSION_KEY:
            raise InvalidField("is reserved", field="key", value=key)
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _block(self, query: str, *values: object) -> BlockEntry | None:
        rows = self._rows(query, *values)
        return BlockEntry(*rows[0]) if rows else None

    def _receipts(self, query: str, *values: object) -> list[ReceiptEntry]:
        rows = self._rows(query, *values)
        return [ReceiptEntry(action, height, place, bool(ok), code) for action, height, place, ok, code in rows]

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._using() as connection:
            return connection.execute(query, values).fetchall()

    def _insert(self, connection: sqlite3.Connection, table: UniqueTable, values: tuple[object, ...]) -> None:
        """Inserts a row; nothing happens when exactly this row is there."""
        try:
            connection.execute(table.insert, values)
        except sqlite3.IntegrityError:
            known = connection.execute(table.find, values[:1]).fetchone()
            if known == values:
                return
            held = "the same content under another key" if known is None else f"{known} under this key"
            raise IndexConflict(f"the index holds {held}", field=table.name, value=values) from None

    def _changed(self, statement: str, *values: object) -> int:
        with self._transaction() as connection:
            return connection.execute(statement, values).rowcount

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                with _typed(self._path):
                    yield self._connection
            except IndexDamaged:
                # So that the next opening starts again, even if the damage is where a short check does not look.
                with typed_errors("marking the index as damaged", self._path):
                    _marker(self._path).touch()
                raise

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._using() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".is-damaged")


def _set_aside(path: Path) -> None:
    """Moves the file away for inspection, in place of one set aside earlier, with all that belongs to it."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    if path.exists():
        os.replace(path, path.with_name(path.name + ".damaged"))
    _marker(path).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    with _typed(path):
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA cell_size_check=ON")
            _prepare(path, connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Creates the tables in a new file, or checks those of an old one."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not names:
        connection.execute("BEGIN IMMEDIATE")
        for statement in TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES (?, ?)", (VERSION_KEY, str(SCHEMA_VERSION)))
        connection.execute("COMMIT")
        return
    if "meta" not in names:
        raise _damaged(path, "it is not an index")
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (VERSION_KEY,)).fetchone()
    version = row[0] if row else ""
    if not version.isdecimal() or int(version) < 1:
        raise _damaged(path, f"its schema version is {version!r}")
    if int(version) > SCHEMA_VERSION:
        raise IndexTooNew(
            f"the index has schema version {version}, this program knows {SCHEMA_VERSION}",
            field="index",
            value=path,
            remedy="run the newer program, or remove the file: it is rebuilt from the log",
        )
    missing = sorted(set(TABLE_NAMES) - names)
    if missing:
        raise _damaged(path, f"tables are missing: {', '.join(missing)}")
    if path.stat().st_size <= CHECKED_BYTES:
        verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _damaged(path, verdict)


def _damaged(path: Path, reason: str) -> IndexDamaged:
    return IndexDamaged(
        f"the index is damaged: {reason}",
        field="index",
        value=path,
        remedy="restart the node: it sets the file aside and builds the index again from the log",
    )


def _typed(path: Path) -> AbstractContextManager[None]:
    return sqlite_errors("index", path, damaged=_damaged, busy="another process uses the index")
