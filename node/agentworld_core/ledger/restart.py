"""A chain from its last snapshot instead of from genesis: what is restored must prove itself like what is replayed."""

from __future__ import annotations

from collections.abc import Sequence

from agentworld_core.errors import StateMismatch
from agentworld_core.ledger.block import block_hash_of
from agentworld_core.ledger.chain import ChainState, directories_from_state
from agentworld_core.ledger.genesis import check_genesis, genesis_hash
from agentworld_core.ledger.snapshot import Fetch, load_manifest, restore
from agentworld_core.ledger.validate import check_committed
from agentworld_core.membership.directory import directory_hash
from agentworld_core.messages import BlockBundle, Directory, Genesis, Round, SnapshotManifest, WorldBlock
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_core.world.state import WORLD_KEY, WorldRecord, read, read_meta
from agentworld_core.world.tree import Tree


def chain_from_snapshot(
    genesis: Genesis,
    bundle: BlockBundle,
    *,
    directories: Sequence[Directory],
    fetch: Fetch,
    sandbox: Sandbox | None = None,
) -> ChainState:
    """Returns the chain with the bundle's block, which has a snapshot, as its head; the same as replay would give.

    ``directories`` are the documents from epoch 1 to at least the last one scheduled at that height; ``fetch`` gives
    blobs by content id; ``sandbox`` is that of ``chain_from_genesis``. Everything is checked against the genesis
    document: the state names it and the directories, these prove each other by their governance signatures, and the
    one in force at the height proves the block by its certificate. Raises typed errors; what ``fetch`` raises passes
    through.
    """
    check_genesis(genesis)
    block = bundle.block
    if block.snapshot_ref is None:
        raise StateMismatch("the block has no snapshot", field="snapshot_ref", value=block.height)
    manifest = load_manifest(block.snapshot_ref, fetch)
    _check_manifest(manifest, block)
    tree = restore(manifest, fetch)
    _check_state(tree, block, genesis)
    if not directories or directory_hash(directories[0]) != directory_hash(genesis.directory):
        raise StateMismatch("the first directory is not that of the genesis", field="directories", value=1)
    chain = ChainState(
        world_id=genesis.world_id,
        genesis_hash=genesis_hash(genesis),
        parameters=genesis.parameters,
        height=block.height,
        block_hash=block_hash_of(block),
        round=Round(block.term, block.attempt),
        time_ms=block.timestamp_ms,
        state_root=tree.root,
        tree=tree,
        snapshot_tree=tree,
        directories=directories_from_state(tree, directories),
        sandbox=sandbox,
    )
    check_committed(block, bundle.certificate, chain.directory_at(block.height))
    return chain


def _check_manifest(manifest: SnapshotManifest, block: WorldBlock) -> None:
    for field, stated, expected in (
        ("world_id", manifest.world_id, block.world_id),
        ("epoch", manifest.epoch, block.height),
        ("state_root", manifest.state_root, block.state_root),
    ):
        if stated != expected:
            says = f"height {block.height}: the block says {expected}"
            raise StateMismatch(says, field=f"manifest.{field}", value=stated)


def _check_state(tree: Tree, block: WorldBlock, genesis: Genesis) -> None:
    if read(tree, WORLD_KEY, WorldRecord) != WorldRecord(genesis.world_id, genesis_hash(genesis)):
        raise StateMismatch("the state is not of this world", field="genesis", value=genesis_hash(genesis))
    meta = read_meta(tree)
    if (meta.tick, meta.time_ms) != (block.tick, block.timestamp_ms):
        raise StateMismatch("the state is of another step", field="block.tick", value=block.tick)
