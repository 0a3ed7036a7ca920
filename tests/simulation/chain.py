"""A chain with the smallest execution that can go wrong: it remembers which actions it has applied, and hashes."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentworld_core.codec import encode
from agentworld_core.errors import AgentWorldError, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.membership.directory import check_next_directory, directory_hash
from agentworld_core.membership.keyring import Keyring
from agentworld_core.messages import (
    ActionBatch,
    ActionEnvelope,
    BlockBundle,
    Directory,
    DirectoryChange,
    Round,
    WorldBlock,
)
from agentworld_core.ordering.batch import BatchLimits, check_batch, draft_batch
from agentworld_core.signing import Signer, sign

GENESIS = content_id(b"genesis")
NOTHING = content_id(b"nothing")
LIMITS = BatchLimits(max_actions=8, max_bytes=64 * 1024)


@dataclass
class Chain:
    """What a node has committed."""

    keyring: Keyring
    bundles: list[BlockBundle] = field(default_factory=list)
    head: str = GENESIS
    root: str = NOTHING
    term: int = 0
    applied: dict[str, int] = field(default_factory=dict)

    @property
    def height(self) -> int:
        """The last committed height."""
        return len(self.bundles)

    def build(
        self,
        signer: Signer,
        round_: Round,
        *,
        proposer: str,
        actions: tuple[ActionEnvelope, ...],
        directory: Directory | None,
    ) -> tuple[WorldBlock, ActionBatch]:
        """Makes a signed block of a batch on top of the head."""
        height = self.height + 1
        batch = draft_batch(
            self.keyring.newest.world_id,
            actions,
            height=height,
            term=round_.term,
            proposer_id=proposer,
            timestamp_ms=height,
            directory=directory,
        )
        batch = sign(batch, signer)
        block = WorldBlock(
            world_id=batch.world_id,
            height=height,
            prev_block_hash=self.head,
            action_root=content_id(encode(batch)),
            event_root=NOTHING,
            state_root=content_id(f"{self.root} {batch.batch_id}".encode()),
            journal_ref=NOTHING,
            snapshot_ref=None,
            receipts_root=NOTHING,
            proposer_id=proposer,
            timestamp_ms=height,
            signature=b"",
            term=round_.term,
            attempt=round_.attempt,
            directory_epoch=self.keyring.at(height).epoch,
            directory_hash=directory_hash(self.keyring.at(height)),
            prev_state_root=self.root,
            segments=(),
            tick=height,
            directory_change=self._change(directory, height),
            key_id="",
        )
        return sign(block, signer), batch

    def judge(self, block: WorldBlock, batch: ActionBatch) -> str | None:
        """Says what is wrong with a block on top of the head, if anything."""
        height = self.height + 1
        if (block.height, block.prev_block_hash, block.prev_state_root) != (height, self.head, self.root):
            return "does not follow the head"
        if block.state_root != content_id(f"{self.root} {batch.batch_id}".encode()):
            return "state root"
        if block.action_root != content_id(encode(batch)) or block.term < self.term:
            return "batch or term"
        if any(action.action_id in self.applied for action in batch.actions):
            return "an action is applied already"
        try:
            check_batch(batch, world_id=block.world_id, limits=LIMITS)
            if batch.directory is not None:
                if self.keyring.pending_at(height) is not None:
                    raise StateMismatch("one change at a time")
                check_next_directory(self.keyring.newest, batch.directory)
        except AgentWorldError as error:
            return str(error)
        if block.directory_change != self._change(batch.directory, height):
            return "directory change"
        return None

    def append(self, bundle: BlockBundle) -> None:
        """Takes a committed bundle as the new head."""
        block, batch = bundle.block, bundle.batch
        self.bundles.append(bundle)
        self.head, self.root, self.term = content_id(encode(block)), block.state_root, block.term
        for action in batch.actions:
            self.applied[action.action_id] = block.height
        if batch.directory is not None and block.directory_change is not None:
            self.keyring.append(batch.directory, effective_height=block.directory_change.effective_height)

    def _change(self, directory: Directory | None, height: int) -> DirectoryChange | None:
        if directory is None:
            return None
        return DirectoryChange(directory.epoch, directory_hash(directory), height + directory.activation_delay)
