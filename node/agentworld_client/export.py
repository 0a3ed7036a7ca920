"""Writes a world up to a height into one archive: while it replays it, so that only what is right is ever exported.

Journals, receipts and the snapshot are written as execution gives them, which is what the blocks name; the source is
asked for nothing but its genesis and its blocks, and need not hold anything else any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentworld_client.archive_file import ArchiveWriter, new_file
from agentworld_client.source import Tip, WorldSource
from agentworld_client.verifier import Verifier
from agentworld_core.codec import encode
from agentworld_core.errors import NotAvailable
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
from agentworld_core.ledger.block import Execution, block_hash_of
from agentworld_core.ledger.snapshot import cut_snapshot
from agentworld_core.messages import BlockBundle
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_core.world.tree import Tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written: an archive of these bytes, whose content id is ``archive_hash``."""

    file: Path
    archive_hash: str
    size_bytes: int
    world_id: str
    genesis_hash: str
    height: int
    block_hash: str
    state_root: str
    snapshot_height: int

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**dataclasses.asdict(self), "file": str(self.file)}


async def export(
    source: WorldSource,
    path: Path,
    *,
    height: int | None = None,
    trusted_genesis: str | None = None,
    sandbox: Sandbox | None = None,
    progress: Callable[[int, int], None] = lambda _done, _goal: None,
) -> ExportReport:
    """Writes the archive of a height, default the newest, and returns what it is; on any error there is no file.

    The same blocks and certificates give the same bytes. ``sandbox`` is that of a verifier. Raises what
    ``Verifier.verify`` raises, and InvalidField when the file exists already or cannot be written.
    """
    genesis = await source.genesis()
    with new_file(path) as file:
        writer = ArchiveWriter(file)
        exporter = _Exporter(writer)
        verifier = Verifier(genesis, replay=True, trusted_genesis=trusted_genesis, sandbox=sandbox)
        verifier.observe(exporter.take)
        tip = await _tip(source, height)
        at = 0 if tip is None else tip.height
        header = ArchiveHeader(
            format=FORMAT,
            world_id=genesis.world_id,
            genesis_hash=verifier.genesis_hash,
            height=at,
            block_hash=verifier.chain.block_hash if tip is None else tip.block_hash,
            state_root=verifier.chain.state_root if tip is None else tip.state_root,
            snapshot_height=at - at % genesis.parameters.snapshot_interval,
        )
        exporter.snapshot_height = header.snapshot_height
        writer.add(HEADER_NAME, encode(header))
        writer.add(GENESIS_NAME, encode(genesis))
        await verifier.verify(source, up_to=at, progress=progress)
        verifier.check_tip(Tip(at, header.block_hash, header.state_root))
        for entry in verifier.chain.directories:
            writer.add(directory_name(entry.directory.epoch), encode(entry.directory))
        exporter.write_snapshot(genesis.world_id)
        archive_hash = writer.finish()
    return ExportReport(
        file=path,
        archive_hash=archive_hash,
        size_bytes=writer.size,
        **{
            name: getattr(header, name)
            for name in ("world_id", "genesis_hash", "height", "block_hash", "state_root", "snapshot_height")
        },
    )


async def _tip(source: WorldSource, height: int | None) -> Tip | None:
    """Returns what the source says of the height; it is proved while the blocks are replayed."""
    tip = await source.tip()
    newest = 0 if tip is None else tip.height
    if height is None or height == newest:
        return tip
    if height > newest:
        says = f"the newest height is {newest}"
        raise NotAvailable(says, field="height", value=height, remedy="try again later")
    if height == 0:
        return None
    block = (await source.block(height)).block
    return Tip(height, block_hash_of(block), block.state_root)


class _Exporter:
    """Writes each block as it is executed, and keeps the state that the snapshot is cut from."""

    def __init__(self, writer: ArchiveWriter):
        self._writer = writer
        self._tree = Tree.empty()
        self.snapshot_height = 0

    async def take(self, bundle: BlockBundle, execution: Execution) -> None:
        block = bundle.block
        height, blobs = block.height, execution.blobs
        self._writer.add(block_name(height), encode(bundle))
        self._writer.add(block_name(height, "journal"), blobs[block.journal_ref])
        for number, segment in enumerate(block.segments):
            self._writer.add(segment_name(height, number), blobs[segment.content_hash])
        self._writer.add(block_name(height, "receipts"), blobs[block.receipts_root])
        if height == self.snapshot_height:
            self._tree = execution.tree

    def write_snapshot(self, world_id: str) -> None:
        if self.snapshot_height == 0:
            return
        cut = cut_snapshot(self._tree, world_id=world_id, height=self.snapshot_height, since=Tree.empty())
        self._writer.add(MANIFEST_NAME, cut.blobs[cut.snapshot_ref])
        for number, chunk in enumerate(cut.manifest.chunks):
            self._writer.add(chunk_name(number), cut.blobs[chunk.content_hash])
