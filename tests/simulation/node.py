"""One node: the production engine, mempool, lease keeper and keyring on a simulated disk, network and clock."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from agentworld_core.codec import decode_value, encode, encode_value
from agentworld_core.consensus.engine import ConsensusEngine
from agentworld_core.consensus.events import (
    BroadcastProposal,
    BroadcastVote,
    BuildCandidate,
    CancelTimer,
    CandidateBuilt,
    CandidateJudged,
    Commit,
    ConsensusSettings,
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
    Timeouts,
    TimerFired,
    VoteDurable,
    VoteReceived,
    WorkPending,
)
from agentworld_core.consensus.evidence import Evidence
from agentworld_core.consensus.proposers import HOLDER_ATTEMPTS
from agentworld_core.consensus.verify import receive_proposal, receive_vote
from agentworld_core.errors import ActorLimit, AgentWorldError, Busy, NonceUsed, StateMismatch, Unauthorized
from agentworld_core.ledger.validate import check_committed
from agentworld_core.membership.directory import check_next_directory
from agentworld_core.membership.revocation import check_revocation
from agentworld_core.messages import (
    ActionEnvelope,
    BlockBundle,
    Blocks,
    CommitCertificate,
    Directory,
    Equivocation,
    ProposalBody,
    Revocation,
    Vote,
)
from agentworld_core.ordering.lease import LeaseKeeper, LeaseTimings, LeaseWrite, Wait
from agentworld_core.ordering.mempool import Mempool, MempoolLimits
from agentworld_core.ordering.transfer import Readiness
from agentworld_core.signing import Ed25519Signer, sign
from agentworld_core.world.actions import check_admission
from agentworld_node.records import COMMIT, EVIDENCE, PROPOSAL, REVOCATION, VOTE, StoredVote, locked_value
from tests.simulation.chain import LIMITS, Chain
from tests.simulation.disk import Disk
from tests.simulation.history import Frame
from tests.simulation.order import Place, place_of
from tests.simulation.proofs import Proofs
from tests.simulation.transfer import Transfer
from tests.unit.core.membership.worlds import WORLD, signer

if TYPE_CHECKING:
    from tests.simulation.world import World

TIMEOUTS = Timeouts(
    propose_ms=800,
    propose_step_ms=300,
    vote_ms=300,
    vote_step_ms=150,
    longest_ms=5000,
    rebroadcast_ms=400,
    rebroadcast_longest_ms=1600,
)
LEASE = LeaseTimings(duration_ms=3000, renew_deadline_ms=2000, retry_ms=400)
MEMPOOL = MempoolLimits(max_actions=64, max_per_actor=16)
BUNDLES_AT_ONCE = 4
GENERATIONS = 4
WALL_START_MS = 10_000_000
MAX_CLOCK_AHEAD_MS = 60_000
CLOCK_RETRY_MS = 1000


@functools.cache
def key_of(name: str, generation: int) -> Ed25519Signer:
    """The key that a member has in a generation."""
    return signer(name if generation == 1 else f"{name}/{generation}")


@functools.cache
def keys_of(name: str) -> dict[str, Ed25519Signer]:
    """All keys that a member may come to have, by key id."""
    keys = [key_of(name, generation) for generation in range(1, GENERATIONS + 1)]
    return {key.key_id: key for key in keys}


class SimNode:
    """A node under a name (its member id) at an end of the network."""

    honest = True

    def __init__(self, world: World, end: str, name: str):
        self.world = world
        self.kernel = world.kernel
        self.end = end
        self.name = name
        self.keys = keys_of(name)
        self.disk = Disk(world.kernel, end, torn_writes=world.scenario.torn_writes)
        self.rng = world.kernel.rng(f"node/{end}")
        self.clock_start = self.rng.randrange(10**6)
        self.clock_rate = 1 + self.rng.uniform(-1, 1) * world.scenario.drift
        self.up = False
        self.life = 0
        self.paused_until = 0
        self.wall_offset = self.rng.randint(-200, 200)
        world.net.attach(end, self.receive)

    # Life

    def boot(self) -> None:
        """Starts from what is on disk."""
        self.up = True
        self.life += 1
        self.timers: dict[str, int] = {}
        self.timer_number = 0
        self.committing = False
        self.wanted_directory: Directory | None = None
        self.work: bool | None = None
        self.view: tuple[int, str | None] = (0, None)
        self.chain = Chain(self.world.beginning, self.world.executions)
        self.proofs = Proofs(self)
        self.transfer = Transfer(self)
        self.stored = self.read_disk()
        self.mempool = Mempool(MEMPOOL, LIMITS)
        self.keeper = LeaseKeeper(self.name, LEASE)
        settings = ConsensusSettings(
            world_id=WORLD,
            validator_id=self.name,
            leaseless=self.world.scenario.leaseless,
            block_interval_ms=self.world.scenario.block_interval_ms,
            timeouts=TIMEOUTS,
        )
        self.engine = ConsensusEngine(settings)
        self.perform(self.engine.start(self.now, self.durable_votes()))
        self.start_height()
        self.every(300, self.keep_lease)
        self.every(500, self.announce)
        self.kernel.progress += 1
        self.kernel.note(self.end, "boots", f"at height {self.chain.height}")
        self.world.oracles.booted(self)

    def boot_if_down(self) -> None:
        """Starts it unless it runs."""
        if not self.up:
            self.boot()

    def crash(self) -> None:
        """Loses memory and whatever was not synced."""
        self.kernel.note(self.end, "crashes", "")
        self.world.oracles.crashed(self)
        self.up = False
        self.life += 1
        self.disk.crash()

    @property
    def now(self) -> int:
        """This node's monotonic clock."""
        return int(self.clock_start + self.kernel.now * self.clock_rate)

    @property
    def wall_time(self) -> int:
        """What this node takes for the time of day."""
        return WALL_START_MS + self.kernel.now + self.wall_offset

    def later(self, delay: int, action: Callable[[], object]) -> None:
        """Does something after a delay of its own clock, unless it has crashed by then; a pause holds it up."""
        life = self.life

        def run() -> None:
            if life != self.life:
                return
            if self.paused_until > self.kernel.now:
                self.kernel.after(self.paused_until - self.kernel.now, run)
                return
            action()

        self.kernel.after(int(delay / self.clock_rate), run)

    def every(self, interval: int, action: Callable[[], None]) -> None:
        """Does something again and again until it crashes."""

        def run() -> None:
            action()
            self.later(interval, run)

        self.later(self.rng.randrange(interval), run)

    def read_disk(self) -> DurableVotes:
        """Takes up the chain that is on disk, and returns the votes for the heights above it."""
        votes: list[StoredVote] = []
        proposals: list[ProposalBody] = []
        for record in self.disk.records():
            match record.kind:
                case kind if kind == VOTE:
                    votes.append(self.world.decode(StoredVote, record.payload))
                    self.disk.signatures[votes[-1].vote.signature] = None
                case kind if kind == PROPOSAL:
                    proposals.append(self.world.decode(ProposalBody, record.payload))
                case kind if kind == REVOCATION:
                    self.chain.keyring.revocations.add(self.world.decode(Revocation, record.payload))
                case kind if kind == EVIDENCE:
                    self.proofs.held.add(self.world.decode(Equivocation, record.payload))
                case kind if kind == COMMIT:
                    bundle = self.world.decode(BlockBundle, record.payload)
                    if bundle.block.height == self.chain.height + 1:
                        self.chain.append(bundle)
        above = [stored for stored in votes if stored.vote.height > self.chain.height]
        return DurableVotes(
            votes=tuple(stored.vote for stored in above),
            proposals=tuple(body for body in proposals if body.proposal.height > self.chain.height),
            locks=tuple(locked_value(stored.lock) for stored in above if stored.lock is not None),
        )

    # Consensus

    def durable_votes(self) -> DurableVotes:
        """Returns what the log holds for the heights that are not committed."""
        return self.stored

    def signer_at(self, height: int) -> Ed25519Signer | None:
        """Returns the key that counts for this node at the height, if it has one."""
        keyring = self.chain.keyring
        key_id = keyring.signing_key(height, member_id=self.name, available=tuple(self.keys), active=None)
        return self.keys[key_id] if key_id is not None else None

    def start_height(self, certificate: CommitCertificate | None = None) -> None:
        """Tells the engine that the next height begins, and how the one before was decided."""
        height = self.chain.height + 1
        self.update_work()
        self.step(HeightStarted(height, self.chain.keyring.at(height), self.chain.round, certificate))

    def step(self, event: Event) -> None:
        """Gives the engine an event and carries out what it asks for."""
        if isinstance(event, VoteReceived):
            self.world.oracles.vote_accepted(self, event)
        before = self.engine.round
        self.perform(self.engine.step(self.now, event))
        if self.kernel.history.full and self.engine.round != before and (round_ := self.engine.round) is not None:
            says = f"({round_.term}.{round_.attempt}) of {self.engine.height}"
            self.kernel.note(self.end, "enters", says, height=self.engine.height or 0)

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SetTimer(name, delay_ms):
                    self.set_timer(name, delay_ms)
                case CancelTimer(name):
                    self.timers.pop(name, None)
                case BroadcastVote(vote):
                    self.world.oracles.vote_sent(self, vote)
                    self.send(("vote", encode(vote)))
                case BroadcastProposal(body):
                    self.world.oracles.proposal_sent(self, body)
                    self.send(("proposal", encode(body)))
                case PersistVote():
                    self.persist_vote(effect)
                case PersistProposal(body):
                    self.persist_proposal(body)
                case BuildCandidate():
                    self.later(self.rng.randint(1, 20), functools.partial(self.build, effect))
                case JudgeCandidate(body):
                    self.later(self.rng.randint(1, 20), functools.partial(self.judge, body))
                case Commit(_, _, body, certificate):
                    self.world.oracles.decided(self, certificate)
                    self.commit(BlockBundle(body.block, body.batch, certificate))
                case RecordEvidence(evidence):
                    self.world.oracles.evidence_found(self, evidence)
                    self.proofs.found(evidence)
                case RequestSync():
                    self.send(("want", encode_value(self.chain.height + 1)))

    def set_timer(self, name: str, delay_ms: int) -> None:
        self.timer_number += 1
        number = self.timers[name] = self.timer_number

        def fire() -> None:
            if self.timers.get(name) == number:
                del self.timers[name]
                self.step(TimerFired(name))

        self.later(delay_ms, fire)

    def persist_vote(self, effect: PersistVote) -> None:
        key = self.signer_at(effect.vote.height)
        if key is None:
            self.kernel.reach("no key to vote with")
            return
        signed = sign(effect.vote, key)
        self.disk.append_vote(signed, effect.lock, lambda: self.step(VoteDurable(signed)))

    def persist_proposal(self, body: ProposalBody) -> None:
        key = self.signer_at(body.proposal.height)
        if key is not None:
            signed = replace(body, proposal=sign(body.proposal, key))
            self.disk.append(PROPOSAL, signed, lambda: self.step(ProposalDurable(signed)))

    def build(self, effect: BuildCandidate) -> None:
        key = self.signer_at(effect.height)
        if effect.height != self.chain.height + 1 or key is None:
            return
        if effect.round.attempt < HOLDER_ATTEMPTS and not self.transfer.builds:
            return
        actions = tuple(item for item in self.mempool.take_batch() if self.may_include(item))
        directory = self.wanted_directory if self.may_change_directory() else None
        header = self.chain.header(key, effect.round, proposer=self.name, time_ms=self.wall_time)
        made = self.chain.build(key, header, actions=actions, directory=directory)
        self.step(CandidateBuilt(effect.height, effect.round, made))

    def may_include(self, action: ActionEnvelope) -> bool:
        return action.action_id not in self.chain.applied

    def may_change_directory(self) -> bool:
        keyring = self.chain.keyring
        if self.wanted_directory is None or keyring.pending_at(self.chain.height + 1) is not None:
            return False
        return self.wanted_directory.epoch == keyring.newest.epoch + 1

    def judge(self, body: ProposalBody) -> None:
        if body.proposal.height != self.chain.height + 1:
            return
        if body.block.timestamp_ms > self.wall_time + MAX_CLOCK_AHEAD_MS:
            # From the future, as far as this node can tell: no verdict before its time has come near.
            self.kernel.reach("block from the future")
            self.later(CLOCK_RETRY_MS, functools.partial(self.judge, body))
            return
        verdict = self.chain.judge(body.block, body.batch)
        wrong = verdict if isinstance(verdict, str) else ""
        if wrong:
            self.kernel.reach("wrong block: " + wrong.split(":")[0])
            self.kernel.note(self.end, "rejects", f"{body.proposal.block_hash[:8]}: {wrong}")
        self.step(CandidateJudged(body.proposal.height, body.proposal.block_hash, not wrong, wrong))

    def update_work(self) -> None:
        pending = len(self.mempool) > 0 or self.may_change_directory()
        pending = pending or self.chain.keyring.pending_at(self.chain.height + 1) is not None
        if pending != self.work:
            self.work = pending
            self.step(WorkPending(pending))

    # The ledger

    def commit(self, bundle: BlockBundle) -> None:
        """Stores a decided block, and takes it up once it is stored."""
        if self.committing or bundle.block.height != self.chain.height + 1:
            return
        self.committing = True
        self.disk.append(COMMIT, bundle, lambda: self.take_up(bundle))

    def take_up(self, bundle: BlockBundle) -> None:
        self.committing = False
        self.world.oracles.committing(self, bundle)
        self.chain.append(bundle)
        self.kernel.progress += 1
        self.mempool.remove(action.action_id for action in bundle.batch.actions)
        block, certificate = bundle.block, bundle.certificate
        says = f"{block.height} {self.chain.state.block_hash[:8]} decided in ({certificate.term}.{certificate.attempt})"
        self.kernel.note(self.end, "commits", says, height=block.height)
        self.acknowledge(bundle)
        self.start_height(certificate)

    def acknowledge(self, bundle: BlockBundle) -> None:
        self.world.oracles.confirmed(self, bundle.block.height)
        for action in bundle.batch.actions:
            self.world.oracles.acknowledged(self, action.action_id)

    def submit(self, action: ActionEnvelope) -> None:
        """A client hands in an action; it may do so again elsewhere until it is acknowledged."""
        if action.action_id in self.chain.applied:
            self.world.oracles.acknowledged(self, action.action_id)
        elif self.take_in(action):
            self.send(("action", encode(action)))

    def read(self, actor: str) -> tuple[int, Place]:
        """Answers a client where an agent is, and at which height that is so."""
        return self.chain.height, place_of(self.chain.state.tree, actor)

    def take_in(self, action: ActionEnvelope) -> bool:
        if action.action_id in self.chain.applied or action.action_id in self.mempool:
            return False
        try:
            self.world.admissions.check(self.chain.state, action, check_admission)
            new = self.mempool.add(action)
        except (Busy, ActorLimit, NonceUsed, Unauthorized):
            self.kernel.reach("mempool refuses")
            return False
        self.update_work()
        return new

    # Timers of the shell

    def announce(self) -> None:
        """Says how far it has come, and repeats some of what waits."""
        self.world.oracles.remembered(self)
        self.send(("head", encode_value(self.chain.height)))
        self.proofs.announce()
        for action in self.mempool.take_batch()[:4]:
            self.send(("action", encode(action)))
        for statement in self.chain.keyring.revocations.missing_from(()):
            self.send(("revocation", encode(statement)))
        if self.may_change_directory() and self.wanted_directory is not None:
            self.send(("directory", encode(self.wanted_directory)))

    def keep_lease(self) -> None:
        """One turn of the lease loop; the write takes a while, and its answer may be lost."""
        if self.world.scenario.leaseless:
            return
        store = self.world.lease_store
        if not store.away:
            self.keeper.observe(self.now, store.read(self.name))
            decision = self.keeper.decide(
                self.now, wanted=self.wants_lease(), term_floor=self.engine.highest_term, successor=self.transfer.heir
            )
            if not isinstance(decision, Wait):
                self.write_lease(decision.write)
        self.report_lease()

    def wants_lease(self) -> bool:
        return self.engine.is_validator and not self.engine.should_yield and self.rng.random() < 0.98

    def write_lease(self, wish: LeaseWrite) -> None:
        started, fate = self.now, self.rng.random()

        def arrive() -> None:
            stored = self.world.lease_store.write(self.name, wish) if not self.world.lease_store.away else None
            if stored is not None and fate > 0.05:
                self.keeper.written(started, stored)
                self.world.oracles.lease_checked()
                self.report_lease()
                if stored.holder not in (None, self.name):
                    self.transfer.written(stored.term)

        self.later(self.rng.choice((1, 5, 100)), arrive)

    def report_lease(self) -> None:
        view = self.keeper.view(self.now)
        if view != self.view:
            self.view = view
            self.step(LeaseObserved(*view))

    # Messages

    def send(self, frame: Frame) -> None:
        self.world.net.broadcast(self.end, frame)

    def receive(self, source: str, frame: Frame) -> str:
        if not self.up:
            return "down"
        if self.paused_until > self.kernel.now:
            self.later(0, functools.partial(self.receive, source, frame))
            return "paused"
        kind, data = frame
        try:
            self.handle(source, kind, data)
        except AgentWorldError as error:
            self.world.count_refused(kind, error)
            return error.code
        return ""

    def handle(self, source: str, kind: str, data: bytes) -> None:
        match kind:
            case "vote":
                self.handle_vote(self.world.decode(Vote, data))
            case "proposal":
                self.handle_proposal(self.world.decode(ProposalBody, data))
            case "action":
                self.take_in(self.world.decode(ActionEnvelope, data))
            case "head" if (height := decode_value(data)) and isinstance(height, int) and height > self.chain.height:
                self.world.net.send(self.end, source, ("want", encode_value(self.chain.height + 1)))
            case "want" if isinstance(first := decode_value(data), int) and 0 < first <= self.chain.height:
                bundles = tuple(self.chain.bundles[first - 1 : first - 1 + BUNDLES_AT_ONCE])
                self.world.net.send(self.end, source, ("blocks", encode(Blocks(bundles))))
            case "blocks":
                for bundle in self.world.decode(Blocks, data).bundles:
                    self.handle_bundle(bundle)
            case "revocation":
                self.handle_revocation(self.world.decode(Revocation, data))
            case "directory":
                self.handle_directory(self.world.decode(Directory, data))
            case "evidence":
                self.proofs.heard(self.world.decode(Equivocation, data))
            case "proofs-wanted":
                self.proofs.asked(source, data)
            case "proofs":
                self.proofs.heard_all(self.world.decode(Evidence, data))
            case "ready-wanted":
                self.transfer.asked(source)
            case "ready":
                self.transfer.answered(source, self.world.decode(Readiness, data))
            case "lease-changed":
                self.keep_lease()

    def handle_vote(self, vote: Vote) -> None:
        self.world.oracles.vote_heard(self, vote)
        if vote.height <= self.chain.height + 2 and self.engine.is_news(vote):
            self.step(receive_vote(self.chain.keyring.at(vote.height), self.revoked(), vote))

    def handle_proposal(self, body: ProposalBody) -> None:
        if self.chain.height < body.proposal.height <= self.chain.height + 2:
            event = receive_proposal(self.chain.keyring.at(body.proposal.height), self.revoked(), body)
            self.world.oracles.proposal_accepted(self, body.proposal)
            self.step(event)

    def revoked(self) -> frozenset[str]:
        return self.chain.keyring.revoked_key_ids

    def handle_bundle(self, bundle: BlockBundle) -> None:
        if bundle.block.height != self.chain.height + 1:
            return
        check_committed(bundle.block, bundle.certificate, self.chain.keyring.at(bundle.block.height))
        verdict = self.chain.judge(bundle.block, bundle.batch)
        if isinstance(verdict, str):
            raise StateMismatch(verdict)
        self.kernel.reach("synced a block")
        self.commit(bundle)

    def handle_revocation(self, statement: Revocation) -> None:
        keyring = self.chain.keyring
        if statement.key_id in keyring.revocations:
            return
        check_revocation(statement, keyring.newest, revoked_key_ids=keyring.revoked_key_ids, forced=True)
        self.disk.append(REVOCATION, statement, lambda: self.know_revocation(statement))

    def know_revocation(self, statement: Revocation) -> None:
        self.chain.keyring.revocations.add(statement)
        self.kernel.progress += 1
        self.world.oracles.revocation_known(self, statement.key_id)

    def handle_directory(self, directory: Directory) -> None:
        if directory.epoch <= self.chain.keyring.newest.epoch or directory is self.wanted_directory:
            return
        check_next_directory(self.chain.keyring.newest, directory)
        self.wanted_directory = directory
        self.update_work()
