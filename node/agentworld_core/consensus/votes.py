"""Counting votes: by weight, by value, without ever forgetting who voted twice, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentworld_core.consensus.evidence import evidence_of
from agentworld_core.membership.directory import honest_weight, quorum_weight
from agentworld_core.messages import PRECOMMIT, PREVOTE, Directory, Equivocation, Round, Vote

FUTURE_ROUNDS_PER_VALIDATOR = 4
PAST_ROUNDS_PER_VALIDATOR = 64
PAST_ROUNDS_KEPT = 8


def round_of(vote: Vote) -> Round:
    """Returns the round of the vote."""
    return Round(vote.term, vote.attempt)


class Tally:
    """The votes of one phase of one round.

    A validator counts once towards the round and once towards each value it voted for: somebody who shows different
    votes to different nodes must not be able to keep a quorum from being seen. A vote under a revoked key counts
    towards the round and what is *proven* of it, never towards what is decided now.
    """

    def __init__(self) -> None:
        self._by_value: dict[str | None, dict[str, Vote]] = {}
        self._revoked: dict[str | None, dict[str, int]] = {}
        self._proven: dict[str | None, int] = {}
        self._first: dict[str, Vote] = {}
        self.weight = 0

    def first_of(self, validator_id: str) -> Vote | None:
        """Returns the first vote seen of the validator."""
        return self._first.get(validator_id)

    def has(self, value: str | None, validator_id: str) -> bool:
        """True when the validator's vote for the value is counted."""
        return validator_id in self._by_value.get(value, ())

    def add(self, vote: Vote, weight: int, *, revoked: bool = False) -> bool:
        """Counts the vote; False when it is known, or a further contradiction that nobody else voted for."""
        voters = self._by_value.get(vote.block_hash)
        if voters is not None and vote.validator_id in voters:
            return False
        if vote.validator_id not in self._first:
            self._first[vote.validator_id] = vote
            self.weight += weight
        elif voters is None and self._values_of(vote.validator_id) > 1:
            return False
        self._by_value.setdefault(vote.block_hash, {})[vote.validator_id] = vote
        self._proven[vote.block_hash] = self._proven.get(vote.block_hash, 0) + weight
        if revoked:
            self._revoked.setdefault(vote.block_hash, {})[vote.validator_id] = weight
        return True

    def remove(self, validator_id: str, weight: int) -> None:
        """Forgets all votes of the validator."""
        if self._first.pop(validator_id, None) is None:
            return
        self.weight -= weight
        for value in list(self._by_value):
            if self._by_value[value].pop(validator_id, None) is not None:
                self._proven[value] -= weight
                self._revoked.get(value, {}).pop(validator_id, None)
            if not self._by_value[value]:
                del self._by_value[value], self._proven[value]

    def weight_of(self, value: str | None) -> int:
        """Returns the weight behind a block, or behind None, that may decide."""
        return self.proven(value) - sum(self._revoked.get(value, {}).values())

    def proven(self, value: str | None) -> int:
        """Returns the weight that voted for a block, or for None, keys revoked since included."""
        return self._proven.get(value, 0)

    def block_with(self, weight: int) -> str | None:
        """Returns the block that at least this weight is behind, if there is one."""
        for value in self._proven:
            if value is not None and self.weight_of(value) >= weight:
                return value
        return None

    def votes(self, value: str | None) -> tuple[Vote, ...]:
        """Returns the votes for a value in the order of validator ids."""
        voters = self._by_value.get(value, {})
        return tuple(voters[validator_id] for validator_id in sorted(voters))

    def deciding_votes(self, value: str | None) -> tuple[Vote, ...]:
        """Returns the votes for a value that may decide, in the order of validator ids."""
        revoked = self._revoked.get(value, {})
        return tuple(vote for vote in self.votes(value) if vote.validator_id not in revoked)

    def all_votes(self) -> Iterator[Vote]:
        """Yields every vote."""
        for voters in self._by_value.values():
            yield from voters.values()

    def _values_of(self, validator_id: str) -> int:
        return sum(1 for voters in self._by_value.values() if validator_id in voters)


