"""Reads and writes archives: one entry at a time, in the one order there is, each within its limit."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar, TypeVar

from agentworld_client.errors import VerificationFailed
from agentworld_core.codec import decode
from agentworld_core.errors import AgentWorldError, InvalidField, MalformedEncoding, TooLarge
from agentworld_core.hashing import ContentHasher
from agentworld_core.ledger.archive import BLOCK_BYTES, END, entry_header, padding, parse_entry_header

_T = TypeVar("_T")
_PIECE = 1024 * 1024


class ArchiveDamaged(VerificationFailed):
    """An archive is not what it says it is: cut off, changed, or made by something else; ``place`` names the entry."""

    code: ClassVar[str] = "archive_damaged"

    def __init__(self, message: str, *, entry: str, height: int = 0, cause_code: str = ""):
        super().__init__(f"{entry}: {message}", height=height, cause_code=cause_code, place=entry)


class ArchiveEntries:
    """The entries of an open archive file, read from any offset where one begins."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.offset = 0

    def peek(self) -> tuple[str, int] | None:
        """Returns name and size of the entry at the offset, None at the end of the archive."""
        self._file.seek(self.offset)
        data = self._file.read(BLOCK_BYTES)
        if data == END[:BLOCK_BYTES]:
            if self._file.read(BLOCK_BYTES) != END[BLOCK_BYTES:] or self._file.read(1):
                raise ArchiveDamaged("is not followed by the end of the file", entry="the last entry")
            return None
        try:
            return parse_entry_header(data)
        except MalformedEncoding as error:
            raise ArchiveDamaged(str(error), entry=f"offset {self.offset}", cause_code=error.code) from error

    def skip(self) -> str | None:
        """Passes over an entry unread and returns its name, None at the end of the archive."""
        found = self.peek()
        if found is None:
            return None
        name, size = found
        self.offset += BLOCK_BYTES + size + padding(size)
        return name

    def take(self, name: str, *, limit: int, height: int = 0) -> bytes:
        """Returns the content of the entry at the offset, which must have this name, and goes on behind it."""
        found = self.peek()
        if found is None or found[0] != name:
            says = "is missing" if found is None else f"is missing, {found[0]!r} is in its place"
            raise ArchiveDamaged(says, entry=name, height=height)
        size = found[1]
        if size > limit:
            says = f"has {size} bytes, at most {limit} are allowed"
            raise ArchiveDamaged(says, entry=name, height=height, cause_code=TooLarge.code)
        data = self._file.read(size)
        rest = self._file.read(padding(size))
        if len(data) != size or rest != bytes(padding(size)):
            raise ArchiveDamaged("is cut off or badly padded", entry=name, height=height)
        self.offset += BLOCK_BYTES + size + padding(size)
        return data

    def message(self, kind: type[_T], name: str, *, limit: int, height: int = 0) -> _T:
        """Returns the message that the next entry, which must have this name, encodes."""
        data = self.take(name, limit=limit, height=height)
        try:
            return decode(kind, data, limit=limit)
        except AgentWorldError as error:
            raise ArchiveDamaged(str(error), entry=name, height=height, cause_code=error.code) from error


class ArchiveWriter:
    """Writes entries one after the other; knows the content id of all it has written."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._hasher = ContentHasher()
        self.size = 0

    def add(self, name: str, data: bytes) -> None:
        """Writes an entry."""
        self._write(entry_header(name, len(data)))
        self._write(data)
        self._write(bytes(padding(len(data))))

    def finish(self) -> str:
        """Writes the end and returns the content id of the whole archive."""
        self._write(END)
        return self._hasher.content_id()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hasher.update(data)
        self.size += len(data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that gets its name when everything is written and on the disk, and is removed otherwise.

    Raises InvalidField when the name is taken or the folder cannot be written to.
    """
    if path.exists():
        raise InvalidField("exists already", field="file", value=path, remedy="remove it or take another name")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidField(f"cannot be written: {error.strerror}", field="file", value=path) from error


def file_hash(path: Path) -> str:
    """Returns the content id of a whole file, read in pieces."""
    hasher = ContentHasher()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return hasher.content_id()
