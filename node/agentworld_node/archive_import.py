"""Makes a data folder from an archive: everything is verified and executed again before the folder gets its name.

The work is done in a hidden folder beside the target, which is made durable as a whole and renamed in the end. What an
import that is killed leaves is only that hidden folder, and the next import into the same place begins anew.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from agentworld_client.archive import ArchiveSource
from agentworld_client.verifier import VerificationReport, Verifier
from agentworld_core.errors import InvalidField
from agentworld_core.ledger.block import Execution
from agentworld_core.messages import BlockBundle
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_node.ledger import Ledger
from agentworld_node.storage.errors import FolderLocked, typed_errors
from agentworld_node.storage.files import LOCAL_FILES, UnsyncedFiles, make_folders, sync_tree


async def import_archive(
    archive: Path,
    folder: Path,
    *,
    trusted_genesis: str | None = None,
    sandbox: Sandbox | None = None,
    progress: Callable[[int, int], None] = lambda _done, _goal: None,
) -> VerificationReport:
    """Returns what was proved of the archive, once the folder holds all of it and a node can start from it.

    Raises InvalidField when the folder is not empty, FolderLocked while another import into it runs, ArchiveDamaged or
    VerificationFailed when the archive is wrong, StorageFull when there is no room; then there is no folder.
    """
    target, temporary = _places(folder)
    _clear(temporary)
    try:
        with ArchiveSource(archive) as source:
            verifier = await _fill(source, temporary, trusted_genesis, sandbox, progress)
        with typed_errors("putting the folder in place", folder):
            await asyncio.to_thread(sync_tree, temporary)
            # What was made meanwhile is refused by the system: only an empty folder can be replaced.
            LOCAL_FILES.rename(temporary, target)
            try:
                LOCAL_FILES.sync_folder(target.parent)
            except OSError:
                # Nobody knows whether a crash would leave it, so it must not look as if it were in place.
                LOCAL_FILES.rename(target, temporary)
                raise
    except FolderLocked:
        raise  # it belongs to another import
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return verifier.report()


async def _fill(
    source: ArchiveSource,
    folder: Path,
    trusted_genesis: str | None,
    sandbox: Sandbox | None,
    progress: Callable[[int, int], None],
) -> Verifier:
    genesis = await source.genesis()
    verifier = Verifier(genesis, replay=True, trusted_genesis=trusted_genesis, sandbox=sandbox)
    ledger = Ledger.open(folder, genesis, sandbox=sandbox, files=UnsyncedFiles())
    ledger.waits_for_room = False

    async def take(bundle: BlockBundle, execution: Execution) -> None:
        await ledger.apply(bundle, execution=execution)
        if bundle.block.snapshot_ref is not None:
            await ledger.settle()
        if ledger.failure is not None:
            raise ledger.failure

    try:
        verifier.observe(take)
        await verifier.verify(source, progress=progress)
        source.check_rest(verifier.chain)
        await ledger.settle()
    finally:
        ledger.close()
    return verifier


def _places(folder: Path) -> tuple[Path, Path]:
    """Returns the target and the folder to work in; raises InvalidField unless the target is new or empty."""
    target = folder.absolute()
    try:
        used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InvalidField(f"cannot be read: {error.strerror}", field="data", value=folder) from error
    if used:
        raise InvalidField("is not an empty folder", field="data", value=folder, remedy="give one that is new or empty")
    return target, target.with_name(f".{target.name}.import")


def _clear(temporary: Path) -> None:
    """Removes what a killed import has left, unless that import still runs."""
    if not temporary.exists():
        return
    with typed_errors("removing an interrupted import", temporary):
        make_folders(LOCAL_FILES, temporary / "log")
        try:
            LOCAL_FILES.lock(temporary / "log" / "lock").close()
        except BlockingIOError as error:
            raise FolderLocked("another import into this folder runs", field="data", value=temporary) from error
        shutil.rmtree(temporary)
