"""The rows and tables of the index, and what version of them a file holds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter

from agentworld_core.errors import InvalidField

SCHEMA_VERSION = 1
VERSION_KEY = "schema_version"
MAX_INTEGER = 2**63 - 1  # what SQLite can hold

TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE blocks (
        height INTEGER PRIMARY KEY,
        block_hash TEXT NOT NULL UNIQUE,
        batch_hash TEXT NOT NULL,
        certificate_hash TEXT NOT NULL,
        term INTEGER NOT NULL,
        time_ms INTEGER NOT NULL
    )""",
    """CREATE TABLE receipts (
        action_id TEXT PRIMARY KEY,
        height INTEGER NOT NULL,
        position INTEGER NOT NULL,
        ok INTEGER NOT NULL,
        code TEXT
    ) WITHOUT ROWID""",
    "CREATE INDEX receipts_by_place ON receipts (height, position)",
    "CREATE TABLE directories (epoch INTEGER PRIMARY KEY, hash TEXT NOT NULL, effective_height INTEGER NOT NULL)",
    "CREATE TABLE revocations (key_id TEXT PRIMARY KEY, statement_hash TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE snapshots (height INTEGER PRIMARY KEY, state_root TEXT NOT NULL)",
)
TABLE_NAMES = ("meta", "blocks", "receipts", "directories", "revocations", "snapshots")


@dataclass(frozen=True, slots=True)
class BlockEntry:
    """Where the block of a height is: the content ids of block, batch and certificate."""

    height: int
    block_hash: str
    batch_hash: str
    certificate_hash: str
    term: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class ReceiptEntry:
    """Where an action was executed and how it ended; ``code`` is the error code of one that failed."""

    action_id: str
    height: int
    position: int
    ok: bool
    code: str | None = None


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """Which membership directory an epoch has, and from which height on it governs."""

    epoch: int
    hash: str
    effective_height: int


@dataclass(frozen=True, slots=True)
class RevocationEntry:
    """Which statement revokes a key."""

    key_id: str
    statement_hash: str


@dataclass(frozen=True, slots=True)
class SnapshotEntry:
    """Which state root was stored completely at a height."""

    height: int
    state_root: str


Entry = BlockEntry | ReceiptEntry | DirectoryEntry | RevocationEntry | SnapshotEntry


@dataclass(frozen=True, slots=True)
class UniqueTable:
    """The queries of a table in which a key, once taken, keeps its row: insert a row, and find it by its key."""

    name: str
    insert: str
    find: str


BLOCKS = UniqueTable("blocks", "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", "SELECT * FROM blocks WHERE height = ?")
DIRECTORIES = UniqueTable(
    "directories", "INSERT INTO directories VALUES (?, ?, ?)", "SELECT * FROM directories WHERE epoch = ?"
)
SNAPSHOTS = UniqueTable("snapshots", "INSERT INTO snapshots VALUES (?, ?)", "SELECT * FROM snapshots WHERE height = ?")
# The first execution of an action counts, in whatever order the blocks are stored.
PUT_RECEIPT = """
INSERT INTO receipts VALUES (?, ?, ?, ?, ?) ON CONFLICT (action_id) DO UPDATE
SET height = excluded.height, position = excluded.position, ok = excluded.ok, code = excluded.code
WHERE (excluded.height, excluded.position) < (receipts.height, receipts.position)
"""


_COLUMNS = {
    kind: (tuple(field.name for field in fields(kind)), attrgetter(*(field.name for field in fields(kind))))
    for kind in (BlockEntry, ReceiptEntry, DirectoryEntry, RevocationEntry, SnapshotEntry)
}


def values_of(entry: Entry) -> tuple[object, ...]:
    """Returns the values of a row in the order of its table; raises InvalidField for an integer SQLite cannot hold."""
    names, read = _COLUMNS[type(entry)]
    values: tuple[object, ...] = read(entry)
    for name, value in zip(names, values, strict=True):
        if isinstance(value, int) and not 0 <= value <= MAX_INTEGER:
            raise InvalidField("is out of range", field=name, value=value, remedy=f"use 0 to {MAX_INTEGER}")
    return values
