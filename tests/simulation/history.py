"""What happened in one run, for people: the last marks always, everything including messages when it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agentworld_core.codec import decode, decode_value
from agentworld_core.consensus.evidence import Evidence, accused, phase_name, place_of
from agentworld_core.messages import (
    PREVOTE,
    ActionEnvelope,
    Blocks,
    Directory,
    Equivocation,
    ProposalBody,
    Revocation,
    Vote,
)

Frame = tuple[str, bytes]
MARKS_KEPT = 60
CHATTER = ("head", "action", "want", "proofs-wanted")
"""Messages that are sent again and again and rarely tell anything; left out of a history unless it is a full one."""


@dataclass(frozen=True)
class Mark:
    """Something that happened at a lane: a node, the network, the lease service or the world."""

    at: int
    lane: str
    kind: str
    text: str
    height: int = 0


@dataclass
class Leg:
    """The way of a message to one of its receivers; ``arrives_at`` is None for one that is lost."""

    target: str
    arrives_at: int | None
    fate: str = ""

    def __str__(self) -> str:
        if self.arrives_at is None:
            return f"{self.target} {self.fate}"
        return f"{self.target}@{self.arrives_at}{f' ({self.fate})' if self.fate else ''}"


@dataclass(frozen=True)
class Sent:
    """A message that left a lane, and its legs."""

    at: int
    lane: str
    kind: str
    text: str
    height: int = 0
    legs: list[Leg] = field(default_factory=list)


class History:
    """Marks and messages in the order in which they happened; messages only where ``full`` is set."""

    def __init__(self, *, full: bool = False):
        self.full = full
        self.items: deque[Mark | Sent] = deque(maxlen=None if full else MARKS_KEPT)

    def add(self, item: Mark | Sent) -> None:
        """Adds what happened last."""
        self.items.append(item)

    def send(self, at: int, lane: str, frame: Frame) -> Sent:
        """Adds a message that leaves now; its legs are added by the network."""
        text, height = describe(frame)
        sent = Sent(at, lane, frame[0], text, height)
        self.items.append(sent)
        return sent

    def lines(self, *, chatter: bool = False) -> Iterator[str]:
        """Yields one line for each thing that happened."""
        for item in self.items:
            if isinstance(item, Mark):
                yield f"{item.at:>7}  {item.lane:<8} {item.kind:<10} {item.text}"
            elif chatter or item.kind not in CHATTER:
                legs = ", ".join(str(leg) for leg in item.legs)
                yield f"{item.at:>7}  {item.lane:<8} {item.kind:<10} {item.text} -> {legs}"


def describe(frame: Frame) -> tuple[str, int]:
    """Returns what a frame says, in a few words, and the height that it is about (0 for none)."""
    kind, data = frame
    match kind:
        case "vote":
            return _describe_vote(decode(Vote, data))
        case "proposal":
            return _describe_proposal(decode(ProposalBody, data))
        case "blocks":
            heights = [bundle.block.height for bundle in decode(Blocks, data).bundles]
            return f"{heights[0]}..{heights[-1]}" if heights else "none", heights[-1] if heights else 0
        case "action":
            action = decode(ActionEnvelope, data)
            return f"{action.actor_id} {action.nonce} ({action.action_id[:8]})", 0
        case "directory":
            directory = decode(Directory, data)
            return f"epoch {directory.epoch}: " + ", ".join(f"{m.member_id}x{m.weight}" for m in directory.members), 0
        case "evidence":
            proof = decode(Equivocation, data)
            height, term, attempt, _ = place_of(proof.first)
            return f"{accused(proof)} signed two {phase_name(proof)}s at {height} ({term}.{attempt})", height
        case "proofs":
            return f"{len(decode(Evidence, data).items)} of them", 0
        case "revocation":
            return f"of key {decode(Revocation, data).key_id[:8]}", 0
        case _:
            return str(decode_value(data)), 0


def _describe_vote(vote: Vote) -> tuple[str, int]:
    phase = "prevote" if vote.phase == PREVOTE else "precommit"
    value = vote.block_hash[:8] if vote.block_hash is not None else "nothing"
    text = f"{phase} of {vote.validator_id} for {value} at {vote.height} ({vote.term}.{vote.attempt})"
    return text, vote.height


def _describe_proposal(body: ProposalBody) -> tuple[str, int]:
    proposal: Any = body.proposal
    since = f", valid since ({proposal.valid_term}.{proposal.valid_attempt})" if proposal.valid_term is not None else ""
    text = (
        f"{proposal.block_hash[:8]} by {proposal.proposer_id} at {proposal.height} "
        f"({proposal.term}.{proposal.attempt}), {len(body.batch.actions)} actions{since}"
    )
    return text, proposal.height
