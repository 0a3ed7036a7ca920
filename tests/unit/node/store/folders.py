"""A data folder of a node that has stopped, for tests of what looks after it."""

from __future__ import annotations

from pathlib import Path

from agentworld_core.codec import encode
from agentworld_core.hashing import content_id
from agentworld_core.ledger.snapshot import load_manifest
from agentworld_core.membership.builder import Changes
from agentworld_node.ledger import Ledger
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.files import LOCAL_FILES, FileSystem
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.membership.worlds import successor
from tests.unit.core.world.agents import action, register
from tests.unit.storage import blob_files


def long_chain(blocks: int = 13) -> Chain:
    """Blocks of an agent that moves; snapshots at every third height, a directory in the second block."""
    chain = Chain()
    chain.commit(register("ada"), register("bob"))
    chain.commit(
        action("ada", "agent.move", {"to": [1, 0]}, 1), directory=successor(chain.genesis.directory, Changes())
    )
    for nonce in range(2, blocks):
        chain.commit(action("ada", "agent.move", {"to": [nonce, 0]}, nonce))
    return chain


async def fill(
    folder: Path, chain: Chain, *, retain: int = 10, upto: int | None = None, files: FileSystem = LOCAL_FILES
) -> None:
    """Lets a ledger commit the blocks of the chain in the folder, and closes it."""
    ledger = Ledger.open(folder, chain.genesis, files=files)
    ledger.retain_snapshots = retain
    for bundle in chain.bundles[ledger.height : upto]:
        await ledger.apply(bundle)
        await ledger.settle()
    ledger.close()


def needed_blobs(chain: Chain, height: int) -> dict[str, str]:
    """The blobs of a block by kind."""
    bundle = chain.bundles[height - 1]
    block = bundle.block
    found = {
        "block": content_id(encode(block)),
        "batch": content_id(encode(bundle.batch)),
        "certificate": content_id(encode(bundle.certificate)),
        "journal": block.journal_ref,
        "segment": block.segments[0].content_hash,
        "receipts": block.receipts_root,
    }
    if bundle.batch.directory is not None:
        found["directory"] = content_id(encode(bundle.batch.directory))
    if block.snapshot_ref is not None:
        found["manifest"] = block.snapshot_ref
        found["chunk"] = load_manifest(block.snapshot_ref, chain.blobs.__getitem__).chunks[0].content_hash
    return found


def blobs_of(folder: Path) -> Path:
    """The blobs of a data folder."""
    return folder / "blobs"


def flip_blob(folder: Path, blob_hash: str) -> None:
    """Flips one bit of a blob of a data folder."""
    blob_files.flip_blob(blobs_of(folder), blob_hash)


def lose_blob(folder: Path, blob_hash: str) -> None:
    """Makes a data folder that nobody has open forget a blob."""
    blob_files.lose_blob(blobs_of(folder), blob_hash)


def flip(path: Path) -> None:
    """Flips one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def contents(folder: Path) -> dict[str, bytes]:
    """Every whole blob of a data folder."""
    store = FileBlobStore.reading(folder / "blobs")
    return {name: data for name in store.iterate() if (data := store.peek(name)) is not None}


def files_below(folder: Path) -> dict[Path, bytes]:
    """Every file in a folder with what it holds."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
