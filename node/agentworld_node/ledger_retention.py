"""What a ledger lets go: the snapshots that are older than those it retains, but for what pins keep.

Removing holds the pins, so that nobody pins what is about to go, and it must not run while a block is being written,
which may share what would be removed.
"""

from __future__ import annotations

import logging
from typing import Any

from agentworld_core.errors import AgentWorldError, Busy
from agentworld_core.ledger.snapshot import load_manifest
from agentworld_node.ledger_reads import LedgerReads
from agentworld_node.ledger_stores import DROPPED_KEY, PINS
from agentworld_node.storage.errors import PinsDamaged, StorageFull
from agentworld_node.storage.pins import PinStore

log = logging.getLogger(__name__)

RETAIN_SNAPSHOTS = 10


class LedgerRetention(LedgerReads):
    """The forgetting half of a ledger; ``_marked`` is the height of the newest snapshot that its log has a mark of."""

    def __init__(self, **parts: Any):
        super().__init__(**parts)
        self.retain_snapshots = RETAIN_SNAPSHOTS
        self._marked = 0

    def retain(self, snapshots: int) -> None:
        """Keeps this many snapshots from now on and removes older ones, which makes room; before anything is committed.

        Where that is not possible now, the next snapshot tries again.
        """
        self.retain_snapshots = snapshots
        try:
            self._drop_old_snapshots()
        except StorageFull as error:
            log.warning("old snapshots stay until the next one is made: %s", error)

    def _drop_old_snapshots(self) -> None:
        """Removes what only snapshots need that are not retained any more, but for what a pin keeps."""
        pins = self._open_pins() if self._old_snapshots()[0] else None
        if pins is not None:
            with pins:
                try:
                    self._drop_snapshots(pins, wait=True)
                except Busy as error:
                    log.warning("old snapshots stay until the next one is made: %s", error)

    def _open_pins(self) -> PinStore | None:
        """Returns the pins, which costs time in proportion to them; None when they cannot be read."""
        try:
            return PinStore.open(self._stores.folder / PINS)
        except (PinsDamaged, Busy, StorageFull) as error:
            log.warning("old snapshots stay until the next one is made: %s", error)
            return None

    def _old_snapshots(self) -> tuple[list[int], list[int]]:
        """Returns the heights of the snapshots that are not retained any more, and of those that are."""
        # Only one that the log has a mark of can be begun from; those of later rows count among the blocks after it.
        heights = [item.height for item in self._stores.index.snapshots() if item.height <= self._marked]
        return heights[: -self.retain_snapshots], heights[-self.retain_snapshots :]

    def _drop_snapshots(self, pins: PinStore, *, wait: bool = False) -> None:
        """Removes old snapshots while it holds the pins; raises Busy when somebody else does."""
        with pins.held(wait=wait):
            old, kept = self._old_snapshots()
            if old:
                self._drop_all_of(old, kept, pins)

    def _drop_all_of(self, old: list[int], kept: list[int], pins: PinStore) -> None:
        # Blocks after the newest snapshot may hold one that has not been noted yet.
        needed = {blob for height in (*kept, *range(kept[-1] + 1, len(self._commits) + 1))
                  for blob in self._snapshot_blobs(height)}  # fmt: skip
        # Noted first, so that a crash on the way leaves blobs that nothing needs, not snapshots that lack some.
        self._stores.index.set_meta(DROPPED_KEY, str(kept[0]))
        self._stores.index.checkpoint()
        for height in old:
            # The manifest, which tells what there is to remove, goes last.
            for blob in reversed(self._snapshot_blobs(height)):
                if blob not in needed and not pins.keeps(blob):
                    self._stores.blobs.delete(blob)
        self._stores.index.prune_snapshots(kept[0])

    def _snapshot_blobs(self, height: int) -> list[str]:
        """Returns the content ids of a block's snapshot, its manifest first; only that when it is damaged or gone."""
        block = self.block(height)
        reference = None if block is None else block.snapshot_ref
        if reference is None:
            return []
        try:
            manifest = load_manifest(reference, self._stores.blobs.get)
        except AgentWorldError as error:
            log.warning("the snapshot of height %d cannot be read: %s", height, error)
            return [reference]
        return [reference, *(chunk.content_hash for chunk in manifest.chunks)]
