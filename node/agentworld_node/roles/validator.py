"""Drives the consensus engine of one node: feeds it what happens, does what it asks for, and signs nothing undurable.

The engine decides; this shell owns the keys, the log, the network and the clock. Every message is checked against the
directory in force at its height and the revocations known here before the engine sees it. What comes from the network
is taken from one bounded queue in order; building and judging blocks run in worker threads beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.engine import ConsensusEngine
from agentworld_core.consensus.events import (
    BroadcastProposal,
    BroadcastVote,
    BuildCandidate,
    CancelTimer,
    CandidateBuilt,
    CandidateJudged,
    Commit,
    DurableVotes,
    Effect,
    Event,
    HeightStarted,
    JudgeCandidate,
    LeaseObserved,
    PersistProposal,
    PersistVote,
    ProposalDurable,
    RecordEvidence,
    RequestSync,
    SetTimer,
    TimerFired,
    VoteDurable,
    WorkPending,
)
from agentworld_core.consensus.verify import receive_proposal, receive_vote
from agentworld_core.errors import AgentWorldError, NotAvailable
from agentworld_core.messages import BlockBundle, Equivocation, Proposal, ProposalBody, Vote
from agentworld_core.names import topic
from agentworld_core.signing import Ed25519Signer, sign
from agentworld_node.ledger import Ledger
from agentworld_node.metrics import Metrics
from agentworld_node.network.port import Network
from agentworld_node.roles.executor import Executor
from agentworld_node.roles.keyring import NodeKeyring

log = logging.getLogger(__name__)

QUEUE_LIMIT = 4096
PROPOSAL_LIMIT = 2 * 1024 * 1024
EARLY_LIMIT = 512
KEY_RETRY_SECONDS = 1.0
EVIDENCE_KEPT = 64


class ValidatorRole:
    """Takes part in deciding blocks; on a node that is no member it only watches and commits what others decided."""

    def __init__(
        self,
        *,
        engine: ConsensusEngine,
        ledger: Ledger,
        executor: Executor,
        keyring: NodeKeyring,
        network: Network,
        metrics: Metrics,
    ):
        self._engine = engine
        self._ledger = ledger
        self._executor = executor
        self._keyring = keyring
        self._network = network
        self._metrics = metrics
        self._queue: asyncio.Queue[tuple[str, str, bytes] | Event] = asyncio.Queue(QUEUE_LIMIT)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._working = False
        self._early: list[tuple[str, str, bytes]] = []
        self._proposal_topic = topic(ledger.genesis.world_id, "consensus.proposal")
        self._vote_topic = topic(ledger.genesis.world_id, "consensus.vote")
        self.evidence: list[Equivocation] = []
        self.on_behind: Callable[[str, int], None] = lambda _peer, _height: None
        self.on_unknown_term: Callable[[int], None] = lambda _term: None

    def start(self, tasks: asyncio.TaskGroup, durable: DurableVotes) -> None:
        """Begins at the ledger's next height with what was durable, and runs until the task group ends."""
        self._tasks = tasks
        self._network.subscribe(self._proposal_topic, lambda peer, data: self._offer(("proposal", peer, data)))
        self._network.subscribe(self._vote_topic, lambda peer, data: self._offer(("vote", peer, data)))
        self._ledger.on_commit(self._height_committed)
        tasks.create_task(self._run(durable), name="consensus")

    def lease_observed(self, term: int, holder: str | None) -> None:
        """Tells the engine what the writer lease looks like now."""
        self._offer(LeaseObserved(term, holder))

    def work_changed(self) -> None:
        """Tells the engine whether there is anything to put into a block, when that changed."""
        pending = self._executor.has_work()
        if pending != self._working:
            self._working = pending
            self._offer(WorkPending(pending))

    def _offer(self, item: tuple[str, str, bytes] | Event) -> None:
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            if isinstance(item, tuple):
                self._metrics.count("agentworld_messages_refused_total", topic=item[0], code="busy")
                return
            # Events of this node itself are few and must not be lost: they wait for their place.
            self._spawn(self._queue.put(item), "wait-for-place")

    def _spawn(self, work: Any, name: str) -> None:
        if self._tasks is None:
            raise RuntimeError("the role has not been started")
        self._tasks.create_task(work, name=name)

    async def _run(self, durable: DurableVotes) -> None:
        self._do(self._engine.start(self._now(), durable))
        self._do(self._engine.step(self._now(), self._next_height()))
        self.work_changed()
        while True:
            item = await self._queue.get()
            event = await self._receive(*item) if isinstance(item, tuple) else item
            if event is not None:
                self._do(self._engine.step(self._now(), event))

    def _now(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)

    def _next_height(self) -> HeightStarted:
        chain = self._ledger.chain
        return HeightStarted(chain.height + 1, chain.directory_at(chain.height + 1), chain.term)

    def _height_committed(self, _bundle: BlockBundle) -> None:
        self._offer(self._next_height())
        early, self._early = self._early, []
        for item in early:
            self._offer(item)
        self.work_changed()

    async def _receive(self, kind: str, peer: str, data: bytes) -> Event | None:
        try:
            if kind == "vote":
                vote = decode(Vote, data, limit=1024)
                if not self._is_current(vote, peer):
                    self._keep_early((kind, peer, data), vote.height)
                    return None
                return receive_vote(self._ledger.chain.directory_at(vote.height), self._keyring.revoked_key_ids(), vote)
            body = await asyncio.to_thread(decode, ProposalBody, data, limit=PROPOSAL_LIMIT)
            if not self._is_current(body.proposal, peer):
                self._keep_early((kind, peer, data), body.proposal.height)
                return None
            directory = self._ledger.chain.directory_at(body.proposal.height)
            event = await asyncio.to_thread(receive_proposal, directory, self._keyring.revoked_key_ids(), body)
            if body.proposal.term > self._executor.lease_term:
                self.on_unknown_term(body.proposal.term)
            return event
        except AgentWorldError as error:
            self._metrics.count("agentworld_messages_refused_total", topic=kind, code=error.code)
            log.debug("%s from %s refused: %s", kind, peer, error)
            return None

    def _is_current(self, message: Vote | Proposal, peer: str) -> bool:
        chain = self._ledger.chain
        if message.height > chain.next_height + 1:
            self.on_behind(peer, message.height - 1)
        return chain.height < message.height <= chain.horizon

    def _keep_early(self, item: tuple[str, str, bytes], height: int) -> None:
        """Keeps what a faster node says of the height after the next, until the next one is committed here."""
        if height == self._ledger.chain.next_height + 1 and len(self._early) < EARLY_LIMIT:
            self._early.append(item)

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SetTimer(name, delay_ms):
                    self._cancel(name)
                    loop = asyncio.get_running_loop()
                    self._timers[name] = loop.call_later(delay_ms / 1000, self._fired, name)
                case CancelTimer(name):
                    self._cancel(name)
                case BroadcastVote(vote):
                    self._spawn(self._network.publish(self._vote_topic, encode(vote)), "send-vote")
                case BroadcastProposal(body):
                    self._spawn(self._network.publish(self._proposal_topic, encode(body)), "send-proposal")
                case RequestSync(height):
                    self.on_behind("", height)
                case RecordEvidence(evidence):
                    self._record(evidence)
                case _:
                    self._spawn(self._perform(effect), type(effect).__name__)

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case BuildCandidate(height, round_):
                candidate, block_hash = await self._executor.build(height, round_)
                self._offer(CandidateBuilt(height, round_, candidate, block_hash))
            case JudgeCandidate(body):
                valid, reason = await self._executor.judge(body)
                if not valid:
                    log.warning("block %d by %s is wrong: %s", body.block.height, body.block.proposer_id, reason)
                self._offer(CandidateJudged(body.block.height, body.proposal.block_hash, valid, reason))
            case PersistVote(vote, lock):
                signer = await self._signer(vote.height)
                if signer is not None:
                    signed = sign(vote, signer)
                    await self._ledger.store_vote(signed, lock)
                    self._metrics.count("agentworld_votes_signed_total")
                    self._offer(VoteDurable(signed))
            case PersistProposal(body):
                signer = await self._signer(body.proposal.height)
                if signer is not None:
                    signed_body = ProposalBody(sign(body.proposal, signer), body.block, body.batch)
                    await self._ledger.store_proposal(signed_body)
                    self._offer(ProposalDurable(signed_body))
            case Commit(_height, _block_hash, body, certificate):
                await self._commit(BlockBundle(body.block, body.batch, certificate))

    async def _signer(self, height: int) -> Ed25519Signer | None:
        """Returns the key to sign with at a height; waits for one while the height is open, None when it is past."""
        while True:
            signer = self._keyring.signer_at(height)
            if signer is not None:
                return signer
            if self._ledger.chain.height >= height:
                return None
            log.warning("no usable signing key at height %d; waiting for one", height)
            await asyncio.sleep(KEY_RETRY_SECONDS)

    async def _commit(self, bundle: BlockBundle) -> None:
        try:
            await self._ledger.apply(bundle, execution=self._executor.execution_of(bundle))
        except NotAvailable as error:
            log.warning("block %d could not be stored: %s", bundle.block.height, error)

    def _record(self, evidence: Equivocation) -> None:
        self._metrics.count("agentworld_evidence_total")
        log.error("validator %s voted twice at height %d", evidence.first.validator_id, evidence.first.height)
        if evidence not in self.evidence and len(self.evidence) < EVIDENCE_KEPT:
            self.evidence.append(evidence)

    def _fired(self, name: str) -> None:
        self._timers.pop(name, None)
        self._offer(TimerFired(name))

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
