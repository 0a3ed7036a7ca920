"""The consensus engine of one node: height after height, deterministic, without keys, clock, disk or network.

``step`` takes one event and returns what to do. The caller carries the effects out in their order, and reports what
came of them as events; it never reports a vote or a proposal as durable before it has been synced to disk.
"""

from __future__ import annotations

from agentworld_core.consensus.buffer import NextHeight
from agentworld_core.consensus.decided import DecidedHeights
from agentworld_core.consensus.events import (
    CandidateBuilt,
    CandidateJudged,
    ConsensusSettings,
    DurableVotes,
    Effect,
    Event,
    HeightStarted,
    LeaseObserved,
    ProposalDurable,
    ProposalReceived,
    RecordEvidence,
    RequestSync,
    TimerFired,
    VoteDurable,
    VoteReceived,
    WorkPending,
)
from agentworld_core.consensus.offers import Offers
from agentworld_core.consensus.own import Step, check_owner
from agentworld_core.consensus.proposers import HOLDER_ATTEMPTS, Proposers, turns_to_an_honest
from agentworld_core.consensus.timers import Patience, Timers
from agentworld_core.consensus.view import HeightView, view_of
from agentworld_core.consensus.votes import round_of
from agentworld_core.consensus.voting import HeightVoting
from agentworld_core.errors import StateMismatch
from agentworld_core.messages import PRECOMMIT, PREVOTE, Round, Vote


