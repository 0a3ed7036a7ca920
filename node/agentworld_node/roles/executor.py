"""Makes blocks and judges those of others by executing them; both run in worker threads on immutable chain states."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from agentworld_core.codec import encode
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import Execution, HeaderInput, execute
from agentworld_core.ledger.validate import check_block
from agentworld_core.messages import (
    ActionBatch,
    ActionEnvelope,
    BlockBundle,
    Directory,
    ProposalBody,
    Round,
    WorldBlock,
)
from agentworld_core.ordering.batch import draft_batch
from agentworld_core.ordering.mempool import Mempool
from agentworld_core.signing import Ed25519Signer, sign
from agentworld_node.ledger import Ledger
from agentworld_node.roles.keyring import NodeKeyring

EXECUTIONS_KEPT = 4


class Executor:
    """Turns waiting actions into signed blocks and blocks into verdicts; keeps the executions for the commit."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        mempool: Mempool,
        keyring: NodeKeyring,
        is_verified: Callable[[str], bool],
    ):
        self._ledger = ledger
        self._mempool = mempool
        self._keyring = keyring
        self._is_verified = is_verified
        self._executions: dict[str, Execution] = {}
        self.lease_term = 0
        self.proposed_directory: Callable[[], Directory | None] = lambda: None

    def has_work(self) -> bool:
        """True when the next block would not be empty, or is needed to bring a directory change into force."""
        chain = self._ledger.chain
        return len(self._mempool) > 0 or chain.pending is not None or self.proposed_directory() is not None

    def execution_of(self, bundle: BlockBundle) -> Execution | None:
        """Returns the execution of a block that this node has built or judged itself."""
        return self._executions.get(content_id(encode(bundle.block)))

    async def build(self, height: int, round_: Round) -> tuple[tuple[WorldBlock, ActionBatch] | None, str]:
        """Returns a signed block and batch for the round with the block's hash, or None when there is nothing to do."""
        signer = self._keyring.signer_at(height)
        if signer is None or height != self._ledger.chain.height + 1 or not self.has_work():
            return None, ""
        now_ms = max(time.time_ns() // 1_000_000, self._ledger.chain.time_ms)
        header = HeaderInput(
            height=height,
            term=round_.term,
            attempt=round_.attempt,
            proposer_id=self._keyring.node_id,
            key_id=signer.key_id,
            timestamp_ms=now_ms,
        )
        actions = self._mempool.take_batch()
        return await asyncio.to_thread(self._build, header, actions, signer)

    def _build(
        self, header: HeaderInput, actions: tuple[ActionEnvelope, ...], signer: Ed25519Signer
    ) -> tuple[tuple[WorldBlock, ActionBatch], str]:
        chain = self._ledger.chain
        batch = draft_batch(
            chain.world_id,
            actions,
            height=header.height,
            term=header.term,
            proposer_id=header.proposer_id,
            timestamp_ms=header.timestamp_ms,
            directory=self.proposed_directory() if chain.pending is None else None,
        )
        batch = sign(batch, signer)
        execution = execute(chain, batch, header)
        block = sign(execution.block, signer)
        block_hash = content_id(encode(block))
        self._keep(block_hash, execution)
        return (block, batch), block_hash

    async def judge(self, body: ProposalBody) -> tuple[bool, str]:
        """Returns whether a proposed block follows from its parent, and why not."""
        chain = self._ledger.chain
        if body.proposal.block_hash in self._executions:
            return True, ""
        try:
            execution = await asyncio.to_thread(check_block, chain, body.block, body.batch, verified=self._is_verified)
        except AgentWorldError as error:
            return False, str(error)
        self._keep(body.proposal.block_hash, execution)
        return True, ""

    def _keep(self, block_hash: str, execution: Execution) -> None:
        self._executions[block_hash] = execution
        while len(self._executions) > EXECUTIONS_KEPT:
            del self._executions[next(iter(self._executions))]
