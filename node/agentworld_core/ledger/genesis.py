"""Where a chain begins: the genesis document, its hash, and the state and directory that follow from it alone."""

from __future__ import annotations

from collections.abc import Mapping

from agentworld_core.codec import encode
from agentworld_core.errors import InvalidField, WrongWorld
from agentworld_core.hashing import content_id
from agentworld_core.ids import check_id
from agentworld_core.ledger.chain import ChainState, ScheduledDirectory
from agentworld_core.ledger.segments import MAX_SEGMENTS
from agentworld_core.membership.directory import check_first_directory, check_threshold, directory_hash
from agentworld_core.messages import MAX_ACTIONS_PER_BATCH, Genesis, Parameters, Round
from agentworld_core.world.modules.beginning import check_modules, put_modules
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_core.world.state import (
    META_KEY,
    WORLD_KEY,
    DirectoryRecord,
    Draft,
    Meta,
    Record,
    WorldRecord,
    directory_key,
    encode_record,
)
from agentworld_core.world.tree import Tree

FIRST_HEIGHT = 1
MAX_BATCH_BYTES = 16 * 1024 * 1024
_EVENTS_OF_A_STEP = 3


def genesis_hash(genesis: Genesis) -> str:
    """Returns the content id of the signed genesis document: the parent of block 1."""
    return content_id(encode(genesis))


def check_genesis(genesis: Genesis) -> None:
    """Raises a typed error unless the document can begin a world: parameters in range, directory and modules right.

    Document and directory must be signed. The code of modules is judged as far as that goes without a sandbox.
    """
    check_id(genesis.world_id, field="world_id")
    if genesis.directory.world_id != genesis.world_id:
        raise WrongWorld("is another world", field="directory.world_id", value=genesis.directory.world_id)
    check_parameters(genesis.parameters)
    check_first_directory(genesis.directory)
    check_threshold(genesis, genesis.directory)
    check_modules(genesis.modules)


def check_parameters(parameters: Parameters) -> None:
    """Raises InvalidField unless blocks under these parameters fit the messages that carry them."""
    ranges: Mapping[str, tuple[int, int]] = {
        "max_batch_actions": (1, MAX_ACTIONS_PER_BATCH),
        "max_batch_bytes": (1024, MAX_BATCH_BYTES),
        "journal_events_per_segment": (1, 2**32),
        "snapshot_interval": (1, 2**32),
    }
    for name, (low, high) in ranges.items():
        value = getattr(parameters, name)
        if not low <= value <= high:
            raise InvalidField(f"must be {low} to {high}", field=f"parameters.{name}", value=value)
    segments = -(-(parameters.max_batch_actions + _EVENTS_OF_A_STEP) // parameters.journal_events_per_segment)
    if segments > MAX_SEGMENTS:
        raise InvalidField(
            f"a full block would have {segments} segments, at most {MAX_SEGMENTS} fit",
            field="parameters.journal_events_per_segment",
            value=parameters.journal_events_per_segment,
        )


def genesis_state(genesis: Genesis) -> Tree:
    """Returns the state before block 1, with the modules that the world begins with in force."""
    first = genesis.directory
    records: Mapping[bytes, Record] = {
        META_KEY: Meta(tick=0, time_ms=genesis.created_at_ms, next_event=1),
        WORLD_KEY: WorldRecord(genesis.world_id, genesis_hash(genesis)),
        directory_key(first.epoch): DirectoryRecord(directory_hash(first), FIRST_HEIGHT),
    }
    tree = Tree.of({key: encode_record(record) for key, record in records.items()})
    if not genesis.modules:
        return tree
    draft = Draft(tree)
    put_modules(draft, genesis.modules)
    return tree.update(draft.changes())


def chain_from_genesis(genesis: Genesis, *, sandbox: Sandbox | None = None) -> ChainState:
    """Returns the chain of height 0; raises a typed error for a document that fails ``check_genesis``.

    ``sandbox`` runs the modules that the world has or may come to have; without one, such blocks cannot be executed.
    """
    check_genesis(genesis)
    tree = genesis_state(genesis)
    return ChainState(
        world_id=genesis.world_id,
        genesis_hash=genesis_hash(genesis),
        parameters=genesis.parameters,
        height=0,
        block_hash=genesis_hash(genesis),
        round=Round(0, 0),
        time_ms=genesis.created_at_ms,
        state_root=tree.root,
        tree=tree,
        snapshot_tree=Tree.empty(),
        directories=(ScheduledDirectory(genesis.directory, directory_hash(genesis.directory), FIRST_HEIGHT),),
        sandbox=sandbox,
    )