class ConsensusEngine:
    """Takes part in, or follows, the decision of every height of one world.

    Safe whatever the network, the timers and the lease do, as long as ``start`` gets back everything that was reported
    durable; makes progress while a quorum of validators can talk to each other and one of them holds the lease.
    """

    def __init__(self, settings: ConsensusSettings):
        self.settings = settings
        self._proposers = Proposers(leaseless=settings.leaseless)
        self._timers = Timers()
        self._durable = DurableVotes()
        self._voting: HeightVoting | None = None
        self._next = NextHeight()
        self._decided = DecidedHeights()
        self._offers = Offers()
        self._patience = Patience(Round(0, 0))
        self._work_pending = False
        self._opens_at_ms = 0
        self._ticks: tuple[Round, int] = (Round(0, 0), 0)

    # What an observer may want to know

    @property
    def height(self) -> int | None:
        """The height being decided; None before the first HeightStarted."""
        return self._voting.height if self._voting is not None else None

    @property
    def round(self) -> Round | None:
        """The round this node is in."""
        return self._voting.round if self._voting is not None else None

    @property
    def is_validator(self) -> bool:
        """True when this node is a member of the directory in force."""
        return self._voting is not None and self._voting.is_validator

    @property
    def in_progress(self) -> bool:
        """True while a height is being decided and timers run."""
        return self._voting is not None and self._voting.in_progress

    @property
    def highest_term(self) -> int:
        """The highest term seen in a lease, a round or the chain; a new lease must get a higher one to be of use."""
        if self._voting is None:
            return self._proposers.term
        return max(self._proposers.term, self._voting.round.term)

    @property
    def should_yield(self) -> bool:
        """True when this node holds the lease and others had to propose in its place: somebody else should have it.

        It may be cut off from the others while it still reaches the lease service. Not before the block of another is
        decided, or an honest one has tried in vain, since a new term ends the attempts of this one.
        """
        voting, term = self._voting, self._proposers.term
        if voting is None or voting.own_id is None or not self._proposers.holds(voting.own_id, term):
            return False
        if voting.following.left is not None and term <= voting.following.left:
            # Were it to take the lease anew above its round, a liar that leads it could end all attempts of the others.
            return True
        if voting.round.term != term:
            return False
        if voting.round.term == voting.first.term and voting.first.attempt >= HOLDER_ATTEMPTS:
            return True
        return voting.in_progress and voting.round.attempt >= HOLDER_ATTEMPTS + turns_to_an_honest(voting.directory)

    def view(self) -> HeightView | None:
        """Returns a picture of the height being decided; None before the first HeightStarted."""
        return None if self._voting is None else view_of(self._voting)

    def is_news(self, vote: Vote) -> bool:
        """False for a vote that would change nothing if it verified: known, or of a decided height and no proof.

        Cheap, and meant to be asked before its signature is looked at: most votes arrive more than once.
        """
        voting = self._voting
        if voting is None or vote.height > voting.height:
            return True
        if vote.height < voting.height:
            return self._decided.may_prove(vote)
        return not voting.book.knows(vote)

    # Inputs

    def start(self, now_ms: int, durable: DurableVotes) -> list[Effect]:
        """Begins with what survived; call once, before any event, then give HeightStarted. ``now_ms`` is monotonic.

        Raises StateMismatch when that is what another validator has stored.
        """
        if self._voting is not None:
            raise StateMismatch("has already been started", field="engine")
        if self.settings.validator_id is not None:
            check_owner(durable, self.settings.validator_id)
        self._durable = durable
        self._opens_at_ms = now_ms
        return []

    def step(self, now_ms: int, event: Event) -> list[Effect]:
        """Takes one event and returns what to do, in order."""
        effects: list[Effect] = []
        if isinstance(event, HeightStarted):
            effects.extend(self._start_height(now_ms, event))
        elif isinstance(event, LeaseObserved):
            self._proposers.observe(event.term, event.holder)
            if self._voting is not None:
                self._voting.on_lease()
        elif isinstance(event, WorkPending):
            self._work_pending = event.pending
            if self._voting is not None:
                self._voting.on_work(event.pending)
        elif self._voting is not None:
            effects.extend(self._tell(self._voting, event))
            effects.extend(self._compare_offers(event))
        if self._voting is not None:
            self._voting.opened = self._voting.opened or now_ms >= self._opens_at_ms
            self._voting.advance()
            effects.extend(self._voting.take_effects())
            self._patience.note(self._voting.round, busy=self._voting.in_progress)
            effects.extend(self._timers.want(self._wanted_timers(self._voting, now_ms)))
        return effects

    def _tell(self, voting: HeightVoting, event: Event) -> list[Effect]:
        match event:
            case VoteReceived(vote) if vote.height != voting.height:
                return self._beyond(voting, vote.height, event)
            case ProposalReceived(body) if body.proposal.height != voting.height:
                return self._beyond(voting, body.proposal.height, event)
            case VoteReceived():
                voting.on_vote(event)
            case ProposalReceived():
                voting.on_proposal(event)
            case CandidateBuilt(height=height) if height == voting.height:
                voting.on_built(event)
            case CandidateJudged(height=height) if height == voting.height:
                voting.on_judged(event.block_hash, event.valid)
            case VoteDurable(vote) if vote.height == voting.height:
                voting.on_vote_durable(vote)
            case ProposalDurable(body) if body.proposal.height == voting.height:
                voting.on_proposal_durable(body)
            case TimerFired(name) if self._timers.fired(name):
                self._fire(voting, name.split(":")[0])
            case _:
                pass  # the answer to a question of a height that is decided, or a timer that was cancelled
        return []

    def _compare_offers(self, event: Event) -> list[Effect]:
        if not isinstance(event, ProposalReceived | ProposalDurable):
            return []
        proof = self._offers.note(event.body.proposal)
        return [RecordEvidence(proof)] if proof is not None else []

    def _fire(self, voting: HeightVoting, kind: str) -> None:
        if kind == "pace":
            voting.opened = True  # the caller's timer may be a little ahead of its clock
        elif kind == "propose":
            voting.on_propose_timeout()
        elif kind == "prevote":
            voting.on_prevote_timeout()
        elif kind == "precommit":
            voting.on_precommit_timeout()
        elif kind == "stall":
            voting.on_stall_timeout()
        elif kind == "rebroadcast":
            tick = self._tick(voting)
            self._ticks = (voting.round, tick + 1)
            voting.on_rebroadcast(tick)

    def _start_height(self, now_ms: int, started: HeightStarted) -> list[Effect]:
        effects: list[Effect] = []
        if self._voting is not None:
            if started.height <= self._voting.height:
                return []
            late = self._decided.add(self._voting.height, self._voting.book, started.certificate)
            effects.extend(RecordEvidence(item) for item in late)
        self._opens_at_ms = max(now_ms, self._opens_at_ms + (self.settings.block_interval_ms if self._voting else 0))
        self._ticks = (Round(0, 0), 0)
        self._offers.forget_below(started.height)
        voting = HeightVoting(self.settings, started, self._proposers)
        self._patience = Patience(voting.first)
        voting.on_work(self._work_pending)
        self._durable = _from_height(self._durable, started.height)
        voting.restore(_at_height(self._durable, started.height))
        for event in self._next.take(started.height):
            if isinstance(event, VoteReceived):
                voting.on_vote(event)
            else:
                voting.on_proposal(event)
        self._voting = voting
        return effects

    def _beyond(self, voting: HeightVoting, height: int, event: VoteReceived | ProposalReceived) -> list[Effect]:
        """Compares what is late, keeps what is for the next height, and notices when others are far ahead."""
        if height < voting.height:
            late = self._decided.compare(event.vote) if isinstance(event, VoteReceived) else []
            return [RecordEvidence(item) for item in late]
        if height == voting.height + 1:
            self._next.add(event)
        decided = self._next.note_height(voting.directory, event, own=voting.height)
        return [RequestSync(decided)] if decided is not None and not voting.decided else []

    def _wanted_timers(self, voting: HeightVoting, now_ms: int) -> dict[str, int]:
        wanted: dict[str, int] = {}
        if voting.decided or not voting.is_validator:
            return wanted
        if not voting.in_progress:
            return wanted
        if not voting.opened:
            wanted[f"pace:{voting.height}"] = self._opens_at_ms - now_ms
        round_, timeouts = voting.round, self.settings.timeouts
        tries = self._patience.tries(round_)
        place = f"{voting.height}:{round_.term}.{round_.attempt}"
        if voting.step is Step.PROPOSE and voting.opened:
            wanted[f"propose:{place}"] = timeouts.propose(tries)
        if voting.step is Step.PREVOTE and voting.book.tally(round_, PREVOTE).weight >= voting.book.quorum:
            wanted[f"prevote:{place}"] = timeouts.vote(tries)
        if voting.book.tally(round_, PRECOMMIT).weight >= voting.book.quorum:
            wanted[f"precommit:{place}"] = timeouts.vote(tries)
        if voting.opened:
            wanted[f"stall:{place}"] = 2 * (timeouts.propose(tries) + timeouts.vote(tries))
        tick = self._tick(voting)
        wanted[f"rebroadcast:{place}:{tick}"] = timeouts.rebroadcast(tick)
        return wanted

    def _tick(self, voting: HeightVoting) -> int:
        round_, tick = self._ticks
        return tick if round_ == voting.round else 0


def _from_height(durable: DurableVotes, height: int) -> DurableVotes:
    return DurableVotes(
        votes=tuple(vote for vote in durable.votes if vote.height >= height),
        proposals=tuple(body for body in durable.proposals if body.proposal.height >= height),
        locks=tuple(lock for lock in durable.locks if lock.body.proposal.height >= height),
    )


def _at_height(durable: DurableVotes, height: int) -> DurableVotes:
    votes = sorted((v for v in durable.votes if v.height == height), key=lambda vote: (round_of(vote), vote.phase))
    return DurableVotes(
        votes=tuple(votes),
        proposals=tuple(body for body in durable.proposals if body.proposal.height == height),
        locks=tuple(lock for lock in durable.locks if lock.body.proposal.height == height),
    )
