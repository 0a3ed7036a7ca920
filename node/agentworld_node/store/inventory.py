"""Every blob that a data folder has or should have, in one table that may outgrow memory.

A blob is needed (with the reason), or stored (with its size), or both; ``judge`` notes what reading it has shown.
"""

from __future__ import annotations

import enum
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from agentworld_node.storage.blob_store import BlobEntry
from agentworld_node.storage.errors import StorageFailed

_TABLE = """
CREATE TABLE blobs (
    hash TEXT PRIMARY KEY, kind TEXT, height INTEGER NOT NULL DEFAULT 0,
    size INTEGER, used INTEGER NOT NULL DEFAULT 0, damaged INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
_NEED = """
INSERT INTO blobs (hash, kind, height) VALUES (?, ?, ?) ON CONFLICT (hash) DO UPDATE
SET kind = excluded.kind, height = excluded.height WHERE kind IS NULL
"""
_FOUND = """
INSERT INTO blobs (hash, size, used) VALUES (?, ?, ?) ON CONFLICT (hash) DO UPDATE
SET size = excluded.size, used = excluded.used
"""
_CACHE_KIB = 64 * 1024
UNREFERENCED = "unreferenced"


class Problem(enum.StrEnum):
    """What can be wrong with a blob."""

    damaged = "damaged"
    missing = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """A blob with which something is wrong: what it is of which block, or ``unreferenced``."""

    blob_hash: str
    problem: Problem
    kind: str
    height: int

    def as_dict(self) -> dict[str, object]:
        """Returns plain data for JSON."""
        return {"hash": self.blob_hash, "problem": str(self.problem), "kind": self.kind, "height": self.height}


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of blobs and the bytes that they have together."""

    blobs: int = 0
    bytes: int = 0

    def as_dict(self) -> dict[str, object]:
        """Returns plain data for JSON."""
        return {"blobs": self.blobs, "bytes": self.bytes}


class Inventory:
    """A table of blobs; use it as a context manager. Its reads may be interleaved with ``judge``."""

    def __init__(self) -> None:
        # An unnamed database lives in memory and moves to a temporary file that nobody sees when it grows.
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=OFF")
        self._connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._connection.execute(_TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StorageFailed(
                f"the list of blobs cannot be kept: {error}",
                field="SQLITE_TMPDIR",
                value=os.environ.get("SQLITE_TMPDIR"),
                remedy="set SQLITE_TMPDIR to a folder with room for about 150 bytes a blob",
            ) from error

    def need(self, blob_hash: str, kind: str, height: int) -> None:
        """Notes why a blob is needed; the first reason stays."""
        self._connection.execute(_NEED, (blob_hash, kind, height))

    def found(self, entries: Iterable[BlobEntry]) -> None:
        """Notes blobs that are stored."""
        self._connection.executemany(_FOUND, ((item.blob_hash, item.size, item.used_ns) for item in entries))

    def judge(self, blob_hash: str, *, damaged: bool) -> None:
        """Notes what reading a stored blob has shown."""
        self._connection.execute("UPDATE blobs SET damaged = ? WHERE hash = ?", (damaged, blob_hash))

    def gone(self, blob_hash: str) -> None:
        """Notes that a blob is no longer stored."""
        self._connection.execute("UPDATE blobs SET size = NULL, damaged = 0 WHERE hash = ?", (blob_hash,))

    def stored(self) -> Iterator[str]:
        """Yields the ids of all stored blobs."""
        yield from (name for (name,) in self._pages("SELECT hash FROM blobs WHERE size IS NOT NULL AND hash > ?"))

    def findings(self) -> Iterator[Finding]:
        """Yields every needed blob that is missing or damaged, and every damaged one that nothing needs."""
        query = (
            "SELECT hash, kind, height, damaged FROM blobs"
            " WHERE (damaged OR (size IS NULL AND kind IS NOT NULL)) AND hash > ?"
        )
        for name, kind, height, damaged in self._pages(query):
            problem = Problem.damaged if damaged else Problem.missing
            yield Finding(name, problem, kind or UNREFERENCED, height)

    def lacks(self, blob_hash: str) -> bool:
        """True when a blob is needed and not stored."""
        query = "SELECT 1 FROM blobs WHERE hash = ? AND kind IS NOT NULL AND size IS NULL"
        return self._connection.execute(query, (blob_hash,)).fetchone() is not None

    def lacking_heights(self, *kinds: str) -> list[int]:
        """Returns the heights, ascending, of blobs of these kinds that are needed and not stored."""
        marks = ", ".join("?" * len(kinds))
        query = f"SELECT DISTINCT height FROM blobs WHERE size IS NULL AND kind IN ({marks}) ORDER BY height"  # noqa: S608
        return [height for (height,) in self._connection.execute(query, kinds)]

    def unreferenced(self) -> Iterator[BlobEntry]:
        """Yields stored blobs that nothing needs, those first whose last use is longest ago."""
        query = "SELECT hash, size, used FROM blobs WHERE kind IS NULL AND size IS NOT NULL ORDER BY used, hash"
        yield from (BlobEntry(*row) for row in self._connection.execute(query))

    def amount(self, *, unreferenced: bool = False) -> Amount:
        """Returns how much is stored, in all or of what nothing needs."""
        condition = " AND kind IS NULL" if unreferenced else ""
        query = "SELECT count(*), coalesce(sum(size), 0) FROM blobs WHERE size IS NOT NULL"
        return Amount(*self._connection.execute(query + condition).fetchone())

    def _pages(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yields the rows of a query over ``hash > ?``, some at a time, so that the table may change meanwhile."""
        last = ""
        while rows := self._connection.execute(f"{query} ORDER BY hash LIMIT 1000", (last,)).fetchall():
            yield from rows
            last = rows[-1][0]
