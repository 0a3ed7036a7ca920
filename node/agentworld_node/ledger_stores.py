"""The stores of a ledger: the log that decides, that of votes, the blobs and the index that follow from the first."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from agentworld_core.codec import decode
from agentworld_core.errors import InvalidField
from agentworld_core.messages import BlockBundle
from agentworld_node.ledger_votes import VoteLog
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from agentworld_node.storage.index import Index
from agentworld_node.storage.wal import WriteAheadLog

RECORD_LIMIT = 16 * 1024 * 1024
LOG, VOTES, BLOBS, INDEX, PINS, POOL = "log", "votes", "blobs", "index.sqlite", "pins.sqlite", "pool.cbor"
"""The names in a data folder."""
GENESIS_KEY = "genesis_hash"
"""Under which the index notes of which world it is, once it holds everything that the log holds."""
DROPPED_KEY = "snapshots_dropped_below"
"""Under which the index notes below which height snapshots are no longer retained, before anything of them goes."""


@dataclasses.dataclass(frozen=True)
class ChainStores:
    """Log, blobs and index of one data folder; ``empty_index`` says that the index holds nothing and must be filled."""

    folder: Path
    wal: WriteAheadLog
    blobs: FileBlobStore
    index: Index
    empty_index: bool

    def committed(self, sequence: int) -> BlockBundle:
        """Returns the block that a commit record of the log holds."""
        return decode(BlockBundle, self.wal.record(sequence).payload, limit=RECORD_LIMIT)


@dataclasses.dataclass(frozen=True)
class LedgerStores(ChainStores):
    """All that a node writes into: what its chain comes back from, and the log of its votes."""

    votes: VoteLog

    @classmethod
    def open(cls, folder: Path, genesis_hash: str, *, files: FileSystem = LOCAL_FILES) -> LedgerStores:
        """Opens the stores of a data folder; InvalidField when it holds a world with another genesis.

        Raises FolderLocked when another process has the folder, and what opening the stores raises.
        """
        wal = WriteAheadLog.open(folder / LOG, files=files)
        votes = index = blobs = None
        try:
            blobs = FileBlobStore.open(folder / BLOBS, files=files)
            blobs.own()
            index, rebuilt = Index.open(folder / INDEX)
            found = index.meta(GENESIS_KEY)
            if found not in (None, genesis_hash):
                raise other_world(folder, found, genesis_hash)
            votes = VoteLog.open(folder / VOTES, wal, files=files)
            return cls(folder, wal, blobs, index, empty_index=rebuilt or found is None, votes=votes)
        except BaseException:
            with contextlib.ExitStack() as closing:
                for store in (wal, blobs, index, votes):
                    if store is not None:
                        closing.callback(store.close)
            raise

    def note_filled(self, genesis_hash: str) -> None:
        """Notes that the index holds everything that the log holds, of the world with this genesis."""
        if self.empty_index:
            self.index.set_meta(GENESIS_KEY, genesis_hash)

    def close(self) -> None:
        """Closes all of them, each also when another cannot write what waits; closing twice does nothing."""
        with contextlib.ExitStack() as closing:
            closing.callback(self.wal.close)  # as the last: its lock is that of the folder
            closing.callback(self.votes.close)
            closing.callback(self.blobs.close)
            closing.callback(self.index.close)


def other_world(folder: object, found: str, expected: str) -> InvalidField:
    """Returns the error for a data folder of another world."""
    return InvalidField(
        "holds a world with another genesis",
        field="data_folder",
        value=folder,
        remedy=f"use another data folder for genesis {expected} (this one has {found})",
    )
