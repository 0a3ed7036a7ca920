"""Reads the data folder of a node, or a copy of one, and changes nothing in it; the node may run meanwhile.

It is a source like any other: nothing it says is believed before it is verified. The log holds the blocks; a torn tail
of a copy taken while the node ran is left out, damage is an error.
"""

from __future__ import annotations

import array
import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

from agentworld_client.source import Tip
from agentworld_core.codec import decode
from agentworld_core.errors import HashMismatch, NotFound
from agentworld_core.ids import check_hash, is_hash
from agentworld_core.ledger.block import block_hash_of
from agentworld_core.messages import BlockBundle, Directory, Genesis
from agentworld_node.ledger_stores import BLOBS, RECORD_LIMIT
from agentworld_node.records import COMMIT
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import BlobNotFound, typed_errors
from agentworld_node.storage.files import LOCAL_FILES
from agentworld_node.storage.wal_segments import SegmentFolder


class FolderSource:
    """A data folder as a source of blocks, directories and blobs."""

    def __init__(self, folder: Path):
        """Reads the whole log once; raises CorruptLog when it is damaged and NotFound when there is none."""
        self._folder = folder
        if not (folder / "log").is_dir():
            raise NotFound("is not the data folder of a node", field="source", value=folder)
        self._log = SegmentFolder(folder / "log", files=LOCAL_FILES)
        self._blobs = FileBlobStore.reading(folder / BLOBS)
        self._commits = array.array("Q")
        with typed_errors("reading the log", folder):
            self._log.scan()
            self._commits.extend(record.sequence for record in self._log.read(after=0) if record.kind == COMMIT)
        self.torn = self._log.torn
        self._next: tuple[int, Iterator[BlockBundle]] = (0, iter(()))

    async def genesis(self) -> Genesis:
        """Returns the genesis document, which the first block names; NotFound for a folder without blocks."""
        first = next(self._from(1), None)
        if first is None:
            raise NotFound("the folder has no block yet", field="source", value=self._folder)
        return decode(Genesis, await self.blob(first.block.prev_block_hash), limit=RECORD_LIMIT)

    async def tip(self) -> Tip | None:
        """Returns the newest committed block."""
        if not self._commits:
            return None
        bundle = next(self._from(len(self._commits)))
        return Tip(bundle.block.height, block_hash_of(bundle.block), bundle.block.state_root)

    async def blocks(self, start: int, *, limit: int = 64) -> tuple[BlockBundle, ...]:
        """Returns consecutive blocks; whoever goes on where the last call ended reads the log only once."""
        height, bundles = self._next
        if height != start:
            bundles = self._from(start)
        return await asyncio.to_thread(self._take, start, bundles, limit)

    async def block(self, block: str | int) -> BlockBundle:
        """Returns the block of a height or hash."""
        text = str(block)
        found = await self._find(lambda bundle: block_hash_of(bundle.block) == text) if is_hash(text) else None
        if text.isdecimal() and len(text) < 20:
            found = next(self._from(int(text)), None)
        if found is None:
            raise NotFound("the folder has no such block", field="block", value=block)
        return found

    async def height_of_action(self, action_id: str) -> int | None:
        """Returns the height of the block whose batch holds the action."""
        check_hash(action_id, field="action_id")
        found = await self._find(lambda bundle: any(item.action_id == action_id for item in bundle.batch.actions))
        if found is None:
            raise NotFound("the folder has no such action", field="action_id", value=action_id)
        return found.block.height

    async def directory(self, epoch: int | None = None) -> Directory:
        """Returns a directory epoch that the genesis or a block carries."""
        found = (await self.genesis()).directory
        for bundle in self._from(1):
            if epoch is not None and found.epoch == epoch:
                break
            found = bundle.batch.directory or found
        if epoch not in (None, found.epoch):
            raise NotFound("there is no such epoch", field="epoch", value=epoch)
        return found

    async def blob(self, content_hash: str) -> bytes:
        """Returns the bytes of a content id."""
        check_hash(content_hash, field="hash")
        try:
            data = self._blobs.peek(content_hash)
        except BlobNotFound:
            raise NotFound("the folder has no such blob", field="hash", value=content_hash) from None
        if data is None:
            raise HashMismatch("the stored bytes are others", field="hash", value=content_hash)
        return data

    async def _find(self, wanted: Callable[[BlockBundle], bool]) -> BlockBundle | None:
        return await asyncio.to_thread(lambda: next(filter(wanted, self._from(1)), None))

    def _take(self, start: int, bundles: Iterator[BlockBundle], limit: int) -> tuple[BlockBundle, ...]:
        found: list[BlockBundle] = []
        for bundle in bundles:
            found.append(bundle)
            if len(found) >= limit:
                break
        self._next = (start + len(found), bundles)
        return tuple(found)

    def _from(self, height: int) -> Iterator[BlockBundle]:
        if not 1 <= height <= len(self._commits):
            return
        with typed_errors("reading the log", self._folder):
            for record in self._log.read(after=self._commits[height - 1] - 1):
                if record.kind == COMMIT:
                    yield decode(BlockBundle, record.payload, limit=RECORD_LIMIT)