@dataclass(frozen=True)
class Added:
    """What became of a vote: whether it was new, and the proof if it contradicts an earlier one."""

    new: bool
    evidence: Equivocation | None = None


_EMPTY = Tally()


class VoteBook:
    """All votes of one height under one directory."""

    def __init__(self, directory: Directory, *, own_id: str | None):
        self.quorum = quorum_weight(directory)
        self.honest = honest_weight(directory)
        self._weights = {member.member_id: member.weight for member in directory.members}
        self._keys = {(member.member_id, key.key_id) for member in directory.members for key in member.keys}
        self._own_id = own_id
        self._tallies: dict[tuple[Round, int], Tally] = {}
        self._rounds: dict[str, dict[Round, None]] = {}
        self._reported: set[str] = set()
        self._latest: tuple[Round | None] | None = None
        self._agreed: dict[int, dict[Round, str]] = {PREVOTE: {}, PRECOMMIT: {}}

    def knows(self, vote: Vote) -> bool:
        """True when the member's vote for this block, or for none, in this place has been counted."""
        return self.tally(round_of(vote), vote.phase).has(vote.block_hash, vote.validator_id)

    def may_prove(self, vote: Vote) -> bool:
        """True when the vote contradicts another one of a member against whom there is no proof yet."""
        first = self.tally(round_of(vote), vote.phase).first_of(vote.validator_id)
        return first is not None and first.block_hash != vote.block_hash and vote.validator_id not in self._reported

    def counts(self, vote: Vote) -> bool:
        """True when the vote is by a member of the epoch with a key that it lists."""
        return vote.phase in (PREVOTE, PRECOMMIT) and (vote.validator_id, vote.key_id) in self._keys

    def add(self, vote: Vote, *, current: Round, revoked: bool = False) -> Added:
        """Counts a vote of a member; the first that contradicts an earlier one of the member also gives the evidence.

        One offence of a member at a height is proof enough: who votes twice in ever higher rounds is not to fill the
        memory and the record of others with it.
        """
        round_ = round_of(vote)
        if not self._make_room(vote.validator_id, round_, current):
            return Added(new=False)
        tally = self._tallies.setdefault((round_, vote.phase), Tally())
        first = tally.first_of(vote.validator_id)
        new = tally.add(vote, self._weights[vote.validator_id], revoked=revoked)
        if new and vote.block_hash is not None and self._is_agreed(tally, vote.phase, vote.block_hash):
            self._agreed[vote.phase].setdefault(round_, vote.block_hash)
        rounds = self._rounds.setdefault(vote.validator_id, {})
        if round_ not in rounds:
            rounds[round_] = None
            self._latest = None
        if first is None or first.block_hash == vote.block_hash or vote.validator_id in self._reported:
            return Added(new=new)
        self._reported.add(vote.validator_id)
        return Added(new=new, evidence=evidence_of(first, vote))

    def tally(self, round_: Round, phase: int) -> Tally:
        """Returns the votes of a phase of a round; do not add to it."""
        return self._tallies.get((round_, phase), _EMPTY)

    def has_polka(self, round_: Round, block_hash: str) -> bool:
        """True when it is proven that a quorum prevoted the block in the round."""
        return self.tally(round_, PREVOTE).proven(block_hash) >= self.quorum

    def polkas(self) -> list[tuple[Round, str]]:
        """Returns the rounds in which a quorum prevoted a block, with that block, in order."""
        return sorted(self._agreed[PREVOTE].items())

    def decisions(self) -> list[tuple[Round, str]]:
        """Returns the rounds in which a quorum precommitted a block, with that block, in order."""
        return sorted(self._agreed[PRECOMMIT].items())

    def is_backed(self, block_hash: str) -> bool:
        """True when at least one honest validator must have voted for the block in some round."""
        return any(tally.proven(block_hash) >= self.honest for tally in self._tallies.values())

    def others_weight(self) -> int:
        """Returns the weight of all other validators of which a vote is known."""
        return sum(self._weights[name] for name in self._rounds if name != self._own_id)

    def has_heard(self, validator_id: str) -> bool:
        """True when a vote of the validator is known, whatever its round."""
        return validator_id in self._rounds

    def terms_beyond(self, term: int) -> list[int]:
        """Returns the highest term of each member that has voted in a higher one than this, by the order of ids."""
        latest = [max(self._rounds[name]).term for name in sorted(self._rounds) if self._rounds[name]]
        return [found for found in latest if found > term]

    def term_of_others(self) -> int:
        """Returns the highest term that an honest one of the others must have reached, 0 where votes do not tell."""
        reached = self._reached_by(self.honest, without=self._own_id)
        return 0 if reached is None else reached.term

    def latest_honest_round(self) -> Round | None:
        """Returns the highest round that at least one honest validator must have reached, as far as votes tell."""
        if self._latest is None:
            self._latest = (self._reached_by(self.honest),)
        return self._latest[0]

    def last_exit(self, before: Round) -> Round | None:
        """Returns the latest earlier round that a quorum has precommitted in, which is why it could be left."""
        rounds = [
            round_
            for (round_, phase), tally in self._tallies.items()
            if phase == PRECOMMIT and round_ < before and tally.weight >= self.quorum
        ]
        return max(rounds, default=None)

    def prune(self, current: Round) -> None:
        """Forgets past rounds but the latest few and the latest few that a quorum agreed on a block in."""
        past = sorted({round_ for round_, _ in self._tallies if round_ < current}, reverse=True)
        agreed = [round_ for round_ in past if any(round_ in found for found in self._agreed.values())]
        kept = {*past[:PAST_ROUNDS_KEPT], *agreed[:PAST_ROUNDS_KEPT]}
        for round_ in past:
            if round_ not in kept:
                for phase, found in self._agreed.items():
                    self._tallies.pop((round_, phase), None)
                    found.pop(round_, None)
        self._latest = None
        for rounds in self._rounds.values():
            for round_ in [item for item in rounds if item < current and item not in kept]:
                # The last known round of a validator says how far it has come, even where its votes are gone.
                if len(rounds) > 1:
                    del rounds[round_]

    def _reached_by(self, needed: int, *, without: str | None = None) -> Round | None:
        known = [(max(rounds), name) for name, rounds in self._rounds.items() if rounds and name != without]
        latest = sorted(known, reverse=True)
        weight = 0
        for round_, name in latest:
            weight += self._weights[name]
            if weight >= needed:
                return round_
        return None

    def _is_agreed(self, tally: Tally, phase: int, block_hash: str) -> bool:
        weight = tally.proven(block_hash) if phase == PREVOTE else tally.weight_of(block_hash)
        return weight >= self.quorum

    def _make_room(self, validator_id: str, round_: Round, current: Round) -> bool:
        """Keeps the rounds per validator bounded: of the future the highest, of the past those that came first."""
        known = self._rounds.get(validator_id, {})
        if round_ in known or round_ == current:
            return True
        if round_ < current:
            return sum(1 for item in known if item < current) < PAST_ROUNDS_PER_VALIDATOR
        future = [item for item in known if item > current]
        if len(future) < FUTURE_ROUNDS_PER_VALIDATOR:
            return True
        lowest = min(future)
        if round_ < lowest:
            return False
        del known[lowest]
        for phase, found in self._agreed.items():
            tally = self._tallies.get((lowest, phase))
            if tally is not None:
                tally.remove(validator_id, self._weights[validator_id])
                if lowest in found and not self._is_agreed(tally, phase, found[lowest]):
                    del found[lowest]
        return True
