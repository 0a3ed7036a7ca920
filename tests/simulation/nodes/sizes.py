"""Small sizes, so that short worlds have what takes long otherwise: many segments, packs, parts of proposals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.consensus import parts
from agentworld_node import ledger_stores, ledger_votes
from agentworld_node.ledger_votes import VoteLog
from agentworld_node.roles import parts as part_exchange
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.wal import WriteAheadLog

SEGMENT_BYTES = 16 * 1024
VOTE_SEGMENT_BYTES = 4 * 1024
PACK_BYTES = 32 * 1024
PART_BYTES = 1024
LARGE_BYTES = 3 * PART_BYTES
RETAINED_SNAPSHOTS = 2


class SmallLog(WriteAheadLog):
    """A log that begins a new segment soon."""

    @classmethod
    def open(cls, folder: Path, **options: Any) -> Any:
        return super().open(folder, segment_bytes=SEGMENT_BYTES, **options)


class SmallBlobs(FileBlobStore):
    """A blob store that begins a new pack soon."""

    @classmethod
    def open(cls, root: Path, **options: Any) -> Any:
        return super().open(root, pack_bytes=PACK_BYTES, **options)


def install_sizes(patch: pytest.MonkeyPatch, *, in_parts: bool, reach: Callable[[str], None]) -> None:
    """Makes logs and blob stores of small files, and proposals of small parts if asked for; tells what that reaches."""
    prune = VoteLog.prune

    def pruned(votes: VoteLog) -> None:
        prune(votes)
        reach("votes pruned")

    patch.setattr(VoteLog, "prune", pruned)
    patch.setattr(ledger_votes, "SEGMENT_BYTES", VOTE_SEGMENT_BYTES)
    patch.setattr(ledger_stores, "WriteAheadLog", SmallLog)
    patch.setattr(ledger_stores, "FileBlobStore", SmallBlobs)
    if in_parts:
        patch.setattr(parts, "PART_BYTES", PART_BYTES)
        patch.setattr(part_exchange, "LARGE_BYTES", LARGE_BYTES)
