"""The three stores of a ledger: the log that decides, the blobs and the index that follow from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from agentworld_core.codec import decode, encode
from agentworld_core.errors import InvalidField
from agentworld_core.messages import BlockBundle, Genesis
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import typed_errors
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from agentworld_node.storage.index import Index
from agentworld_node.storage.wal import WriteAheadLog

RECORD_LIMIT = 16 * 1024 * 1024
GENESIS_FILE = "genesis.cbor"
_GENESIS = "genesis_hash"


@dataclasses.dataclass(frozen=True)
class LedgerStores:
    """Log, blobs and index of one data folder; ``empty_index`` says that the index holds nothing and must be filled."""

    folder: Path
    wal: WriteAheadLog
    blobs: FileBlobStore
    index: Index
    empty_index: bool

    @classmethod
    def open(cls, folder: Path, genesis_hash: str, *, files: FileSystem = LOCAL_FILES) -> LedgerStores:
        """Opens the stores of a data folder; InvalidField when it holds a world with another genesis.

        Raises FolderLocked when another process has the folder, and what opening the stores raises.
        """
        wal = WriteAheadLog.open(folder / "log", files=files)
        index = None
        try:
            blobs = FileBlobStore.open(folder / "blobs", files=files)
            index, rebuilt = Index.open(folder / "index.sqlite")
            found = index.meta(_GENESIS)
            if found not in (None, genesis_hash):
                raise other_world(folder, found, genesis_hash)
            return cls(folder, wal, blobs, index, empty_index=rebuilt or found is None)
        except BaseException:
            if index is not None:
                index.close()
            wal.close()
            raise

    def note_filled(self, genesis_hash: str) -> None:
        """Notes that the index holds everything that the log holds, of the world with this genesis."""
        if self.empty_index:
            self.index.set_meta(_GENESIS, genesis_hash)

    def keep_genesis(self, genesis: Genesis) -> None:
        """Keeps the genesis document beside the log, so that a copy of the folder can be audited by itself."""
        data = encode(genesis)
        path = self.folder / GENESIS_FILE
        with typed_errors("keeping the genesis document", path):
            if path.exists() and path.read_bytes() == data:
                return
            temporary = path.with_suffix(".new")
            temporary.write_bytes(data)
            temporary.replace(path)

    def committed(self, sequence: int) -> BlockBundle:
        """Returns the block that a commit record of the log holds."""
        record = next(iter(self.wal.records(after=sequence - 1)))
        return decode(BlockBundle, record.payload, limit=RECORD_LIMIT)

    def close(self) -> None:
        """Closes index and log, the log also when it cannot write what waits; closing twice does nothing."""
        self.index.close()
        self.wal.close()


def other_world(folder: object, found: str, expected: str) -> InvalidField:
    """Returns the error for a data folder of another world."""
    return InvalidField(
        "holds a world with another genesis",
        field="data_folder",
        value=folder,
        remedy=f"use another data folder for genesis {expected} (this one has {found})",
    )
