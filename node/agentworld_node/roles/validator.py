"""Drives the consensus engine of one node: feeds it what happens, does what it asks for, and signs nothing undurable.

The engine decides; this shell owns the keys, the log, the network and the clock. Every message is checked against the
directory in force at its height and the revocations known here before the engine sees it. What comes from the network
is taken from bounded queues, one for each member; building and judging blocks run in worker threads beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

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
    OwnVoteHeard,
    PersistProposal,
    PersistVote,
    ProposalDurable,
    ProposalReceived,
    RecordEvidence,
    RequestSync,
    SetTimer,
    TimerFired,
    VoteDurable,
    VoteReceived,
    WorkPending,
)
from agentworld_core.consensus.parts import OFFER_BYTES, ProposalOffer
from agentworld_core.consensus.verify import receive_proposal, receive_vote, verify_offer
from agentworld_core.errors import AgentWorldError, KeyRevoked
from agentworld_core.messages import (
    BlockBundle,
    CommitCertificate,
    Directory,
    Equivocation,
    Proposal,
    ProposalBody,
    Vote,
)
from agentworld_core.names import topic
from agentworld_core.signing import Ed25519Signer, sign
from agentworld_node.ledger import Ledger
from agentworld_node.metrics import Metrics
from agentworld_node.network.port import Network
from agentworld_node.offload import offload
from agentworld_node.roles.executor import Executor
from agentworld_node.roles.intake import ConsensusMessage, Intake
from agentworld_node.roles.keyring import NodeKeyring
from agentworld_node.roles.parts import PartExchange
from agentworld_node.roles.spawning import Spawner

log = logging.getLogger(__name__)

VOTE_LIMIT = 1024
PROPOSAL_LIMIT = 2 * 1024 * 1024
EARLY_PER_PEER = 8
PROPOSALS_KEPT = 4
KEY_RETRY_SECONDS = 1.0


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
        self._intake = Intake(admits=self._admits, metrics=metrics)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._spawner = Spawner()
        self._working = False
        self._early: dict[str, deque[ConsensusMessage]] = {}
        # Verified or our own: members repeat each other's proposals, and large ones take long to decode.
        self._proposals: dict[bytes, ProposalBody] = {}
        self._proposal_topic = topic(ledger.genesis.world_id, "consensus.proposal")
        self._vote_topic = topic(ledger.genesis.world_id, "consensus.vote")
        self._offer_topic = topic(ledger.genesis.world_id, "consensus.offer")
        self._parts = PartExchange(
            world_id=ledger.genesis.world_id,
            network=network,
            metrics=metrics,
            admits=self._admits,
            take=lambda peer, data: self._intake.put_message(ConsensusMessage("proposal", peer, data)),
        )
        self.on_behind: Callable[[str, int], None] = lambda _peer, _height: None
        self.on_evidence: Callable[[Equivocation], None] = lambda _evidence: None
        self.on_decided: Callable[[int], None] = lambda _height: None
        self.on_unknown_term: Callable[[int], None] = lambda _term: None

    def start(self, tasks: asyncio.TaskGroup, durable: DurableVotes) -> None:
        """Begins at the ledger's next height with what was durable, and runs until the task group ends."""
        self._spawner.open(tasks)
        self._listen(self._proposal_topic, "proposal")
        self._listen(self._vote_topic, "vote")
        self._listen(self._offer_topic, "offer")
        self._parts.start(tasks)
        self._ledger.on_commit(self._height_committed)
        tasks.create_task(self._run(durable), name="consensus")

    @property
    def should_yield(self) -> bool:
        """True when this node holds the lease and nothing that it proposes is decided."""
        return self._engine.should_yield

    def lease_observed(self, term: int, holder: str | None) -> None:
        """Tells the engine what the writer lease looks like now."""
        self._intake.put_event(LeaseObserved(term, holder))

    def work_changed(self) -> None:
        """Tells the engine whether there is anything to put into a block, when that changed."""
        pending = self._executor.has_work()
        if pending != self._working:
            self._working = pending
            self._intake.put_event(WorkPending(pending))

    def _listen(self, name: str, kind: str) -> None:
        self._network.subscribe(name, lambda peer, data: self._intake.put_message(ConsensusMessage(kind, peer, data)))

    def _admits(self, peer_id: str) -> bool:
        """True for peers of members: of the directory in force, of the next one, and of one without peer ids."""
        chain = self._ledger.chain
        directories = (chain.directory_at(chain.next_height), chain.directories[-1].directory)
        members = [member.peer_id for directory in directories for member in directory.members]
        return peer_id in members or "" in members

    async def _run(self, durable: DurableVotes) -> None:
        self._do(self._engine.start(self._now(), durable))
        self._do(self._engine.step(self._now(), self._next_height()))
        self.work_changed()
        while True:
            item = await self._intake.take()
            event = await self._receive(item) if isinstance(item, ConsensusMessage) else item
            if event is not None:
                self._do(self._engine.step(self._now(), event))
            await asyncio.sleep(0)  # so that a queue which a peer has filled holds nobody else up

    def _now(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)

    def _next_height(self, certificate: CommitCertificate | None = None) -> HeightStarted:
        chain = self._ledger.chain
        return HeightStarted(chain.height + 1, chain.directory_at(chain.height + 1), chain.round, certificate)

    def _height_committed(self, bundle: BlockBundle) -> None:
        self._intake.put_event(self._next_height(bundle.certificate))
        self._proposals.clear()
        self._parts.decided(bundle.block.height)
        early, self._early = self._early, {}
        for messages in early.values():
            for message in messages:
                self._intake.put_message(message)
        self.work_changed()

    async def _receive(self, message: ConsensusMessage) -> Event | None:
        try:
            if message.kind == "vote":
                return self._take_vote(message)
            if message.kind == "offer":
                await self._take_offer(message)
                return None
            return await self._take_proposal(message)
        except AgentWorldError as error:
            self._metrics.count("agentworld_messages_refused_total", topic=message.kind, code=error.code)
            log.debug("%s from %s refused: %s", message.kind, message.peer_id, error)
            return None

    def _take_vote(self, message: ConsensusMessage) -> VoteReceived | None:
        vote = decode(Vote, message.data, limit=VOTE_LIMIT)
        if not self._engine.is_news(vote):
            return None
        directory = self._directory_for(vote, message)
        if directory is None:
            return None
        received = receive_vote(directory, self._keyring.revoked_key_ids(), vote)
        self._count_revoked(received, message)
        return received if self._is_due(vote.height, message) else None

    async def _take_proposal(self, message: ConsensusMessage) -> ProposalReceived | None:
        known = self._proposals.get(message.data)
        body = known if known is not None else await self._decode_proposal(message.data)
        directory = self._directory_for(body.proposal, message)
        if directory is None:
            return None
        revoked = self._keyring.revoked_key_ids()
        if known is not None and body.proposal.directory_epoch == directory.epoch:
            received = ProposalReceived(body, body.proposal.key_id in revoked)
        else:
            received = await offload(len(message.data), receive_proposal, directory, revoked, body)
            self._remember(message.data, body)
        self._count_revoked(received, message)
        if body.proposal.term > self._executor.lease_term:
            self.on_unknown_term(body.proposal.term)
        return received if self._is_due(body.proposal.height, message) else None

    async def _take_offer(self, message: ConsensusMessage) -> None:
        """Has the batch of a large proposal fetched; it comes back as a message, as if it had been sent whole."""
        offer = decode(ProposalOffer, message.data, limit=OFFER_BYTES)
        directory = self._directory_for(offer.proposal, message)
        if directory is None:
            return
        await offload(len(message.data), verify_offer, directory, (), offer.proposal, offer.block)
        self._parts.offered(message.peer_id, offer)

    def _remember(self, data: bytes, body: ProposalBody) -> None:
        self._proposals[data] = body
        while len(self._proposals) > PROPOSALS_KEPT:
            del self._proposals[next(iter(self._proposals))]

    async def _decode_proposal(self, data: bytes) -> ProposalBody:
        body = await offload(len(data), decode, ProposalBody, data, limit=PROPOSAL_LIMIT)
        return self._executor.with_waiting(body)

    def _count_revoked(self, received: VoteReceived | ProposalReceived, message: ConsensusMessage) -> None:
        """Counts what decides nothing because its key is revoked; the engine takes it as proof of the past alone."""
        if received.revoked:
            self._metrics.count("agentworld_messages_refused_total", topic=message.kind, code=KeyRevoked.code)
            log.info("a %s from %s is under a revoked key and counts for nothing", message.kind, message.peer_id)

    def _directory_for(self, message: Vote | Proposal, origin: ConsensusMessage) -> Directory | None:
        """Returns the directory to judge a message by, None when it is not for now.

        What a faster member says of the height after the next is judged by the latest directory, and again later.
        """
        chain = self._ledger.chain
        if message.height > chain.next_height + 1:
            self.on_behind(origin.peer_id, message.height - 1)
        if (isinstance(message, Vote) or message.height > chain.height) and message.height <= chain.horizon:
            # Of votes for what is decided, only those get here that would prove that somebody voted twice.
            return chain.directory_at(message.height)
        return chain.directories[-1].directory if message.height == chain.next_height + 1 else None

    def _is_due(self, height: int, message: ConsensusMessage) -> bool:
        """True for what the engine can take; the newest that each member says of the height after it is kept."""
        if height <= self._ledger.chain.horizon:
            return True
        kept = self._early.setdefault(message.peer_id, deque(maxlen=EARLY_PER_PEER))
        if message.kind == "proposal":
            for older in [item for item in kept if item.kind == "proposal"]:
                kept.remove(older)
        kept.append(message)
        return False

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
                    self._spawner.spawn(self._send(self._vote_topic, encode(vote)), name="send-vote")
                case BroadcastProposal(body):
                    data = encode(body)
                    self._remember(data, body)
                    offer = self._parts.offer_of(body, size=len(data))
                    name, sent = (self._proposal_topic, data) if offer is None else (self._offer_topic, offer)
                    self._spawner.spawn(self._send(name, sent), name="send-proposal")
                case RequestSync(height):
                    self.on_decided(height)
                case RecordEvidence(evidence):
                    self.on_evidence(evidence)
                case OwnVoteHeard(vote):
                    self._metrics.count("agentworld_own_votes_heard_total")
                    place = (vote.height, vote.term, vote.attempt)
                    log.error(
                        "a vote of ours at %d (%d.%d) is not on our disk, which has lost it, or our key leaked", *place
                    )
                case _:
                    self._spawner.spawn(self._perform(effect), name=type(effect).__name__)

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case BuildCandidate(height, round_):
                candidate, block_hash = await self._executor.build(height, round_)
                self._intake.put_event(CandidateBuilt(height, round_, candidate, block_hash))
            case JudgeCandidate(body):
                await self._judge(body)
            case PersistVote(vote, lock):
                signer = await self._signer(vote.height)
                if signer is not None:
                    signed = sign(vote, signer)
                    await self._ledger.store_vote(signed, lock)
                    self._metrics.count("agentworld_votes_signed_total")
                    self._intake.put_event(VoteDurable(signed))
            case PersistProposal(body):
                signer = await self._signer(body.proposal.height)
                if signer is not None:
                    signed_body = ProposalBody(sign(body.proposal, signer), body.block, body.batch)
                    await self._ledger.store_proposal(signed_body)
                    self._intake.put_event(ProposalDurable(signed_body))
            case Commit(_height, _block_hash, body, certificate):
                await self._commit(BlockBundle(body.block, body.batch, certificate))

    async def _judge(self, body: ProposalBody) -> None:
        verdict = await self._executor.judge(body)
        if verdict is None:
            return
        valid, reason = verdict
        if not valid:
            log.warning("block %d by %s is wrong: %s", body.block.height, body.block.proposer_id, reason)
        self._intake.put_event(CandidateJudged(body.block.height, body.proposal.block_hash, valid, reason))

    async def _send(self, name: str, data: bytes) -> None:
        try:
            await self._network.publish(name, data)
        except AgentWorldError as error:
            log.error("a message on %s cannot be sent: %s", name, error)  # noqa: TRY400

    async def _signer(self, height: int) -> Ed25519Signer | None:
        """Returns the key to sign with at a height; waits for one while the height is open, None when it is past."""
        told = False
        while self._ledger.height < height:
            signer = self._keyring.signer_at(height)
            if signer is not None:
                return signer
            if not told:
                log.warning("no usable signing key at height %d; waiting for one", height)
            told = True
            await asyncio.sleep(KEY_RETRY_SECONDS)
        return None

    async def _commit(self, bundle: BlockBundle) -> None:
        await self._ledger.apply(bundle, execution=await self._executor.execution_of(bundle.block))

    def _fired(self, name: str) -> None:
        self._timers.pop(name, None)
        self._intake.put_event(TimerFired(name))

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
