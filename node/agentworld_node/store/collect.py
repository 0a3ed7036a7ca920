"""Frees space in a data folder: removes blobs that no block, retained snapshot or pin needs, and nothing else.

Each removal stands for itself, so that a crash on the way leaves some blobs that nothing needs, which the next run
finds. What is needed is known only from a whole log, index and pins; where one of these, or the manifest of a retained
snapshot, cannot be read, nothing is removed.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from agentworld_core.errors import StateMismatch
from agentworld_node.ledger_stores import GENESIS_KEY, PINS
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from agentworld_node.storage.pack_rewrite import Rewritten
from agentworld_node.storage.pins import PinStore
from agentworld_node.store.folder import DataFolder
from agentworld_node.store.inventory import Amount, Inventory
from agentworld_node.store.survey import Survey, survey

DEAD_PART = 0.2
"""Packs of which this part is of no use are rewritten; a running node lets more of them lie."""


@dataclass(frozen=True, kw_only=True)
class CollectReport:
    """What was removed, or would be in a dry run, and what is left; ``quarantine`` is what was set aside earlier.

    Of a removed blob in a pack the disk gets its room back when the pack is rewritten.
    """

    removed: Amount
    left: Amount
    quarantine: Amount
    max_bytes: int | None
    dry_run: bool
    packs_rewritten: int

    @property
    def is_over_limit(self) -> bool:
        """True when what is needed is more than the limit."""
        return self.max_bytes is not None and self.left.bytes > self.max_bytes

    def as_dict(self) -> dict[str, object]:
        """Returns plain data for JSON."""
        return {
            "removed": self.removed.as_dict(),
            "left": self.left.as_dict(),
            "quarantine_removed": self.quarantine.as_dict(),
            "max_bytes": self.max_bytes,
            "over_limit": self.is_over_limit,
            "dry_run": self.dry_run,
            "packs_rewritten": self.packs_rewritten,
        }


def collect(
    path: Path,
    *,
    max_bytes: int | None = None,
    dry_run: bool = False,
    quarantine: bool = False,
    files: FileSystem = LOCAL_FILES,
) -> CollectReport:
    """Removes what nothing needs; with a limit only until no more bytes are stored, least recently used first.

    With ``quarantine`` also the damaged files that were set aside. Raises what opening the folder raises, and
    StateMismatch when it cannot be told what is needed.
    """
    with DataFolder.open(path, files=files) as folder, contextlib.ExitStack() as held, Inventory() as inventory:
        if folder.pins is None and not folder.pins_problem and not dry_run:
            folder.pins = PinStore.open(path / PINS)
        if folder.pins is not None:
            # So that nobody pins what is about to go.
            held.enter_context(folder.pins.held())
        _check_known(folder, survey(folder, inventory))
        inventory.found(folder.blobs.entries())
        before = inventory.amount()
        removed, size = 0, 0
        for entry in inventory.unreferenced():
            if max_bytes is not None and before.bytes - size <= max_bytes:
                break
            if dry_run or folder.blobs.delete(entry.blob_hash):
                removed += 1
                size += entry.size
        aside = folder.blobs.quarantine() if quarantine else {}
        rewritten = Rewritten()
        if not dry_run:
            folder.blobs.clear_quarantine(aside)
            rewritten = folder.blobs.compact(dead_part=DEAD_PART, seal=removed > 0)
        return CollectReport(
            removed=Amount(removed, size),
            left=Amount(before.blobs - removed, before.bytes - size),
            quarantine=Amount(len(aside), sum(aside.values())),
            max_bytes=max_bytes,
            dry_run=dry_run,
            packs_rewritten=rewritten.packs,
        )


def _check_known(folder: DataFolder, found: Survey) -> None:
    """Raises StateMismatch unless everything can be read that says what is needed."""
    reason = folder.index_problem or folder.pins_problem
    if folder.index is not None and folder.index.meta(GENESIS_KEY) is None:
        reason = "the index was never filled"
    # A later snapshot is written again by the next start, with all that the ones before do not have.
    unread = [height for height in found.unread if height <= found.settled]
    if unread:
        reason = f"the manifest of the snapshot of height {unread[0]} cannot be read"
    if reason:
        raise StateMismatch(
            f"what may go cannot be told: {reason}",
            field="--data",
            value=folder.path,
            remedy="mend the folder with `agentworld store repair` first",
        )
