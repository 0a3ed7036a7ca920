"""The data folder of a node that does not run, opened as it is: nothing is created, rebuilt or moved by opening it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Self

from agentworld_core.errors import NotFound
from agentworld_node.ledger_stores import BLOBS, INDEX, LOG, PINS, VOTES
from agentworld_node.ledger_votes import check_votes
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import CorruptLog, IndexDamaged, PinsDamaged, VotesMissing, typed_errors
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from agentworld_node.storage.index import Index
from agentworld_node.storage.pins import PinStore
from agentworld_node.storage.wal import WriteAheadLog
from agentworld_node.storage.wal_segments import SegmentFolder


@dataclasses.dataclass
class DataFolder:
    """Log, blobs, index and pins of one data folder.

    Without an index ``index_problem`` says why there is none; without pins there are none, or ``pins_problem`` says why
    they cannot be read. ``votes_problem`` says what is wrong with the log of votes, which nothing else here depends on.
    """

    path: Path
    wal: WriteAheadLog
    blobs: FileBlobStore
    index: Index | None
    index_problem: str
    pins: PinStore | None
    pins_problem: str
    votes_problem: str = ""

    @classmethod
    def open(cls, path: Path, *, files: FileSystem = LOCAL_FILES) -> Self:
        """Opens the folder and keeps its lock until it is closed.

        Raises NotFound for a folder that is none of a node, FolderLocked while a node runs on it, CorruptLog when its
        log is damaged, and StorageFailed when the disk refuses.
        """
        check_data_folder(path, files=files)
        wal = WriteAheadLog.open(path / LOG, check_all=True, files=files)
        opened = cls(path, wal, FileBlobStore.reading(path / BLOBS), None, "", None, "")
        try:
            opened.blobs = FileBlobStore.open(path / BLOBS, files=files)
            opened._open_index()
            opened._open_pins()
            opened._look_at_votes(files)
        except BaseException:
            opened.close()
            raise
        return opened

    def _open_index(self) -> None:
        try:
            self.index = Index.open_as_it_is(self.path / INDEX)
            self.index.examine()
        except IndexDamaged as error:
            self.index_problem = error.message
            if self.index is not None:
                self.index.close()
                self.index = None

    def _open_pins(self) -> None:
        if (self.path / PINS).exists():
            try:
                self.pins = PinStore.open(self.path / PINS)
            except PinsDamaged as error:
                self.pins_problem = error.message

    def _look_at_votes(self, files: FileSystem) -> None:
        folder = self.path / VOTES
        try:
            if check_votes(folder, self.wal, files=files):
                with typed_errors("reading the votes", folder):
                    SegmentFolder(folder, files=files).scan()
        except (CorruptLog, VotesMissing) as error:
            self.votes_problem = str(error)

    def close(self) -> None:
        """Closes everything and gives the lock back; closing twice does nothing."""
        with contextlib.ExitStack() as closing:
            closing.callback(self.wal.close)
            closing.callback(self.blobs.close)
            for store in (self.index, self.pins):
                if store is not None:
                    closing.callback(store.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_data_folder(path: Path, *, files: FileSystem = LOCAL_FILES) -> None:
    """Raises NotFound unless a node has worked in this folder, and names those of a world of ``agentworld up``."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if any(name.endswith(".wal") for name in files.names(path / LOG)):
            return
    nodes = sorted(item.parent for item in path.glob("nodes/*/data") if item.is_dir())
    remedy = "name the folder that holds a node's log, blobs and index"
    if nodes:
        remedy = "name one of its nodes: " + ", ".join(str(item / "data") for item in nodes)
    elif (path / "data" / LOG).is_dir():
        remedy = f"name {path / 'data'}"
    raise NotFound("is not the data folder of a node", field="--data", value=path, remedy=remedy)
