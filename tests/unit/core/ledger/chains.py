"""Small committed chains for tests of the ledger: a signed genesis, and blocks with batch and certificate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

from agentworld_core.consensus.certificates import certificate_of
from agentworld_core.ledger.block import ChainState, Execution, HeaderInput, block_hash_of, execute
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.messages import (
    PRECOMMIT,
    ActionBatch,
    ActionEnvelope,
    BlockBundle,
    CommitCertificate,
    Directory,
    Genesis,
    Parameters,
    Vote,
    WorldBlock,
    WorldHeadAnnounce,
)
from agentworld_core.ordering.batch import batch_id_of
from agentworld_core.signing import add_signature, sign
from agentworld_core.world.modules.sandbox import Sandbox
from tests.unit.core.membership.worlds import WORLD, first_directory, signer

PARAMETERS = Parameters(
    block_interval_ms=100,
    max_batch_actions=16,
    max_batch_bytes=64 * 1024,
    journal_events_per_segment=3,
    snapshot_interval=3,
    leaseless=False,
)
_T = TypeVar("_T", ActionBatch, WorldBlock)
VOTERS = ("a", "b", "c", "d")


def make_genesis(directory: Directory | None = None, parameters: Parameters = PARAMETERS) -> Genesis:
    """A signed genesis of four validators."""
    genesis = Genesis(
        world_id=WORLD,
        created_at_ms=1_000,
        parameters=parameters,
        directory=directory or first_directory(dict.fromkeys(VOTERS, 1)),
        signatures=(),
    )
    return add_signature(genesis, signer("gov"))


def make_batch(
    chain: ChainState,
    actions: Sequence[ActionEnvelope] = (),
    *,
    directory: Directory | None = None,
    proposer: str = "a",
    term: int = 0,
) -> ActionBatch:
    """A signed batch for the chain's next height."""
    batch = ActionBatch(
        world_id=chain.world_id,
        batch_id=batch_id_of(actions),
        actions=tuple(actions),
        proposer_id=proposer,
        timestamp_ms=1_500,
        signature=b"",
        term=term,
        height=chain.height + 1,
        key_id="",
        directory=directory,
    )
    return resign(batch, proposer)


def resign(document: _T, name: str) -> _T:
    """The document under the signature of that name."""
    return sign(document, signer(name))


def header(chain: ChainState, *, proposer: str = "a", term: int = 0, attempt: int = 0) -> HeaderInput:
    """What a proposer decides about the chain's next block."""
    return HeaderInput(
        height=chain.height + 1,
        term=term,
        attempt=attempt,
        proposer_id=proposer,
        key_id=signer(proposer).key_id,
        timestamp_ms=chain.time_ms + 100,
    )


def make_certificate(
    block: WorldBlock, *, voters: Sequence[str] = VOTERS, term: int | None = None, attempt: int | None = None
) -> CommitCertificate:
    """The precommits of these voters for the block."""
    votes = []
    for name in voters:
        vote = Vote(
            world_id=block.world_id,
            height=block.height,
            term=block.term if term is None else term,
            attempt=block.attempt if attempt is None else attempt,
            phase=PRECOMMIT,
            block_hash=block_hash_of(block),
            directory_epoch=block.directory_epoch,
            validator_id=name,
            key_id="",
            signature=b"",
        )
        votes.append(sign(vote, signer(name)))
    return certificate_of(votes)


def make_head(bundle: BlockBundle, *, announcer: str = "a", timestamp_ms: int = 9_000) -> WorldHeadAnnounce:
    """The announcement of the bundle's block."""
    block = bundle.block
    head = WorldHeadAnnounce(
        world_id=block.world_id,
        height=block.height,
        block_hash=block_hash_of(block),
        state_root=block.state_root,
        timestamp_ms=timestamp_ms,
        signature=b"",
        term=block.term,
        directory_epoch=block.directory_epoch,
        announcer_id=announcer,
        key_id="",
        certificate=bundle.certificate,
    )
    return sign(head, signer(announcer))


class Chain:
    """A chain that grows; remembers all bundles, executions and blobs."""

    def __init__(self, genesis: Genesis | None = None, *, sandbox: Sandbox | None = None):
        self.genesis = genesis or make_genesis()
        self.state = chain_from_genesis(self.genesis, sandbox=sandbox)
        self.bundles: list[BlockBundle] = []
        self.executions: list[Execution] = []
        self.blobs: dict[str, bytes] = {}

    def propose(
        self,
        *actions: ActionEnvelope,
        directory: Directory | None = None,
        proposer: str = "a",
        term: int | None = None,
        voters: Sequence[str] = VOTERS,
    ) -> BlockBundle:
        """A right bundle for the next height, not committed yet."""
        return self.propose_with(
            lambda block: block, *actions, directory=directory, proposer=proposer, term=term, voters=voters
        )

    def propose_with(
        self,
        change: Callable[[WorldBlock], WorldBlock],
        *actions: ActionEnvelope,
        directory: Directory | None = None,
        proposer: str = "a",
        term: int | None = None,
        voters: Sequence[str] = VOTERS,
    ) -> BlockBundle:
        """A bundle whose block was changed before it was signed and certified."""
        term = self.state.term if term is None else term
        batch = make_batch(self.state, actions, directory=directory, proposer=proposer, term=term)
        execution = execute(self.state, batch, header(self.state, proposer=proposer, term=term))
        block = resign(change(execution.block), proposer)
        return BlockBundle(block=block, batch=batch, certificate=make_certificate(block, voters=voters))

    def commit(
        self, *actions: ActionEnvelope, directory: Directory | None = None, term: int | None = None, proposer: str = "a"
    ) -> Execution:
        """Makes the next block and goes on from it."""
        bundle = self.propose(*actions, directory=directory, term=term, proposer=proposer)
        execution = execute(self.state, bundle.batch, HeaderInput.of(bundle.block))
        self.state = execution.chain_after(bundle.block)
        self.bundles.append(bundle)
        self.executions.append(execution)
        self.blobs.update(execution.blobs)
        return execution


def with_fields(bundle: BlockBundle, part: str, **fields: object) -> BlockBundle:
    """The bundle with fields of its block, batch or certificate replaced, and nothing signed again."""
    changed = dataclasses.replace(getattr(bundle, part), **fields)
    return dataclasses.replace(bundle, **{part: changed})
