"""An archive as a source of blocks, blobs and directories; nothing it holds is believed before it is verified.

Opening one looks at every entry's header and reads only the small documents; blocks are read when they are asked for,
each together with its journal and receipts, which must be those that the block names.
"""

from __future__ import annotations

import array
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agentworld_client.archive_file import ArchiveDamaged, ArchiveEntries
from agentworld_client.source import Tip
from agentworld_core.errors import AgentWorldError, HashMismatch, InvalidField, NotFound
from agentworld_core.hashing import content_id
from agentworld_core.ids import check_hash, is_hash
from agentworld_core.ledger.archive import (
    FORMAT,
    GENESIS_NAME,
    HEADER_NAME,
    MANIFEST_NAME,
    ArchiveHeader,
    block_name,
    chunk_name,
    directory_name,
    segment_name,
)
from agentworld_core.ledger.block import block_hash_of
from agentworld_core.ledger.chain import ChainLinks
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.ledger.restart import chain_from_snapshot
from agentworld_core.ledger.segments import SEGMENT_LIMIT, event_root_of, read_events
from agentworld_core.ledger.snapshot import CHUNK_LIMIT, MANIFEST_LIMIT, load_manifest
from agentworld_core.messages import BlockBundle, Directory, Genesis

DOCUMENT_LIMIT = 4 * 1024 * 1024
BLOCK_LIMIT = 16 * 1024 * 1024
RECEIPTS_LIMIT = 64 * 1024 * 1024
BATCH_BYTES = 16 * 1024 * 1024


