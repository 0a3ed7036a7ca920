"""Verifies a data folder: every blob by its hash, and that everything is there which its log says has to be."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path

from agentworld_node.ledger_stores import BLOBS, POOL
from agentworld_node.pool_file import PoolDamaged, read_pool
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import BlobNotFound, CorruptLog
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from agentworld_node.store.folder import DataFolder
from agentworld_node.store.inventory import UNREFERENCED, Amount, Finding, Inventory, Problem
from agentworld_node.store.survey import Survey, survey

KEPT_FINDINGS = 1_000


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check has found: up to ``height``, of which everything up to ``settled`` must be there.

    ``damaged`` and ``missing`` count blobs that are needed, ``damaged_unreferenced`` those that are not; ``findings``
    are the first of all these. ``unsettled`` counts those of blocks after the newest snapshot, which the next start of
    the node writes again.
    ``log_problem`` is not empty when the log is damaged; then nothing is known about what is needed.
    ``votes_problem`` is not empty when the log of votes is damaged or gone; then the node does not start. ``waiting``
    counts the actions that a clean stop has kept for the next start; ``pool_problem`` says why their file is no use:
    the next start sets it aside and goes on without it.
    """

    height: int
    settled: int
    snapshots: tuple[int, ...]
    stored: Amount
    unreferenced: Amount
    quarantined: Amount
    damaged: int
    missing: int
    damaged_unreferenced: int
    unsettled: int
    findings: tuple[Finding, ...]
    index_problems: tuple[str, ...]
    index_problem_count: int
    log_problem: str = ""
    votes_problem: str = ""
    waiting: int = 0
    pool_problem: str = ""

    @property
    def is_whole(self) -> bool:
        """True when nothing that is needed is wrong, but for what the next start of the node mends."""
        return not (self.is_mendable or self.log_problem or self.votes_problem)

    @property
    def is_mendable(self) -> bool:
        """True when something is wrong that a repair may mend, unless the log is damaged."""
        return bool(self.damaged or self.missing or self.index_problem_count)

    def as_dict(self) -> dict[str, object]:
        """Returns plain data for JSON."""
        return {
            "whole": self.is_whole,
            "height": self.height,
            "settled": self.settled,
            "snapshots": list(self.snapshots),
            "stored": self.stored.as_dict(),
            "unreferenced": self.unreferenced.as_dict(),
            "quarantined": self.quarantined.as_dict(),
            "damaged": self.damaged,
            "missing": self.missing,
            "damaged_unreferenced": self.damaged_unreferenced,
            "unsettled": self.unsettled,
            "findings": [finding.as_dict() for finding in self.findings],
            "index_problems": list(self.index_problems),
            "index_problem_count": self.index_problem_count,
            "log_problem": self.log_problem,
            "votes_problem": self.votes_problem,
            "waiting": self.waiting,
            "pool_problem": self.pool_problem,
        }


def check(path: Path, *, files: FileSystem = LOCAL_FILES) -> CheckReport:
    """Verifies the data folder of a node that does not run, and changes nothing in it.

    Raises what opening the folder raises, but for a damaged log, which the report tells.
    """
    with Inventory() as inventory:
        try:
            folder = DataFolder.open(path, files=files)
        except CorruptLog as error:
            blobs = FileBlobStore.open(path / BLOBS, files=files)
            verify(blobs, inventory)
            report = report_of(blobs, inventory, Survey(), log_problem=str(error))
            return with_pool(report, path, files=files)
        with folder:
            found = survey(folder, inventory)
            verify(folder.blobs, inventory)
            return with_pool(report_of(folder.blobs, inventory, found), path, files=files)


def with_pool(report: CheckReport, folder: Path, *, files: FileSystem) -> CheckReport:
    """Returns the report with what the file of waiting actions holds, or what is wrong with it."""
    try:
        found = read_pool(folder / POOL, files=files)
    except (PoolDamaged, OSError) as error:
        return dataclasses.replace(report, pool_problem=str(error))
    return report if found is None else dataclasses.replace(report, waiting=len(found[1]))


def verify(blobs: FileBlobStore, inventory: Inventory) -> None:
    """Notes in the inventory which blobs are stored, and which of them are damaged."""
    inventory.found(blobs.entries())
    for blob_hash in inventory.stored():
        try:
            damaged = blobs.peek(blob_hash) is None
        except BlobNotFound:
            inventory.gone(blob_hash)
            continue
        if damaged:
            inventory.judge(blob_hash, damaged=True)


def is_settled(finding: Finding, found: Survey) -> bool:
    """True unless the next start of the node writes the blob again in any case."""
    return finding.kind == UNREFERENCED or finding.height <= found.settled


def report_of(blobs: FileBlobStore, inventory: Inventory, found: Survey, *, log_problem: str = "") -> CheckReport:
    """Returns what survey and verification have put into the inventory."""
    counts = {Problem.damaged: 0, Problem.missing: 0}
    unsettled = unreferenced = 0
    for finding in inventory.findings():
        if finding.kind == UNREFERENCED and not log_problem:
            unreferenced += 1
        elif is_settled(finding, found):
            counts[finding.problem] += 1
        else:
            unsettled += 1
    settled = (finding for finding in inventory.findings() if is_settled(finding, found))
    aside = blobs.quarantine()
    return CheckReport(
        height=found.height,
        settled=found.settled,
        snapshots=tuple(found.snapshots),
        stored=inventory.amount(),
        unreferenced=Amount() if log_problem else inventory.amount(unreferenced=True),
        quarantined=Amount(len(aside), sum(aside.values())),
        damaged=counts[Problem.damaged],
        missing=counts[Problem.missing],
        damaged_unreferenced=unreferenced,
        unsettled=unsettled,
        findings=tuple(itertools.islice(settled, KEPT_FINDINGS)),
        index_problems=tuple(found.problems),
        index_problem_count=found.problem_count,
        log_problem=log_problem,
        votes_problem=found.votes_problem,
    )
