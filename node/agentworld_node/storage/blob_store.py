"""What a store of content-addressed blobs promises, and one in memory.

Whatever comes back hashes to the id it was asked for, so a blob never changes, and any copy of it is as good as any
other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from agentworld_core.errors import TooLarge
from agentworld_core.hashing import content_id
from agentworld_core.ids import is_hash
from agentworld_node.storage.errors import BlobHashMismatch, BlobNotFound, InvalidBlobHash, StorageFull

DEFAULT_BLOB_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class BlobCounters:
    """What a store has done since it was opened: blobs written, found to be there, set aside, and written anew."""

    stored: int = 0
    known: int = 0
    quarantined: int = 0
    healed: int = 0


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A stored blob: how many bytes it has, and when it was last used, in nanoseconds, as far as the store knows."""

    blob_hash: str
    size: int
    used_ns: int


class BlobStore(Protocol):
    """Keeps bytes under their content id. A text that is not a content id raises InvalidBlobHash everywhere."""

    @property
    def counters(self) -> BlobCounters:
        """What the store has done since it was opened."""

    def put(self, data: bytes, *, durable: bool = False) -> str:
        """Stores the bytes and returns their id; does nothing when they are there, heals when they are damaged.

        With ``durable`` it returns when they survive a crash. Raises TooLarge, StorageFull or StorageFailed.
        """

    def put_verified(self, blob_hash: str, data: bytes, *, durable: bool = False) -> None:
        """Stores the bytes under the id they must have; raises BlobHashMismatch and stores nothing otherwise."""

    def put_many(self, items: Iterable[bytes], *, durable: bool = False) -> list[str]:
        """Stores several blobs and returns their ids in order; with ``durable`` folders are synced once for all."""

    def get(self, blob_hash: str) -> bytes:
        """Returns bytes that hash to the id; raises BlobNotFound, or BlobCorrupt after setting damaged ones aside."""

    def peek(self, blob_hash: str) -> bytes | None:
        """Returns bytes that hash to the id, None when they are damaged, and changes nothing; raises BlobNotFound."""

    def has(self, blob_hash: str) -> bool:
        """True when something is stored under the id; only ``get`` proves that it is intact."""

    def delete(self, blob_hash: str) -> bool:
        """Forgets the blob; True when it was there. A crash may bring it back."""

    def iterate(self) -> Iterator[str]:
        """Yields the ids of all blobs in order; those stored or deleted meanwhile may or may not be among them."""

    def entries(self) -> Iterator[BlobEntry]:
        """Yields what is known of every blob without reading it, in the order of ``iterate``."""

    def sync(self, blob_hashes: Iterable[str]) -> None:
        """Returns when these blobs survive a crash; raises BlobNotFound for one that is missing."""


def checked_hash(blob_hash: str) -> str:
    """Returns the content id unchanged, or raises InvalidBlobHash."""
    if not is_hash(blob_hash):
        raise InvalidBlobHash(
            "is not a content id", field="blob_hash", value=blob_hash, remedy="use 64 lower-case hexadecimal digits"
        )
    return blob_hash


def check_size(data: bytes, limit: int) -> None:
    """Raises TooLarge for more bytes than a blob may have."""
    if len(data) > limit:
        raise TooLarge(f"a blob may have {limit} bytes", field="blob", value=len(data))


class Counting:
    """Counts what a store does, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = BlobCounters()

    @property
    def values(self) -> BlobCounters:
        """What has been counted so far."""
        return self._values

    def add(self, *, stored: int = 0, known: int = 0, quarantined: int = 0, healed: int = 0) -> None:
        """Counts some more."""
        with self._lock:
            now = self._values
            self._values = replace(
                now,
                stored=now.stored + stored,
                known=now.known + known,
                quarantined=now.quarantined + quarantined,
                healed=now.healed + healed,
            )


class Room:
    """Counts stored bytes against a limit, from any thread; it counts nothing while there is no limit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._max_bytes = 0
        self._used = 0

    @property
    def is_limited(self) -> bool:
        """True when there is a limit."""
        return self._max_bytes > 0

    def limit(self, max_bytes: int, *, used: int) -> None:
        """Sets the limit, and how much of it is used; 0 means that there is none."""
        with self._lock:
            self._max_bytes, self._used = max_bytes, used

    @property
    def is_full(self) -> bool:
        """True when there is a limit, and it is reached or passed."""
        return 0 < self._max_bytes <= self._used

    def take(self, size: int, *, owed: bool = False) -> None:
        """Takes room for bytes that will be stored; raises StorageFull, and takes nothing, without enough of it.

        What is ``owed`` is taken in any case.
        """
        with self._lock:
            if not owed and self._max_bytes and self._used + size > self._max_bytes:
                raise StorageFull(
                    f"{self._used} of {self._max_bytes} bytes are used, and {size} more are needed",
                    field="spec.storage.maxBlobBytes",
                    value=self._max_bytes,
                    remedy="raise the limit, or stop the node and run `agentworld store gc`",
                )
            self._used += size

    def give(self, size: int) -> None:
        """Gives back the room of bytes that are gone."""
        with self._lock:
            self._used = max(0, self._used - size)


class MemoryBlobStore:
    """A BlobStore in memory, for tests and for tools that keep nothing; ``durable`` means nothing here."""

    def __init__(self, *, blob_bytes: int = DEFAULT_BLOB_BYTES) -> None:
        self._limit = blob_bytes
        self._blobs: dict[str, bytes] = {}
        self._counting = Counting()

    @property
    def counters(self) -> BlobCounters:
        return self._counting.values

    def put(self, data: bytes, *, durable: bool = False) -> str:  # noqa: ARG002 - memory is never durable
        check_size(data, self._limit)
        blob_hash = content_id(data)
        new = blob_hash not in self._blobs
        self._blobs.setdefault(blob_hash, bytes(data))
        self._counting.add(stored=int(new), known=int(not new))
        return blob_hash

    def put_verified(self, blob_hash: str, data: bytes, *, durable: bool = False) -> None:
        checked_hash(blob_hash)
        check_size(data, self._limit)
        actual = content_id(data)
        if actual != blob_hash:
            raise BlobHashMismatch(expected=blob_hash, actual=actual)
        self.put(data, durable=durable)

    def put_many(self, items: Iterable[bytes], *, durable: bool = False) -> list[str]:
        return [self.put(data, durable=durable) for data in items]

    def get(self, blob_hash: str) -> bytes:
        try:
            return self._blobs[checked_hash(blob_hash)]
        except KeyError:
            raise BlobNotFound(blob_hash) from None

    def peek(self, blob_hash: str) -> bytes | None:
        return self.get(blob_hash)

    def has(self, blob_hash: str) -> bool:
        return checked_hash(blob_hash) in self._blobs

    def delete(self, blob_hash: str) -> bool:
        return self._blobs.pop(checked_hash(blob_hash), None) is not None

    def iterate(self) -> Iterator[str]:
        yield from sorted(self._blobs)

    def entries(self) -> Iterator[BlobEntry]:
        yield from (BlobEntry(name, len(self._blobs[name]), 0) for name in self.iterate())

    def sync(self, blob_hashes: Iterable[str]) -> None:
        for blob_hash in blob_hashes:
            if not self.has(blob_hash):
                raise BlobNotFound(blob_hash)
