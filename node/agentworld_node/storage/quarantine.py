"""Where damaged blobs are set aside to be looked at: a folder of files, each named by the id it should have had."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from agentworld_node.storage.files import FileSystem, put_file

log = logging.getLogger(__name__)

_QUARANTINE_FILES = 256  # enough to look at; damaged files beyond are dropped


class Quarantine:
    """The damaged blobs of one store. Raises OSError."""

    def __init__(self, folder: Path, *, files: FileSystem):
        self.folder = folder
        self._files = files

    def path(self, blob_hash: str) -> Path:
        """Where a damaged blob is put."""
        return self.folder / blob_hash

    def keep(self, blob_hash: str, data: bytes, *, temporary: Path) -> None:
        """Puts damaged bytes here, by way of a temporary file."""
        put_file(self._files, self.path(blob_hash), data, temporary=temporary)
        self.bound(blob_hash)

    def bound(self, blob_hash: str) -> None:
        """Drops the file that came last when there are too many."""
        if len(self._files.names(self.folder)) > _QUARANTINE_FILES:
            log.warning("the quarantine %s is full: damaged blob %s is dropped", self.folder, blob_hash)
            self._files.remove(self.path(blob_hash))

    def sizes(self) -> dict[str, int]:
        """Returns what is here, with sizes."""
        sizes = {name: self._files.size(self.folder / name) for name in self._files.names(self.folder)}
        return {name: size for name, size in sizes.items() if size is not None}

    def clear(self, names: Iterable[str]) -> None:
        """Removes these."""
        for name in names:
            try:
                self._files.remove(self.folder / name)
            except FileNotFoundError:
                continue
