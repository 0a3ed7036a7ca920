"""Proof that a validator signed two different votes or proposals where it may sign one; anyone can check it offline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from agentworld_core.codec import Id, Value, encode, encode_value, items_up_to, message
from agentworld_core.consensus.verify import verify_proposal_alone, verify_vote
from agentworld_core.errors import StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.messages import PRECOMMIT, PREVOTE, Directory, Equivocation, Proposal, Vote

PER_VALIDATOR = 4
"""Proofs kept against one validator: the first says all, a few more cost little, and a cheat can make any number."""

MAX_EVIDENCE = 256

PROPOSING = 0
"""The phase of a proposal, before the votes on it."""

Place = tuple[int, int, int, int]


@message(70, "evidence")
class Evidence:
    """The proofs that a node holds, sorted by their content ids."""

    world_id: Id
    items: Annotated[tuple[Equivocation, ...], items_up_to(MAX_EVIDENCE)]


def accused(evidence: Equivocation) -> str:
    """Returns the id of the validator that the proof is against."""
    return _signer(evidence.first)


def place_of(signed: Vote | Proposal) -> Place:
    """Returns where a validator may sign one thing: height, term, attempt, and phase (``PROPOSING`` for a proposal)."""
    phase = signed.phase if isinstance(signed, Vote) else PROPOSING
    return (signed.height, signed.term, signed.attempt, phase)


def phase_name(evidence: Equivocation) -> str:
    """Returns what was signed twice: ``proposal``, ``prevote``, ``precommit``, or the number of what proves nothing."""
    phase = place_of(evidence.first)[3]
    return {PROPOSING: "proposal", PREVOTE: "prevote", PRECOMMIT: "precommit"}.get(phase, str(phase))


def contradicts(first: Vote | Proposal, second: Vote | Proposal) -> bool:
    """True when both are of one validator for one height, round and phase, and name different blocks."""
    same = (first.world_id, _signer(first), place_of(first)) == (second.world_id, _signer(second), place_of(second))
    return same and type(first) is type(second) and first.block_hash != second.block_hash


def evidence_of(first: Vote | Proposal, second: Vote | Proposal) -> Equivocation:
    """Returns the evidence made of two contradicting votes or proposals, the same whichever was seen first."""
    if (first.block_hash or "") > (second.block_hash or ""):
        first, second = second, first
    return Equivocation(first=first, second=second)


def check_equivocation(evidence: Equivocation, directory: Directory) -> None:
    """Raises a typed error unless both verify under the directory of their height and contradict each other."""
    for signed in (evidence.first, evidence.second):
        if isinstance(signed, Vote):
            verify_vote(directory, (), signed)
        else:
            verify_proposal_alone(directory, (), signed)
    if not contradicts(evidence.first, evidence.second):
        raise StateMismatch("do not contradict each other", field="second", value=evidence.second.block_hash)
    if evidence != evidence_of(evidence.first, evidence.second):
        raise StateMismatch("are not in the order of their block hashes", field="second")


def evidence_id(evidence: Equivocation) -> str:
    """Returns the content id of the proof."""
    return content_id(encode(evidence))


class EvidenceSet:
    """The proofs that a node knows: it only grows, a few for each validator, one for each place where a vote can be."""

    def __init__(self, items: Iterable[Equivocation] = ()):
        self._items: dict[str, Equivocation] = {}
        self._places: dict[str, dict[Place, None]] = {}
        for item in items:
            self.add(item)

    def __len__(self) -> int:
        return len(self._items)

    def lacks(self, evidence: Equivocation) -> bool:
        """True when the proof would be taken in: it says something new, and there is room for it."""
        places = self._places.get(accused(evidence), {})
        room = len(places) < PER_VALIDATOR and len(self._items) < MAX_EVIDENCE
        return room and place_of(evidence.first) not in places

    def add(self, evidence: Equivocation) -> bool:
        """Takes in a checked proof; False when it is not lacking."""
        if not self.lacks(evidence):
            return False
        self._items[evidence_id(evidence)] = evidence
        self._places.setdefault(accused(evidence), {})[place_of(evidence.first)] = None
        return True

    def get(self, content_hash: str) -> Equivocation | None:
        """Returns the proof with this content id, or None."""
        return self._items.get(content_hash)

    def items(self) -> list[tuple[str, Equivocation]]:
        """Returns every proof with its content id, sorted by it."""
        return sorted(self._items.items(), key=lambda item: item[0])

    @property
    def hash(self) -> str:
        """A digest of what is proven: equal on two nodes as soon as neither lacks anything that the other holds.

        Not of the proofs: who voted in three ways has made three for one place, of which every node keeps the first
        that it saw; and who has been proven guilty often enough is so by whichever proofs.
        """
        says: list[Value] = [
            [name, "enough"] if len(places) >= PER_VALIDATOR else [name, *(list(place) for place in sorted(places))]
            for name, places in sorted(self._places.items())
        ]
        return content_id(encode_value("full" if len(self._items) >= MAX_EVIDENCE else says))

    def as_message(self, world_id: str) -> Evidence:
        """Returns all proofs, sorted by their content ids."""
        return Evidence(world_id=world_id, items=tuple(item for _, item in self.items()))


def _signer(signed: Vote | Proposal) -> str:
    return signed.validator_id if isinstance(signed, Vote) else signed.proposer_id
