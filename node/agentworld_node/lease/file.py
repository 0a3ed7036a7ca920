"""The writer lease of one machine: a JSON file, changed under an exclusive lock and replaced whole."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentworld_core.errors import NotAvailable
from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite


class FileLeaseStore:
    """Keeps the lease in a file that all nodes of one machine share."""

    def __init__(self, path: Path):
        self._path = path

    async def read(self) -> LeaseRecord | None:
        """Returns the record, None before the first write; NotAvailable when the file cannot be read."""
        return await asyncio.to_thread(self._read)

    async def write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        """Writes the record if its version is still the expected one; durable when it returns."""
        return await asyncio.to_thread(self._write, wanted)

    def _read(self) -> LeaseRecord | None:
        try:
            fields = json.loads(self._path.read_bytes())
            return LeaseRecord(
                holder=fields["holder"],
                term=int(fields["term"]),
                duration_ms=int(fields["duration_ms"]),
                version=str(fields["version"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotAvailable(
                f"the lease file cannot be read: {error}", field=str(self._path), remedy="restore or remove it"
            ) from error

    def _write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        with self._locked():
            current = self._read()
            version = None if current is None else current.version
            if version != wanted.expected_version:
                return None
            # A term that is lower than the stored one would undo the fence, whoever asks for it.
            if current is not None and wanted.term < current.term:
                return None
            record = LeaseRecord(
                holder=wanted.holder,
                term=wanted.term,
                duration_ms=wanted.duration_ms,
                version=str(int(version or 0) + 1),
            )
            self._replace(record)
            return record

    def _replace(self, record: LeaseRecord) -> None:
        fields = {
            "holder": record.holder,
            "term": record.term,
            "duration_ms": record.duration_ms,
            "version": record.version,
        }
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            with temporary.open("x") as file:
                json.dump(fields, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError as error:
            raise NotAvailable(f"the lease file cannot be written: {error}", field=str(self._path)) from error
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise NotAvailable(f"the lease file cannot be locked: {error}", field=str(self._path)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
