"""One height: the rules by which validators agree on one block (Tendermint, Buchman et al. 2018, algorithm 1).

The round is ``(lease term, attempt)``. Only the order of rounds matters for safety, so a new lease term is simply a
higher round: the lease chooses who proposes and thereby whether there is progress, never which block is decided.

Rules are applied until none changes anything, so that the order in which messages arrive does not matter:
a quorum of precommits for a block decides it; votes of more than may lie from a higher round move this node there; a
proposal is prevoted if it is valid and the lock allows it; a quorum of prevotes locks and precommits.
"""

from __future__ import annotations

from agentworld_core.codec import encode
from agentworld_core.consensus.certificates import certificate_of
from agentworld_core.consensus.drafts import draft_proposal, draft_vote
from agentworld_core.consensus.events import (
    BroadcastProposal,
    BroadcastVote,
    BuildCandidate,
    CandidateBuilt,
    Commit,
    ConsensusSettings,
    DurableVotes,
    Effect,
    HeightStarted,
    JudgeCandidate,
    LockedValue,
    OwnVoteHeard,
    PersistProposal,
    PersistVote,
    ProposalReceived,
    RecordEvidence,
    RequestSync,
    VoteReceived,
)
from agentworld_core.consensus.following import Following
from agentworld_core.consensus.own import OwnWords, Step
from agentworld_core.consensus.proposals import Proposals
from agentworld_core.consensus.proposers import HOLDER_ATTEMPTS, Proposers, turns_to_an_honest
from agentworld_core.consensus.rebroadcast import what_to_repeat
from agentworld_core.consensus.verify import proposal_round, valid_round
from agentworld_core.consensus.votes import VoteBook, round_of
from agentworld_core.errors import StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.membership.directory import find_member
from agentworld_core.messages import PRECOMMIT, PREVOTE, ActionBatch, Proposal, ProposalBody, Round, Vote, WorldBlock


