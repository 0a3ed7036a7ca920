"""The writer lease of one machine: a symbolic link for each version of the record, whose text is the record.

There is no lock that a stopped process could hold: ``lease.json.<version>`` appears whole or not at all and only one
process can make it, the highest version is the record, and whoever makes the next version has written it. A link needs
neither a temporary file nor a sync of its own: one sync of the folder makes name and text durable. Old versions are
removed by later writers.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path

from agentworld_core.errors import NotAvailable
from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite

VERSIONS_KEPT = 8
LOOK_SECONDS = 0.2
"""How often the folder is looked at for a version that somebody has written."""
_READ_ATTEMPTS = 16


class FileLeaseStore:
    """Keeps the lease in a folder that all nodes of a machine share; the names of its files begin with ``path``."""

    def __init__(self, path: Path):
        self._path = path
        self._looked = 0

    async def read(self) -> LeaseRecord | None:
        """Returns the record, None before the first write; NotAvailable when it cannot be read."""
        return await asyncio.to_thread(self._guarded_read)

    async def write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        """Writes the record if its version is still the expected one; a new holder or term is durable then."""
        return await asyncio.to_thread(self._guarded_write, wanted)

    async def changed(self) -> None:
        """Returns when the folder has changed since the last call."""
        while True:
            found = await asyncio.to_thread(self._changed_at)
            if found != self._looked:
                self._looked = found
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _changed_at(self) -> int:
        try:
            return self._path.parent.stat().st_mtime_ns
        except OSError:
            return self._looked  # reading says what is wrong with it

    def _guarded_read(self) -> LeaseRecord | None:
        try:
            return self._read()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise NotAvailable(
                f"the lease cannot be read: {error}", field="lease.path", value=self._path, remedy="repair the folder"
            ) from error

    def _guarded_write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        current = self._guarded_read()
        if not wanted.may_replace(current):
            return None
        record = LeaseRecord(
            holder=wanted.holder,
            term=wanted.term,
            duration_ms=wanted.duration_ms,
            version=str(int(wanted.expected_version or 0) + 1),
        )
        lasting = current is None or (current.holder, current.term) != (record.holder, record.term)
        try:
            return record if self._link(record, durable=lasting) else None
        except OSError as error:
            raise NotAvailable(f"the lease cannot be written: {error}", field="lease.path", value=self._path) from error

    def _read(self) -> LeaseRecord | None:
        for _ in range(_READ_ATTEMPTS):
            versions = self._versions()
            if not versions:
                return None
            try:
                text = _text(self._file(versions[-1]))
            except FileNotFoundError:
                continue  # Much has been written since the names were read, and this one was cleared away.
            return _record(text, str(versions[-1]))
        raise FileNotFoundError("the record changes faster than it can be read")

    def _link(self, record: LeaseRecord, *, durable: bool) -> bool:
        """Makes the record the current one; False when another one is."""
        version = int(record.version)
        fields = {"holder": record.holder, "term": record.term, "duration_ms": record.duration_ms}
        try:
            os.symlink(json.dumps(fields, separators=(",", ":")), self._file(version))
        except FileExistsError:
            return False
        versions = self._versions()
        if versions[-1] >= version + VERSIONS_KEPT:
            # This process slept while others wrote so much that its number may have been cleared away.
            self._file(version).unlink(missing_ok=True)
            return False
        if durable:
            self._sync_folder()
        self._clear(versions)
        return True

    def _versions(self) -> list[int]:
        prefix = f"{self._path.name}."
        names = [name.removeprefix(prefix) for name in os.listdir(self._path.parent) if name.startswith(prefix)]
        return sorted(int(name) for name in names if name.isdecimal())

    def _file(self, version: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{version:012d}")

    def _sync_folder(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _clear(self, versions: list[int]) -> None:
        """Removes old versions."""
        for version in versions[:-VERSIONS_KEPT]:
            self._file(version).unlink(missing_ok=True)


def _record(text: str, version: str) -> LeaseRecord:
    """Returns what a text says; ValueError, KeyError, TypeError or RecursionError for what no node writes."""
    fields = json.loads(text)
    holder, term, duration_ms = fields["holder"], fields["term"], fields["duration_ms"]
    if not (holder is None or type(holder) is str):
        raise ValueError(f"holder must be the id of a node or null, not {holder!r}")
    for number in (term, duration_ms):
        if type(number) is not int or not -(2**63) <= number < 2**63:
            raise ValueError(f"term and duration_ms must be whole numbers of 64 bits, not {number!r}")
    return LeaseRecord(holder=holder, term=term, duration_ms=duration_ms, version=version)


def _text(path: Path) -> str:
    """Returns the text of a link, or of the file that versions before links have written."""
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return path.read_text(encoding="utf-8")
