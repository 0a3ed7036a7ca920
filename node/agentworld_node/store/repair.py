"""Mends a data folder: from its log, from other replicas, and by executing its blocks again.

The log holds every block a second time, and everything else follows from the blocks; so what a folder has lost of its
own blobs can always be had again while the log is whole. Damaged files are set aside first. Whatever is put in place
hashes to the id that the log asks for, wherever it came from, and is durable before the repair ends.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, InvalidField
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import Execution
from agentworld_core.ledger.snapshot import cut_snapshot
from agentworld_core.messages import BlockBundle, Genesis
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_core.world.tree import Tree
from agentworld_node.ledger_recovery import Recovery
from agentworld_node.ledger_stores import RECORD_LIMIT, ChainStores
from agentworld_node.records import COMMIT
from agentworld_node.storage.blob_store import BlobEntry
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from agentworld_node.store.check import CheckReport, report_of, verify
from agentworld_node.store.folder import DataFolder
from agentworld_node.store.index_repair import fill_index
from agentworld_node.store.inventory import UNREFERENCED, Inventory, Problem
from agentworld_node.store.sources import Source
from agentworld_node.store.survey import Survey, peeked, survey

log = logging.getLogger(__name__)

ROUNDS = 5  # a mended manifest tells which chunks are missing, mended receipts which rows
DERIVED = ("journal", "segment", "receipts", "manifest", "chunk")
_OF_SNAPSHOTS = ("manifest", "chunk")


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What a repair has found and left.

    ``mended`` counts blobs by where they came from, ``log``, ``execution`` or the name of a source, and ``index rows``.
    ``notes`` say why something could not be tried. ``after`` is the check of what is there now.
    """

    before: CheckReport
    after: CheckReport
    mended: dict[str, int]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Returns plain data for JSON."""
        return {
            "mended": self.mended,
            "notes": list(self.notes),
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
        }


async def repair(
    path: Path,
    *,
    genesis: Genesis | None = None,
    sources: Sequence[Source] = (),
    sandbox: Sandbox | None = None,
    files: FileSystem = LOCAL_FILES,
) -> RepairReport:
    """Mends the data folder of a node that does not run, as far as log and sources allow.

    ``genesis`` is needed where the folder has lost its own copy, ``sandbox`` where the world has modules. Raises what
    opening the folder raises, InvalidField for a genesis of another world, and StorageFull or StorageFailed when the
    disk refuses.
    """
    with DataFolder.open(path, files=files) as folder:
        repairer = Repairer(folder, genesis=genesis, sources=sources, sandbox=sandbox)
        reports: list[CheckReport] = []
        for left in reversed(range(ROUNDS)):
            with Inventory() as inventory:
                found = survey(folder, inventory)
                verify(folder.blobs, inventory)
                reports.append(report_of(folder.blobs, inventory, found))
                done = reports[-1].is_whole and not reports[-1].damaged_unreferenced
                if done or left == 0 or not await repairer.round(found, inventory):
                    break
    mended = {name: count for name, count in repairer.mended.items() if count}
    notes = tuple(dict.fromkeys(repairer.notes))
    return RepairReport(before=reports[0], after=reports[-1], mended=mended, notes=notes)


class Repairer:
    """Does one round after the other; ``mended`` and ``notes`` are those of all rounds."""

    def __init__(
        self, folder: DataFolder, *, genesis: Genesis | None, sources: Sequence[Source], sandbox: Sandbox | None
    ):
        self._folder = folder
        self._genesis = genesis
        self._sandbox = sandbox
        self._sources = list(sources)
        self.mended: Counter[str] = Counter()
        self.notes: list[str] = []

    async def round(self, found: Survey, inventory: Inventory) -> bool:
        """Mends what the inventory tells; True when that has changed anything."""
        given = None if self._genesis is None else content_id(encode(self._genesis))
        if given not in (None, found.genesis_hash) and found.genesis_hash:
            raise InvalidField(
                "is of another world", field="--genesis", value=given, remedy=f"give genesis {found.genesis_hash}"
            )
        mended, set_aside = self.mended.total(), 0
        for finding in inventory.findings():
            if finding.problem is Problem.damaged:
                self._folder.blobs.set_aside(finding.blob_hash)
                inventory.gone(finding.blob_hash)
                set_aside += 1
        self._from_log(inventory)
        for source in list(self._sources):
            await self._from_source(source, inventory)
        if found.problem_count or inventory.lacking_heights("certificate"):
            self.mended["index rows"] += fill_index(self._folder, found)
        self._by_execution(found, inventory)
        return self.mended.total() > mended or set_aside > 0

    def _put(self, items: Iterable[tuple[str, bytes]], inventory: Inventory, *, origin: str) -> None:
        """Stores those blobs that are lacking, durably."""
        for blob_hash, data in items:
            if inventory.lacks(blob_hash):
                self._folder.blobs.put_verified(blob_hash, data, durable=True)
                inventory.found([BlobEntry(blob_hash, len(data), 0)])
                self.mended[origin] += 1

    def _from_log(self, inventory: Inventory) -> None:
        if not inventory.lacking_heights("block", "batch", "certificate", "directory"):
            return
        for record in self._folder.wal.records():
            if record.kind == COMMIT:
                bundle = decode(BlockBundle, record.payload, limit=RECORD_LIMIT)
                parts = [encode(bundle.block), encode(bundle.batch), encode(bundle.certificate)]
                if bundle.batch.directory is not None:
                    parts.append(encode(bundle.batch.directory))
                self._put(((content_id(part), part) for part in parts), inventory, origin="log")

    async def _from_source(self, source: Source, inventory: Inventory) -> None:
        for finding in inventory.findings():
            if finding.kind == UNREFERENCED:
                continue
            try:
                data = await source.fetch(finding.blob_hash)
            except AgentWorldError as error:
                self.notes.append(f"{source.name} cannot be asked: {error}")
                self._sources.remove(source)
                return
            if data is None:
                continue
            if content_id(data) != finding.blob_hash:
                self.notes.append(f"{source.name} has other bytes for {finding.blob_hash}")
            else:
                self._put([(finding.blob_hash, data)], inventory, origin=source.name)

    def _by_execution(self, found: Survey, inventory: Inventory) -> None:
        """Executes the blocks again from the newest snapshot below the first gap to the last gap."""
        gaps = inventory.lacking_heights(*DERIVED)
        if not gaps:
            return
        genesis = self._known_genesis(found)
        index = self._folder.index
        if genesis is None or index is None:
            self.notes.append("the genesis document is not in the folder: name it with --genesis")
            return
        cuts = set(inventory.lacking_heights(*_OF_SNAPSHOTS))
        folder = self._folder
        stores = ChainStores(folder.path, folder.wal, folder.blobs, index, empty_index=False)
        log.info("executing blocks %d to %d again", gaps[0], gaps[-1])
        try:
            recovery = Recovery(genesis, stores, sandbox=self._sandbox)
            chain = recovery.start_chain(heights={height for height in found.snapshots if height < gaps[0]})
            for bundle, execution in recovery.replay(chain):
                self._put(execution.blobs.items(), inventory, origin="execution")
                if bundle.block.height in cuts:
                    self._put(_whole_snapshot(execution), inventory, origin="execution")
                if bundle.block.height >= gaps[-1]:
                    return
        except AgentWorldError as error:
            self.notes.append(f"the blocks cannot be executed again: {error}")

    def _known_genesis(self, found: Survey) -> Genesis | None:
        if self._genesis is not None:
            return self._genesis
        try:
            return decode(Genesis, peeked(self._folder, found.genesis_hash), limit=RECORD_LIMIT)
        except AgentWorldError:
            return None


def _whole_snapshot(execution: Execution) -> Iterable[tuple[str, bytes]]:
    """Returns all blobs of the snapshot of a state, also those that an earlier one had already."""
    block = execution.block
    cut = cut_snapshot(execution.tree, world_id=block.world_id, height=block.height, since=Tree.empty())
    return cut.blobs.items()