class HeightVoting:
    """Decides one height; ``take_effects`` hands out what has to be done since it was last called."""

    def __init__(self, settings: ConsensusSettings, started: HeightStarted, proposers: Proposers):
        self.settings = settings
        self.height = started.height
        self.directory = started.directory
        self.proposers = proposers
        self.first = proposers.first_round(started.parent_round)
        own = settings.validator_id
        self.own_id = own if own is not None and find_member(started.directory, own) is not None else None
        self.book = VoteBook(started.directory, own_id=self.own_id)
        self.proposals = Proposals()
        self.round = max(self.first, Round(proposers.term, 0))
        self.following = Following(self.book, self.round.term)
        self.step = Step.PROPOSE
        self.locked: LockedValue | None = None
        self.valid: LockedValue | None = None
        self.decided = False
        self.opened = False
        self.work_pending = False
        self.own = OwnWords()
        self._building: Round | None = None
        self.verdicts: dict[str, bool] = {}
        self._judging: dict[str, None] = {}
        self._asked_sync = False
        self._effects: list[Effect] = []

    @property
    def is_validator(self) -> bool:
        """True when this node is a member at this height."""
        return self.own_id is not None

    @property
    def in_progress(self) -> bool:
        """True when there is a reason to hurry: there is work, or others are at it already."""
        if self.decided or not self.is_validator:
            return False
        if self.locked is not None or self.valid is not None or self.proposals.seen:
            return True
        if self.book.others_weight() >= self.book.honest:
            return True
        return self.work_pending

    def take_effects(self) -> list[Effect]:
        """Returns the effects since the last call, in the order in which they must be carried out."""
        effects, self._effects = self._effects, []
        return effects

    # What happens

    def restore(self, durable: DurableVotes) -> None:
        """Takes up what this validator stored at this height before it stopped.

        Raises StateMismatch when a stored precommit has lost the lock it stands on: to go on would be to forget it.
        """
        reached = [round_of(vote) for vote in durable.votes]
        reached += [proposal_round(body.proposal) for body in durable.proposals]
        self.round = max([self.round, *reached])
        for lock in durable.locks:
            self.proposals.keep(lock.body)
            self.verdicts[lock.block_hash] = True
            for vote in lock.polka:
                self.book.add(vote, current=self.round)
            if self.locked is None or lock.round > self.locked.round:
                self.locked = self.valid = lock
        for body in durable.proposals:
            self._note_own_proposal(body)
        for vote in durable.votes:
            self._note_own_vote(vote)
            held = self.locked.round if self.locked is not None else Round(-1, 0)
            if vote.phase == PRECOMMIT and vote.block_hash is not None and round_of(vote) > held:
                raise StateMismatch("a stored precommit lacks its lock", field="locks", value=vote.block_hash)
        self.step = self.own.step(self.round)

    def on_lease(self) -> None:
        """The lease has changed hands or term: a higher term is a higher round."""
        if not self.decided and self.proposers.term > self.round.term:
            self._enter(Round(self.proposers.term, 0))

    def on_work(self, pending: bool) -> None:
        """There is, or is no longer, something to put into a block."""
        if pending and not self.work_pending and self._building == self.round:
            self._building = None
        self.work_pending = pending

    def on_proposal(self, event: ProposalReceived) -> None:
        """A verified proposal of this height has arrived."""
        body, proposal = event.body, event.body.proposal
        round_, block_hash = proposal_round(proposal), proposal.block_hash
        if self.decided or not self._in_scope(proposal) or body.block.term < self.first.term:
            return
        if self.book.is_backed(block_hash):
            self.proposals.keep(body)
        if round_ < self.round or event.revoked:
            return
        owner = self.proposers.proposer_of(round_, height=self.height, directory=self.directory)
        if round_ == self.round and owner == proposal.proposer_id:
            self.proposals.accept(body)
        elif round_ > self.round or owner is None or self._is_vouched(body):
            self.proposals.wait(body)

    def on_vote(self, event: VoteReceived) -> None:
        """A verified vote of this height has arrived."""
        vote = event.vote
        if not self._in_scope(vote) or not self.book.counts(vote):
            return
        if vote.validator_id == self.own_id and self.own.note_heard(vote, self.round):
            self._effects.append(OwnVoteHeard(vote))
        added = self.book.add(vote, current=self.round, revoked=event.revoked)
        if added.evidence is not None:
            self._effects.append(RecordEvidence(added.evidence))

    def on_built(self, built: CandidateBuilt) -> None:
        """The candidate asked for is ready; it is proposed if the round still waits for it."""
        if built.candidate is None or built.round != self.round or self.step is not Step.PROPOSE:
            return
        if self._building != self.round or self.own.has_proposed(self.round) or not self.may_propose():
            return
        block_hash = built.block_hash or content_id(encode(built.candidate[0]))
        self._propose_block(built.candidate, block_hash, since=None)

    def on_judged(self, block_hash: str, valid: bool) -> None:
        """The verdict on a block is known."""
        if block_hash in self._judging:
            del self._judging[block_hash]
            self.verdicts[block_hash] = valid

    def on_vote_durable(self, vote: Vote) -> None:
        """An own vote is on disk: only now it counts and may be sent."""
        self._note_own_vote(vote)
        self._effects.append(BroadcastVote(vote))

    def on_proposal_durable(self, body: ProposalBody) -> None:
        """An own proposal is on disk: only now it counts and may be sent."""
        self._note_own_proposal(body)
        if proposal_round(body.proposal) == self.round and not self.decided:
            self._effects.append(BroadcastProposal(body))

    def on_propose_timeout(self) -> None:
        """No proposal came in time: vote for none."""
        if self.step is Step.PROPOSE:
            self._vote(PREVOTE, None)

    def on_prevote_timeout(self) -> None:
        """No block got a quorum of prevotes in time: precommit none."""
        if self.step is Step.PREVOTE:
            self._vote(PRECOMMIT, None)

    def on_precommit_timeout(self) -> None:
        """No block got a quorum of precommits in time: try again, elsewhere once an honest one has had a turn here."""
        tried = self.round.attempt + 1 - HOLDER_ATTEMPTS
        if tried <= 0 or tried % turns_to_an_honest(self.directory) or not self._follow():
            self._enter(Round(self.round.term, self.round.attempt + 1))

    def on_stall_timeout(self) -> None:
        """The round has lasted far longer than its timeouts: go where others are, if too few vote here to leave it."""
        if self.book.tally(self.round, PRECOMMIT).weight < self.book.quorum:
            self._follow()

    def on_rebroadcast(self, tick: int) -> None:
        """Others may have missed something: say it again."""
        self._asked_sync = False
        self._effects.extend(what_to_repeat(self, tick))

    def advance(self) -> None:
        """Applies the rules until none of them changes anything."""
        while not self.decided and (self._decide() or self._skip() or self._adopt() or self._remember() or self._act()):
            pass

    # The rules; each returns whether it changed something

    def _decide(self) -> bool:
        for round_, block_hash in self.book.decisions():
            body = self.proposals.block(block_hash)
            if body is None:
                if not self._asked_sync:
                    self._asked_sync = True
                    self._effects.append(RequestSync(self.height))
                continue
            certificate = certificate_of(self.book.tally(round_, PRECOMMIT).deciding_votes(block_hash))
            self.decided = True
            self._effects.append(Commit(self.height, block_hash, body, certificate))
            return True
        return False

    def _skip(self) -> bool:
        reached = self.book.latest_honest_round()
        if reached is None or reached <= self.round:
            return False
        self._enter(reached)
        return True

    def _adopt(self) -> bool:
        """Accepts a waiting proposal once its proposer is known to have the turn, or enough others say so."""
        if self.proposals.accepted(self.round) is not None:
            return False
        owner = self.proposers.proposer_of(self.round, height=self.height, directory=self.directory)
        for body in self.proposals.waiting(self.round):
            if body.proposal.proposer_id == owner or self._is_vouched(body):
                self.proposals.accept(body)
                return True
        return False

    def _remember(self) -> bool:
        """Keeps the latest block that a quorum prevoted, to propose it when it is this node's turn."""
        for round_, block_hash in reversed(self.book.polkas()):
            if round_ > self.round or (self.valid is not None and round_ <= self.valid.round):
                continue
            body = self.proposals.block(block_hash)
            if body is not None and self.verdicts.get(block_hash, True):
                self.valid = self._locked_value(round_, body)
                return True
        return False

    def _act(self) -> bool:
        if not self.is_validator:
            return False
        if self.step is Step.PROPOSE:
            self._propose()
            return self._prevote()
        return self.step is Step.PREVOTE and self._precommit()

    def _propose(self) -> None:
        if self.own.has_proposed(self.round) or not self.opened or not self.may_propose():
            return
        if self.valid is not None:
            body = self.valid.body
            self._propose_block((body.block, body.batch), self.valid.block_hash, since=self.valid.round)
        elif self._building != self.round and (self.work_pending or self.proposals.seen):
            self._building = self.round
            self._effects.append(BuildCandidate(self.height, self.round))

    def _prevote(self) -> bool:
        body = self.proposals.accepted(self.round)
        if body is None:
            return False
        block_hash, since = body.proposal.block_hash, valid_round(body.proposal)
        if since is not None and not self.book.has_polka(since, block_hash):
            return False
        if not self._lock_allows(block_hash, since):
            self._vote(PREVOTE, None)
            return True
        verdict = self._verdict(body)
        if verdict is None:
            return False
        self._vote(PREVOTE, block_hash if verdict else None)
        return True

    def _precommit(self) -> bool:
        prevotes = self.book.tally(self.round, PREVOTE)
        if prevotes.proven(None) >= self.book.quorum:
            self._vote(PRECOMMIT, None)
            return True
        block_hash = prevotes.block_with(self.book.quorum)
        body = self.proposals.block(block_hash) if block_hash is not None else None
        if body is None or not self._verdict(body):
            return False
        self.locked = self.valid = self._locked_value(self.round, body)
        self._vote(PRECOMMIT, body.proposal.block_hash)
        return True

    # Parts of the rules

    def _follow(self) -> bool:
        term = self.following.next_term(self.round.term)
        if term is not None:
            self._enter(Round(term, 0))
        return term is not None

    def _enter(self, round_: Round) -> None:
        self.round = round_
        self.step = self.own.step(round_)
        self._building = None
        self.book.prune(round_)
        self.proposals.prune(round_, needed=self._is_needed)
        self.verdicts = {key: good for key, good in self.verdicts.items() if self.proposals.block(key) is not None}
        self.own.prune(round_)

    def _vote(self, phase: int, block_hash: str | None) -> None:
        self.step = Step.PREVOTE if phase == PREVOTE else Step.PRECOMMIT
        if self.own_id is None or (self.round, phase) in self.own.votes:
            return
        self.own.votes[self.round, phase] = block_hash
        vote = draft_vote(
            self.directory,
            validator_id=self.own_id,
            height=self.height,
            round_=self.round,
            phase=phase,
            block_hash=block_hash,
        )
        lock = self.locked if phase == PRECOMMIT and block_hash is not None else None
        self._effects.append(PersistVote(vote, lock))

    def _verdict(self, body: ProposalBody) -> bool | None:
        block_hash = body.proposal.block_hash
        verdict = self.verdicts.get(block_hash)
        if verdict is None and block_hash not in self._judging:
            self._judging[block_hash] = None
            self._effects.append(JudgeCandidate(body))
        return verdict

    def _lock_allows(self, block_hash: str, since: Round | None) -> bool:
        if self.locked is None or self.locked.block_hash == block_hash:
            return True
        return since is not None and self.locked.round <= since

    def _locked_value(self, round_: Round, body: ProposalBody) -> LockedValue:
        return LockedValue(round_, body, self.book.tally(round_, PREVOTE).votes(body.proposal.block_hash))

    def may_propose(self) -> bool:
        """True when it is this node's turn, as far as it can tell."""
        whose = self.proposers.live(self.round, height=self.height, directory=self.directory)
        return self.own_id is not None and whose == self.own_id

    def _propose_block(self, candidate: tuple[WorldBlock, ActionBatch], hash_: str, *, since: Round | None) -> None:
        draft = {"block_hash": hash_, "proposer_id": self.own_id or ""}
        body = draft_proposal(self.directory, candidate, round_=self.round, since=since, **draft)
        self.verdicts[hash_] = True
        self.own.note_proposed(self.round)
        self._effects.append(PersistProposal(body))

    def _note_own_vote(self, vote: Vote) -> None:
        self.own.note_vote(vote)
        self.book.add(vote, current=self.round)

    def _note_own_proposal(self, body: ProposalBody) -> None:
        self.own.note_proposed(proposal_round(body.proposal))
        self.verdicts[body.proposal.block_hash] = True
        self.proposals.accept(body)

    def _in_scope(self, message: Vote | Proposal) -> bool:
        if message.world_id != self.settings.world_id or message.directory_epoch != self.directory.epoch:
            return False
        if self.settings.leaseless:
            return message.term == 0
        return message.term >= self.first.term

    def _is_vouched(self, body: ProposalBody) -> bool:
        """True when enough others prevoted the proposal that one of them must have seen its proposer hold the lease."""
        prevotes = self.book.tally(proposal_round(body.proposal), PREVOTE)
        return prevotes.weight_of(body.proposal.block_hash) >= self.book.honest

    def _is_needed(self, block_hash: str) -> bool:
        held = [value.block_hash for value in (self.locked, self.valid) if value is not None]
        return block_hash in held or self.book.is_backed(block_hash)
