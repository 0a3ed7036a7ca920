"""From a batch to a block: executes it on top of a chain and says everything that the block commits to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentworld_core.codec import encode
from agentworld_core.errors import StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.ledger.chain import ChainState, ScheduledDirectory, change_of, governance_of, plan_directory_change
from agentworld_core.ledger.segments import cut_events, receipts_blob
from agentworld_core.ledger.snapshot import cut_snapshot
from agentworld_core.messages import ActionBatch, Receipt, Round, WorldBlock, WorldEvent
from agentworld_core.signing import unsigned
from agentworld_core.world.kernel import StepInput, step
from agentworld_core.world.tree import Tree


@dataclass(frozen=True, kw_only=True)
class HeaderInput:
    """What a proposer decides about a block besides its batch."""

    height: int
    term: int
    attempt: int
    proposer_id: str
    key_id: str
    timestamp_ms: int

    @classmethod
    def of(cls, block: WorldBlock) -> HeaderInput:
        """Returns what the proposer of a block decided."""
        return cls(
            height=block.height,
            term=block.term,
            attempt=block.attempt,
            proposer_id=block.proposer_id,
            key_id=block.key_id,
            timestamp_ms=block.timestamp_ms,
        )


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What a batch came to: the block (unsigned), what it refers to, and the state after it.

    ``blobs`` are by content id what a node stores with the block: journal segments, their list, receipts and, at
    snapshot heights, the manifest and the chunks that earlier snapshots do not have. ``exhausted`` says that modules
    used up what a step may cost.
    """

    chain: ChainState
    block: WorldBlock
    events: tuple[WorldEvent, ...]
    receipts: tuple[Receipt, ...]
    blobs: Mapping[str, bytes]
    tree: Tree
    scheduled: ScheduledDirectory | None
    exhausted: bool

    def chain_after(self, block: WorldBlock) -> ChainState:
        """Returns the chain with this block, now signed, as its head; raises StateMismatch for any other block."""
        if unsigned(block) != self.block:
            raise StateMismatch("is not the block that was executed", field="block", value=block.height)
        scheduled = () if self.scheduled is None else (self.scheduled,)
        return replace(
            self.chain,
            height=block.height,
            block_hash=block_hash_of(block),
            round=Round(block.term, block.attempt),
            time_ms=block.timestamp_ms,
            state_root=self.tree.root,
            tree=self.tree,
            snapshot_tree=self.tree if block.snapshot_ref is not None else self.chain.snapshot_tree,
            directories=(*self.chain.directories, *scheduled),
        )


def block_hash_of(block: WorldBlock) -> str:
    """Returns the content id of the signed block."""
    return content_id(encode(block))


def action_root_of(batch: ActionBatch) -> str:
    """Returns the content id of the signed batch, which the block names as its ``action_root``."""
    return content_id(encode(batch))


def execute(chain: ChainState, batch: ActionBatch, header: HeaderInput, *, action_root: str | None = None) -> Execution:
    """Returns what the batch comes to on top of the chain, by which a proposer makes a block and everybody judges it.

    The actions must have passed ``check_envelope`` (``ledger.validate`` checks those of others' blocks).
    ``action_root`` is that of the batch, for who knows it already. Raises StateMismatch for a header that does not
    follow the chain, SandboxFault when this node cannot run the world's modules, and what ``plan_directory_change``
    raises.
    """
    _check_header(chain, header)
    scheduled = None
    if batch.directory is not None:
        scheduled = plan_directory_change(chain, batch.directory, time_ms=header.timestamp_ms)
    change = None if scheduled is None else change_of(scheduled)
    governing = chain.scheduled_at(header.height)
    given = StepInput(
        height=header.height,
        time_ms=header.timestamp_ms,
        actions=batch.actions,
        directory_change=change,
        governance=governance_of(governing.directory),
    )
    result = step(chain.tree, given, chain.sandbox)
    journal = cut_events(result.events, chain.parameters.journal_events_per_segment)
    receipts_root, receipts = receipts_blob(result.receipts)
    blobs = {**journal.blobs, receipts_root: receipts}
    snapshot_ref = None
    if header.height % chain.parameters.snapshot_interval == 0:
        snapshot = cut_snapshot(result.tree, world_id=chain.world_id, height=header.height, since=chain.snapshot_tree)
        snapshot_ref = snapshot.snapshot_ref
        blobs.update(snapshot.blobs)
    block = WorldBlock(
        world_id=chain.world_id,
        height=header.height,
        prev_block_hash=chain.block_hash,
        action_root=action_root or action_root_of(batch),
        event_root=journal.event_root,
        state_root=result.tree.root,
        journal_ref=journal.journal_ref,
        snapshot_ref=snapshot_ref,
        receipts_root=receipts_root,
        proposer_id=header.proposer_id,
        timestamp_ms=header.timestamp_ms,
        signature=b"",
        term=header.term,
        attempt=header.attempt,
        directory_epoch=governing.directory.epoch,
        directory_hash=governing.directory_hash,
        prev_state_root=chain.state_root,
        segments=journal.segments,
        tick=result.tick,
        directory_change=change,
        key_id=header.key_id,
    )
    return Execution(
        chain=chain,
        block=block,
        events=result.events,
        receipts=result.receipts,
        blobs=blobs,
        tree=result.tree,
        scheduled=scheduled,
        exhausted=result.exhausted,
    )


def _check_header(chain: ChainState, header: HeaderInput) -> None:
    if header.height != chain.next_height:
        raise StateMismatch(f"the next height is {chain.next_height}", field="height", value=header.height)
    if header.term < chain.term:
        raise StateMismatch(f"the chain has reached term {chain.term}", field="term", value=header.term)
    if header.timestamp_ms < chain.time_ms:
        raise StateMismatch(f"the chain has reached {chain.time_ms}", field="timestamp_ms", value=header.timestamp_ms)


__all__ = ["ChainState", "Execution", "HeaderInput", "action_root_of", "block_hash_of", "execute"]