class ArchiveSource:
    """An open archive; use it as a context manager. Raises ArchiveDamaged wherever it is not what it must be."""

    def __init__(self, path: Path):
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise InvalidField(f"cannot be read: {error.strerror}", field="archive", value=path) from error
        self._offsets = array.array("Q")
        self._near: dict[str, bytes] = {}
        self._snapshot: dict[str, bytes] | None = None
        self._snapshot_offset = 0
        try:
            self._read_frame()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ArchiveSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    async def genesis(self) -> Genesis:
        """Returns the genesis document."""
        return self._genesis

    async def tip(self) -> Tip | None:
        """Returns the height that the archive was made for."""
        header = self.header
        return Tip(header.height, header.block_hash, header.state_root) if header.height else None

    async def blocks(self, start: int, *, limit: int = 64) -> tuple[BlockBundle, ...]:
        """Returns consecutive blocks, each with a journal and receipts that are those it names."""
        return await asyncio.to_thread(self._read_blocks, start, limit)

    async def block(self, block: str | int) -> BlockBundle:
        """Returns the block of a height or hash."""
        text = str(block)
        if text.isdecimal() and len(text) < 20 and 1 <= int(text) <= self.header.height:
            return (await self.blocks(int(text), limit=1))[0]
        if is_hash(text):
            for height in range(1, self.header.height + 1):
                bundle, blobs = self._read_block(height)
                if block_hash_of(bundle.block) == text:
                    self._near = blobs
                    return bundle
        raise NotFound("the archive has no such block", field="block", value=block)

    async def height_of_action(self, action_id: str) -> int | None:
        """Returns the height of the block whose batch holds the action."""
        check_hash(action_id, field="action_id")
        for height in range(1, self.header.height + 1):
            bundle, _ = self._read_block(height)
            if any(action.action_id == action_id for action in bundle.batch.actions):
                return height
        raise NotFound("the archive has no such action", field="action_id", value=action_id)

    async def directory(self, epoch: int | None = None) -> Directory:
        """Returns a directory epoch, the latest by default."""
        number = len(self._directories) if epoch is None else epoch
        if not 1 <= number <= len(self._directories):
            raise NotFound("the archive has no such epoch", field="epoch", value=epoch)
        return self._directories[number - 1]

    async def blob(self, content_hash: str) -> bytes:
        """Returns the bytes of a content id; at once for those of blocks that were just read and of the snapshot."""
        check_hash(content_hash, field="hash")
        found = self._near.get(content_hash) or self._snapshot_blobs().get(content_hash)
        for height in () if found is not None else range(1, self.header.height + 1):
            _, blobs = self._read_block(height)
            if content_hash in blobs:
                self._near, found = blobs, blobs[content_hash]
                break
        if found is None:
            raise NotFound("the archive has no such blob", field="hash", value=content_hash)
        return found

    def check_rest(self, chain: ChainLinks) -> None:
        """Raises unless header, directories and snapshot are those of the verified chain; only at its whole height."""
        header = self.header
        if chain.height != header.height:
            return
        if (header.block_hash, header.state_root) != (chain.block_hash, chain.state_root):
            raise ArchiveDamaged("names another block than the last one", entry=HEADER_NAME, height=header.height)
        if [entry.directory for entry in chain.directories] != self._directories:
            raise ArchiveDamaged("are not the directories of its blocks", entry="directories")
        height = header.snapshot_height
        if height == 0:
            return
        bundle, _ = self._read_block(height)
        try:
            restored = chain_from_snapshot(
                self._genesis, bundle, directories=self._directories, fetch=self._snapshot_blob
            )
        except AgentWorldError as error:
            raise ArchiveDamaged(str(error), entry="snapshot", height=height, cause_code=error.code) from error
        if restored.state_root != bundle.block.state_root:
            raise ArchiveDamaged("is another state than the block's", entry="snapshot", height=height)

    def _read_frame(self) -> None:
        """Reads all but the blocks, and notes where these begin."""
        entries = ArchiveEntries(self._file)
        self.header = entries.message(ArchiveHeader, HEADER_NAME, limit=DOCUMENT_LIMIT)
        if self.header.format != FORMAT:
            raise ArchiveDamaged(f"has format {self.header.format}, {FORMAT} is known", entry=HEADER_NAME)
        self._genesis = entries.message(Genesis, GENESIS_NAME, limit=DOCUMENT_LIMIT)
        found = genesis_hash(self._genesis)
        if (found, self._genesis.world_id) != (self.header.genesis_hash, self.header.world_id):
            raise ArchiveDamaged("is not the one that the header names", entry=GENESIS_NAME, cause_code="hash_mismatch")
        self._find_blocks(entries)
        self._directories = list(self._read_directories(entries))
        expected = self.header.height - self.header.height % self._genesis.parameters.snapshot_interval
        if self.header.snapshot_height != expected:
            raise ArchiveDamaged(f"names no snapshot of height {expected}", entry=HEADER_NAME)
        if expected:
            self._snapshot_offset = entries.offset
            while (name := entries.skip()) is not None:
                if not name.startswith("snapshot/"):
                    raise ArchiveDamaged("does not belong here", entry=name)
        elif entries.peek() is not None:
            raise ArchiveDamaged("is left over", entry=(entries.peek() or ("",))[0])

    def _find_blocks(self, entries: ArchiveEntries) -> None:
        while True:
            offset = entries.offset
            found = entries.peek()
            if found is None or not found[0].startswith("blocks/"):
                break
            if found[0] == block_name(len(self._offsets) + 1):
                self._offsets.append(offset)
            elif not self._offsets or not found[0].startswith(block_name(len(self._offsets), "")[: -len(".cbor")]):
                raise ArchiveDamaged("is out of order", entry=found[0], height=len(self._offsets))
            entries.skip()
        if len(self._offsets) != self.header.height:
            says = f"{len(self._offsets)} blocks are there, the header says {self.header.height}"
            raise ArchiveDamaged(says, entry="blocks", height=len(self._offsets) + 1)
        self._blocks_end = entries.offset

    def _read_directories(self, entries: ArchiveEntries) -> Iterator[Directory]:
        epoch = 1
        while (found := entries.peek()) is not None and found[0].startswith("directories/"):
            yield entries.message(Directory, directory_name(epoch), limit=DOCUMENT_LIMIT)
            epoch += 1

    def _read_blocks(self, start: int, limit: int) -> tuple[BlockBundle, ...]:
        found: list[BlockBundle] = []
        near: dict[str, bytes] = {}
        size = 0
        for height in range(max(start, 1), min(start + limit, self.header.height + 1)):
            bundle, blobs = self._read_block(height)
            found.append(bundle)
            near.update(blobs)
            size += sum(map(len, blobs.values()))
            if size > BATCH_BYTES:
                break
        self._near = near
        return tuple(found)

    def _read_block(self, height: int) -> tuple[BlockBundle, dict[str, bytes]]:
        """Returns a block and what it names, by content id."""
        entries = ArchiveEntries(self._file)
        entries.offset = self._offsets[height - 1]
        bundle = entries.message(BlockBundle, block_name(height), limit=BLOCK_LIMIT, height=height)
        block = bundle.block
        blobs: dict[str, bytes] = {}

        def take(name: str, expected: str, limit: int) -> None:
            data = entries.take(name, limit=limit, height=height)
            if content_id(data) != expected:
                says = f"is not what the block names: {expected}"
                raise ArchiveDamaged(says, entry=name, height=height, cause_code=HashMismatch.code)
            blobs[expected] = data

        take(block_name(height, "journal"), block.journal_ref, DOCUMENT_LIMIT)
        for number, segment in enumerate(block.segments):
            take(segment_name(height, number), segment.content_hash, SEGMENT_LIMIT)
        take(block_name(height, "receipts"), block.receipts_root, RECEIPTS_LIMIT)
        end = self._offsets[height] if height < len(self._offsets) else self._blocks_end
        if entries.offset != end:
            raise ArchiveDamaged("more entries than the block names", entry=block_name(height), height=height)
        try:
            wrong = event_root_of(read_events(block.segments, blobs.__getitem__)) != block.event_root
        except AgentWorldError as error:
            entry = segment_name(height, 0)
            raise ArchiveDamaged(str(error), entry=entry, height=height, cause_code=error.code) from error
        if wrong:
            raise ArchiveDamaged("the events are not those of the block", entry=block_name(height), height=height)
        return bundle, blobs

    def _snapshot_blob(self, content_hash: str) -> bytes:
        found = self._snapshot_blobs().get(content_hash)
        if found is None:
            raise NotFound("is not the snapshot of the block", field="snapshot", value=content_hash)
        return found

    def _snapshot_blobs(self) -> dict[str, bytes]:
        """Returns the manifest and the chunks, which together are as large as the state; they are kept once read."""
        if self._snapshot is None:
            self._snapshot = self._read_snapshot() if self._snapshot_offset else {}
        return self._snapshot

    def _read_snapshot(self) -> dict[str, bytes]:
        height = self.header.snapshot_height
        entries = ArchiveEntries(self._file)
        entries.offset = self._snapshot_offset
        data = entries.take(MANIFEST_NAME, limit=MANIFEST_LIMIT, height=height)
        reference = content_id(data)
        try:
            manifest = load_manifest(reference, lambda _: data)
        except AgentWorldError as error:
            raise ArchiveDamaged(str(error), entry=MANIFEST_NAME, height=height, cause_code=error.code) from error
        blobs = {reference: data}
        for number, chunk in enumerate(manifest.chunks):
            content = entries.take(chunk_name(number), limit=CHUNK_LIMIT, height=height)
            if content_id(content) != chunk.content_hash:
                says = f"is not what the manifest names: {chunk.content_hash}"
                raise ArchiveDamaged(says, entry=chunk_name(number), height=height, cause_code=HashMismatch.code)
            blobs[chunk.content_hash] = content
        if entries.peek() is not None:
            raise ArchiveDamaged("is left over", entry=(entries.peek() or ("",))[0], height=height)
        return blobs
