"""Pins: blobs that stay whatever else is removed, each with everything that it needs, in an SQLite file of its own.

Unlike the index, pins follow from nothing else, so every change is durable before it returns, and a damaged file is
never replaced by an empty one. Whoever removes blobs does it while it holds the pins: a pin is then either seen, or
made after the blobs are gone, which it notices.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from agentworld_node.storage.errors import PinsDamaged, TooManyPins, sqlite_errors

MAX_PINS = 10_000
MAX_LINKS = 10_000_000
_BUSY_SECONDS = 10.0
_APPLICATION_ID = 0x61775031
_TABLES = (
    """CREATE TABLE IF NOT EXISTS pins (
        hash TEXT PRIMARY KEY, kind TEXT NOT NULL, height INTEGER NOT NULL,
        note TEXT NOT NULL, added_ms INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS links (
        hash TEXT NOT NULL, pin TEXT NOT NULL, kind TEXT NOT NULL, height INTEGER NOT NULL, PRIMARY KEY (hash, pin)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS links_of_pins ON links (pin)",
)


@dataclass(frozen=True, slots=True)
class Pin:
    """A blob that was pinned: what it is, of which block, and why it was pinned."""

    blob_hash: str
    kind: str
    height: int
    note: str
    added_ms: int


@dataclass(frozen=True, slots=True)
class Link:
    """A blob that a pin keeps, the pinned one among them."""

    blob_hash: str
    kind: str
    height: int


class PinStore:
    """The pins of one data folder, for several processes. Raises PinsDamaged, StorageFull, StorageFailed or Busy."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self._path = path
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the pins or creates the file, and reads all of it; raises PinsDamaged for one that is none."""
        with _typed(path):
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        pins = cls(path, connection)
        try:
            with _typed(path):
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA cell_size_check=ON")
                pins._prepare()
        except BaseException:
            connection.close()
            raise
        return pins

    def _prepare(self) -> None:
        (number,) = self._connection.execute("PRAGMA application_id").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if number == 0 and tables == 0:
            with self.held():
                for statement in _TABLES:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        elif number != _APPLICATION_ID:
            raise _damaged(self._path, "it holds something else")
        verdict = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _damaged(self._path, verdict)

    @property
    def patience_seconds(self) -> float:
        """How long one waits for others that hold the pins."""
        return _BUSY_SECONDS

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

    @contextmanager
    def held(self, *, wait: bool = True) -> Iterator[None]:
        """Lets nobody else change the pins meanwhile; what is changed inside happens at the end, or not at all.

        Raises Busy when somebody else holds them, at once unless it may ``wait``.
        """
        with self._lock, _typed(self._path):
            self._connection.execute(f"PRAGMA busy_timeout={round(_BUSY_SECONDS * 1000) if wait else 0}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def add(self, pin: Pin, links: Iterable[Link]) -> None:
        """Pins a blob with everything it needs, in place of an earlier pin of it; to be called while held.

        Raises TooManyPins when there are as many pins, or blobs that they keep, as there may be.
        """
        with self._lock, _typed(self._path):
            self.remove(pin.blob_hash)
            row = (pin.blob_hash, pin.kind, pin.height, pin.note, pin.added_ms)
            self._connection.execute("INSERT INTO pins VALUES (?, ?, ?, ?, ?)", row)
            rows = ((link.blob_hash, pin.blob_hash, link.kind, link.height) for link in links)
            self._connection.executemany("INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?)", rows)
            for table, limit in (("pins", MAX_PINS), ("links", MAX_LINKS)):
                (count,) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
                if count > limit:
                    raise TooManyPins(f"there may be {limit} {table}", field="pins", remedy="remove a pin first")

    def remove(self, blob_hash: str) -> bool:
        """Removes a pin, and returns whether there was one; what only it kept may then go."""
        with self._lock, _typed(self._path):
            self._connection.execute("DELETE FROM links WHERE pin = ?", (blob_hash,))
            return self._connection.execute("DELETE FROM pins WHERE hash = ?", (blob_hash,)).rowcount > 0

    def pins(self) -> list[Pin]:
        """Returns all pins by id."""
        with self._lock, _typed(self._path):
            return [Pin(*row) for row in self._connection.execute("SELECT * FROM pins ORDER BY hash")]

    def links(self) -> Iterator[Link]:
        """Yields every blob that a pin keeps, by id."""
        last = ""
        query = "SELECT hash, kind, height FROM links WHERE hash > ? GROUP BY hash ORDER BY hash LIMIT 1000"
        while True:
            with self._lock, _typed(self._path):
                rows = self._connection.execute(query, (last,)).fetchall()
            if not rows:
                return
            yield from (Link(*row) for row in rows)
            last = rows[-1][0]

    def count_of(self, blob_hash: str) -> int:
        """Returns how many blobs a pin keeps."""
        with self._lock, _typed(self._path):
            query = "SELECT count(*) FROM links WHERE pin = ?"
            return int(self._connection.execute(query, (blob_hash,)).fetchone()[0])

    def keeps(self, blob_hash: str) -> bool:
        """True when a pin keeps the blob."""
        with self._lock, _typed(self._path):
            query = "SELECT 1 FROM links WHERE hash = ? LIMIT 1"
            return self._connection.execute(query, (blob_hash,)).fetchone() is not None


def _damaged(path: Path, reason: str) -> PinsDamaged:
    return PinsDamaged(
        f"the pins cannot be read: {reason}",
        field="pins",
        value=path,
        remedy="move the file away and pin again what must stay; until then no snapshot is removed",
    )


def _typed(path: Path) -> AbstractContextManager[None]:
    return sqlite_errors("pins", path, damaged=_damaged, busy="somebody removes blobs, or changes the pins")
