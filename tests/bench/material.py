"""What several benchmarks measure with: signed actions, and a chain with a state of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from agentworld_core.consensus.certificates import certificate_of
from agentworld_core.hashing import digest
from agentworld_core.ledger.block import Execution, HeaderInput, block_hash_of, execute
from agentworld_core.ledger.chain import ChainState
from agentworld_core.messages import PRECOMMIT, ActionEnvelope, BlockBundle, Vote
from agentworld_core.ordering.batch import draft_batch
from agentworld_core.signing import Ed25519Signer, sign
from agentworld_core.world.actions import make_action, sign_action
from agentworld_core.world.state import AgentRecord, ObjectRecord, agent_key, encode_record, object_key
from agentworld_core.world.tree import Tree
from agentworld_node.storage.files import LocalFile, LocalFiles
from tests.unit.node.material import WORLD, signer

VALIDATOR = "v0"


def agent_signer(name: str) -> Ed25519Signer:
    """The key that an agent of this name always has."""
    return Ed25519Signer(digest(name.encode()))


def moves(count: int, *, actors: int = 16, first_nonce: int = 1) -> list[ActionEnvelope]:
    """Signed moves of so many registered actors in turn."""
    signers = [agent_signer(f"agent-{number}") for number in range(actors)]
    return [
        sign_action(
            make_action(
                world_id=WORLD,
                actor_id=f"agent-{number % actors}",
                kind="agent.move",
                payload={"to": [number, -number]},
                nonce=first_nonce + number // actors,
                timestamp_ms=1_700_000_000_000 + number,
            ),
            signers[number % actors],
        )
        for number in range(count)
    ]


def state_of(objects: int, *, base: Tree, actors: int = 16) -> Tree:
    """The state with so many objects more, and with the actors of ``moves`` registered."""
    entries: dict[bytes, bytes | None] = {
        object_key(f"thing-{digest(number.to_bytes(8, 'big')).hex()[:16]}"): encode_record(
            ObjectRecord("agent-0", 1, {"colour": "green", "size": number})
        )
        for number in range(objects)
    }
    for number in range(actors):
        name = f"agent-{number}"
        entries[agent_key(name)] = encode_record(AgentRecord(agent_signer(name).public_key, 0, 0))
    return base.update(entries)


def next_block(chain: ChainState, actions: Sequence[ActionEnvelope]) -> tuple[BlockBundle, Execution]:
    """The next block of the one validator, signed and certified, with its execution."""
    own = signer(VALIDATOR)
    at = HeaderInput(
        height=chain.next_height,
        term=0,
        attempt=0,
        proposer_id=VALIDATOR,
        key_id=own.key_id,
        timestamp_ms=chain.time_ms + 1,
    )
    batch = draft_batch(
        chain.world_id,
        actions,
        height=at.height,
        term=at.term,
        proposer_id=VALIDATOR,
        timestamp_ms=at.timestamp_ms,
    )
    batch = sign(batch, own)
    execution = execute(chain, batch, at)
    block = sign(execution.block, own)
    vote = Vote(
        world_id=chain.world_id,
        height=at.height,
        term=0,
        attempt=0,
        phase=PRECOMMIT,
        block_hash=block_hash_of(block),
        directory_epoch=block.directory_epoch,
        validator_id=VALIDATOR,
        key_id="",
        signature=b"",
    )
    return BlockBundle(block=block, batch=batch, certificate=certificate_of([sign(vote, own)])), execution


@contextmanager
def unsynced() -> Iterator[None]:
    """Builds what is only measured later without waiting for the disk."""
    with (
        mock.patch.object(LocalFile, "sync", return_value=None),
        mock.patch.object(LocalFiles, "sync_folder", return_value=None),
    ):
        yield


def populated(chain: ChainState, objects: int) -> ChainState:
    """The chain with actors and so many objects more in its state, as if all had been there at genesis."""
    tree = state_of(objects, base=chain.tree)
    return dataclasses.replace(chain, tree=tree, snapshot_tree=tree)
