"""Makes blocks and judges those of others by executing them; both run in worker threads on immutable chain states."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

from agentworld_core.codec import encode
from agentworld_core.consensus.proposers import HOLDER_ATTEMPTS
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import Execution, HeaderInput, execute
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.validate import check_block
from agentworld_core.messages import (
    ActionBatch,
    ActionEnvelope,
    Directory,
    ProposalBody,
    Round,
    WorldBlock,
)
from agentworld_core.ordering.batch import draft_batch
from agentworld_core.ordering.mempool import Mempool
from agentworld_core.signing import Ed25519Signer, sign
from agentworld_core.world.modules.sandbox import SandboxFault
from agentworld_node.ledger import Ledger
from agentworld_node.roles.keyring import NodeKeyring

log = logging.getLogger(__name__)

EXECUTIONS_KEPT = 4
MAX_CLOCK_AHEAD_MS = 60_000
CLOCK_RETRY_SECONDS = 1.0
EARLY_BLOCKS = 8
PROPOSAL_BYTES = 960 * 1024
"""Largest proposal that is made: it must fit one gossip message with its envelope."""


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
        self._judging: dict[str, asyncio.Future[None]] = {}
        self._early = 0
        self.lease_term = 0
        self.may_write: Callable[[], bool] = lambda: True
        self.on_verified: Callable[[Sequence[ActionEnvelope]], None] = lambda _actions: None
        self.proposed_directory: Callable[[], Directory | None] = lambda: None

    def has_work(self) -> bool:
        """True when the next block would not be empty, or is needed to bring a directory change into force."""
        chain = self._ledger.chain
        return len(self._mempool) > 0 or chain.pending is not None or self.proposed_directory() is not None

    async def execution_of(self, block: WorldBlock) -> Execution | None:
        """Returns the execution of a block that this node has built or judged itself, or is just judging."""
        block_hash = content_id(encode(block))
        under_way = self._judging.get(block_hash)
        if under_way is not None:
            # What others have decided need not be executed a second time beside the first.
            await asyncio.wait([under_way])
        return self._executions.get(block_hash)

    def with_waiting(self, body: ProposalBody) -> ProposalBody:
        """Returns the same proposal with the actions that wait here, which are decoded and encoded already."""
        actions = tuple([self._mempool.waiting(action) for action in body.batch.actions])
        return dataclasses.replace(body, batch=dataclasses.replace(body.batch, actions=actions))

    async def build(self, height: int, round_: Round) -> tuple[tuple[WorldBlock, ActionBatch] | None, str]:
        """Returns a signed block and batch for the round with the block's hash, or None when there is nothing to do
        or this node fails.

        Nothing is built in an attempt of the lease's holder by a node that has lost the lease without having noticed,
        for instance while it was stopped.
        """
        chain = self._ledger.chain
        signer = self._keyring.signer_at(height) if height == chain.next_height else None
        if signer is None or not self.has_work():
            return None, ""
        if round_.attempt < HOLDER_ATTEMPTS and not self.may_write():
            return None, ""
        header = HeaderInput(
            height=height,
            term=round_.term,
            attempt=round_.attempt,
            proposer_id=self._keyring.node_id,
            key_id=signer.key_id,
            timestamp_ms=max(_now_ms(), chain.time_ms),
        )
        directory = self.proposed_directory() if chain.pending is None else None
        actions = self._mempool.take_batch()
        try:
            return await asyncio.to_thread(self._build, chain, header, actions, directory, signer)
        except SandboxFault as error:
            self._ledger.fail(error)
            return None, ""
        except AgentWorldError as error:
            if directory is None:
                raise
            log.warning("directory epoch %d cannot be carried by block %d: %s", directory.epoch, height, error)
            return await asyncio.to_thread(self._build, chain, header, actions, None, signer)

    def _build(
        self,
        chain: ChainState,
        header: HeaderInput,
        actions: tuple[ActionEnvelope, ...],
        directory: Directory | None,
        signer: Ed25519Signer,
    ) -> tuple[tuple[WorldBlock, ActionBatch], str]:
        while True:
            batch = draft_batch(
                chain.world_id,
                actions,
                height=header.height,
                term=header.term,
                proposer_id=header.proposer_id,
                timestamp_ms=header.timestamp_ms,
                directory=directory,
            )
            batch = sign(batch, signer)
            execution = execute(chain, batch, header)
            block = sign(execution.block, signer)
            encoded = encode(block)
            # Where modules have used up what a step may cost, actions would be refused that fit the next block.
            too_much = execution.exhausted or len(encoded) + len(encode(batch)) > PROPOSAL_BYTES
            if len(actions) > 1 and too_much:
                actions = actions[: len(actions) // 2]
                continue
            block_hash = content_id(encoded)
            self._keep(block_hash, execution)
            return (block, batch), block_hash

    async def judge(self, body: ProposalBody) -> tuple[bool, str] | None:
        """Returns whether a proposed block follows from its parent, and why not; None when its height is over, or
        this node fails.

        A block from too far in the future gets no verdict until its time has come near: were it refused for good, two
        honest validators whose clocks differ a little could hold different verdicts for ever.
        """
        block = body.block
        if not await self._is_due(block):
            return None
        chain = self._ledger.chain
        if block.height != chain.next_height:
            return None
        if body.proposal.block_hash in self._executions:
            return True, ""
        done = self._judging[body.proposal.block_hash] = asyncio.get_running_loop().create_future()
        try:
            execution = await asyncio.to_thread(check_block, chain, block, body.batch, verified=self._is_verified)
        except SandboxFault as error:
            # The fault is this node's, and says nothing about the block: no vote, and no more work here.
            self._ledger.fail(error)
            return None
        except AgentWorldError as error:
            return False, str(error)
        else:
            self._keep(body.proposal.block_hash, execution)
            self.on_verified(body.batch.actions)
            return True, ""
        finally:
            self._judging.pop(body.proposal.block_hash, None)
            done.set_result(None)

    async def _is_due(self, block: WorldBlock) -> bool:
        """Waits until the block's time is near; False when its height is over first, or too many are waited for."""
        if block.timestamp_ms <= _now_ms() + MAX_CLOCK_AHEAD_MS:
            return True
        log.warning("block %d by %s is from the future: %d ms", block.height, block.proposer_id, block.timestamp_ms)
        if self._early >= EARLY_BLOCKS:
            return False
        self._early += 1
        try:
            while block.timestamp_ms > _now_ms() + MAX_CLOCK_AHEAD_MS:
                await asyncio.sleep(CLOCK_RETRY_SECONDS)
                if self._ledger.height >= block.height:
                    return False
        finally:
            self._early -= 1
        return True

    def _keep(self, block_hash: str, execution: Execution) -> None:
        self._executions[block_hash] = execution
        while len(self._executions) > EXECUTIONS_KEPT:
            del self._executions[next(iter(self._executions))]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
