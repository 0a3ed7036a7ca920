"""A bench for one engine: it answers disks at once (or not), and lets the test play all other validators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from agentworld_core.codec import encode
from agentworld_core.consensus.drafts import draft_proposal, draft_vote
from agentworld_core.consensus.engine import ConsensusEngine
from agentworld_core.consensus.events import (
    BuildCandidate,
    CandidateBuilt,
    CandidateJudged,
    ConsensusSettings,
    DurableVotes,
    Effect,
    Event,
    HeightStarted,
    JudgeCandidate,
    LeaseObserved,
    LockedValue,
    PersistProposal,
    PersistVote,
    ProposalDurable,
    ProposalReceived,
    SetTimer,
    Timeouts,
    TimerFired,
    VoteDurable,
    VoteReceived,
    WorkPending,
)
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionBatch, Directory, ProposalBody, Round, Vote, WorldBlock
from agentworld_core.ordering.batch import draft_batch
from agentworld_core.signing import sign
from tests.unit.core.membership.worlds import WORLD, first_directory, signer

FOUR = first_directory({"a": 1, "b": 1, "c": 1, "d": 1})
R = Round
NOWHERE = R(0, 0)
E = TypeVar("E")


def candidate(
    proposer: str, round_: Round, *, height: int = 1, mark: str = "", directory: Directory = FOUR
) -> tuple[WorldBlock, ActionBatch]:
    """A signed block and batch; ``mark`` tells blocks of one round apart."""
    header = {"height": height, "term": round_.term, "proposer_id": proposer, "timestamp_ms": 7}
    batch = sign(draft_batch(WORLD, (), **header), signer(proposer))  # type: ignore[arg-type]
    root = content_id(f"{height} {mark}".encode())
    block = WorldBlock(
        world_id=WORLD,
        height=height,
        prev_block_hash=content_id(str(height - 1).encode()),
        action_root=content_id(encode(batch)),
        event_root=root,
        state_root=root,
        journal_ref=root,
        snapshot_ref=None,
        receipts_root=root,
        proposer_id=proposer,
        timestamp_ms=7,
        signature=b"",
        term=round_.term,
        attempt=round_.attempt,
        directory_epoch=directory.epoch,
        directory_hash=root,
        prev_state_root=root,
        segments=(),
        tick=height,
        directory_change=None,
        key_id="",
    )
    return sign(block, signer(proposer)), batch


def proposal(
    proposer: str,
    round_: Round,
    *,
    since: Round | None = None,
    of: ProposalBody | None = None,
    height: int = 1,
    mark: str = "",
) -> ProposalBody:
    """A signed proposal of a new block, or of the block ``of`` another."""
    made = candidate(proposer, round_, height=height, mark=mark) if of is None else (of.block, of.batch)
    block_hash = content_id(encode(made[0]))
    body = draft_proposal(FOUR, made, block_hash=block_hash, round_=round_, since=since, proposer_id=proposer)
    return replace(body, proposal=sign(body.proposal, signer(proposer)))


def vote(
    name: str, round_: Round, phase: int, value: ProposalBody | str | None, *, height: int = 1, key: str = ""
) -> Vote:
    """A signed vote for the block of a proposal, a hash, or nothing."""
    block_hash = value.proposal.block_hash if isinstance(value, ProposalBody) else value
    drafted = draft_vote(FOUR, validator_id=name, height=height, round_=round_, phase=phase, block_hash=block_hash)
    return sign(drafted, signer(key or name))


@dataclass
class Bench:
    """One engine with its disk; ``auto`` answers storage, building and judging at once."""

    own: str | None = "a"
    directory: Directory = FOUR
    leaseless: bool = False
    holder: str | None = "b"
    work: bool = True
    auto: bool = True
    valid: Callable[[ProposalBody], bool] = lambda _: True
    block_interval_ms: int = 0
    durable: DurableVotes = field(default_factory=DurableVotes)
    parent_round: Round = NOWHERE
    now_ms: int = 0

    def __post_init__(self) -> None:
        settings = ConsensusSettings(
            world_id=WORLD,
            validator_id=self.own,
            leaseless=self.leaseless,
            block_interval_ms=self.block_interval_ms,
            timeouts=Timeouts(),
        )
        self.engine = ConsensusEngine(settings)
        self.effects: list[Effect] = []
        self.disk_votes: list[tuple[Vote, LockedValue | None]] = []
        self.disk_proposals: list[ProposalBody] = []
        self.timers: dict[str, int] = {}
        assert self.engine.start(self.now_ms, self.durable) == []
        if self.holder is not None and not self.leaseless:
            self.give(LeaseObserved(1, self.holder))
        self.give(WorkPending(self.work))
        self.start_height(1)

    def start_height(self, height: int) -> None:
        self.give(HeightStarted(height, self.directory, self.parent_round))

    def give(self, event: Event) -> list[Effect]:
        """Gives one event and all automatic answers; returns every effect that came of them."""
        first = len(self.effects)
        queue: list[Event] = [event]
        while queue:
            for effect in self.engine.step(self.now_ms, queue.pop(0)):
                self.effects.append(effect)
                if isinstance(effect, SetTimer):
                    self.timers[effect.name] = effect.delay_ms
                elif self.auto:
                    queue.extend(self.answer(effect))
        return self.effects[first:]

    def answer(self, effect: Effect) -> list[Event]:
        match effect:
            case PersistVote(unsigned, lock):
                signed = sign(unsigned, signer(self.own or ""))
                self.disk_votes.append((signed, lock))
                return [VoteDurable(signed)]
            case PersistProposal(body):
                stored = replace(body, proposal=sign(body.proposal, signer(self.own or "")))
                self.disk_proposals.append(stored)
                return [ProposalDurable(stored)]
            case BuildCandidate(height, round_):
                return [CandidateBuilt(height, round_, candidate(self.own or "", round_, height=height))]
            case JudgeCandidate(body):
                good = self.valid(body)
                return [CandidateJudged(body.proposal.height, body.proposal.block_hash, good)]
        return []

    def hear(self, *votes: Vote) -> list[Effect]:
        return [effect for item in votes for effect in self.give(VoteReceived(item))]

    def propose(self, body: ProposalBody) -> list[Effect]:
        return self.give(ProposalReceived(body))

    def fire(self, kind: str) -> list[Effect]:
        """Fires the timer of this kind that was set last."""
        name = [name for name in self.timers if name.startswith(f"{kind}:")][-1]
        return self.give(TimerFired(name))

    def restarted(self, **changes: object) -> Bench:
        """A new engine with what this one's disk holds."""
        durable = DurableVotes(
            votes=tuple(item for item, _ in self.disk_votes),
            proposals=tuple(self.disk_proposals),
            locks=tuple(lock for _, lock in self.disk_votes if lock is not None),
        )
        return replace(self, durable=durable, **changes)  # type: ignore[arg-type]


def only(effects: list[Effect], kind: type[E]) -> list[E]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]
