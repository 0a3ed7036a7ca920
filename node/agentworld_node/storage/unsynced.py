"""What a failed sync took away, kept for whoever tries it again when there is room: they have not got the bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentworld_core.hashing import content_id
from agentworld_node.storage.blob_store import Room


@dataclass(frozen=True, slots=True)
class Lost:
    """A blob that is gone because a sync of it failed: how many bytes it had, and which, where they can be read."""

    blob_hash: str
    size: int
    data: bytes | None


class Unsynced:
    """The lost blobs of one store, until they are durable or deleted; it gives back their room."""

    def __init__(self, room: Room):
        self._room = room
        self._blobs: dict[str, bytes] = {}  # as many as there are between two syncs

    def note(self, lost: Lost) -> None:
        """Takes up a blob; bytes that are not what they should be are of no use to anybody."""
        self._room.give(lost.size)
        if lost.data is not None and content_id(lost.data) == lost.blob_hash:
            self._blobs[lost.blob_hash] = lost.data

    def get(self, blob_hash: str) -> bytes | None:
        """Returns the bytes of a lost blob, None for any other."""
        return self._blobs.get(blob_hash)

    def forget(self, blob_hashes: Iterable[str]) -> None:
        """Lets go of blobs that are durable, or that nobody wants."""
        for blob_hash in blob_hashes:
            self._blobs.pop(blob_hash, None)
