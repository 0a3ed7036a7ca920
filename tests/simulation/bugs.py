"""Bugs on purpose: each must be found by the oracles, or they would not find it by accident either."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agentworld_core.consensus import certificates, votes, voting
from agentworld_core.consensus.engine import ConsensusEngine
from agentworld_core.consensus.events import DurableVotes, HeightStarted, PersistVote, VoteDurable
from agentworld_core.consensus.verify import verify_vote
from agentworld_core.membership.directory import BYZANTINE
from agentworld_core.messages import ActionEnvelope, BlockBundle, Directory, Vote, WorldBlock
from agentworld_core.ordering.lease import LeaseKeeper, LeaseRecord
from agentworld_core.signing import sign
from tests.simulation import chain
from tests.simulation.node import SimNode
from tests.simulation.oracles import Oracles
from tests.simulation.scenario import Scenario, Weather
from tests.simulation.world import Adjust, as_drawn

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Bug:
    """A bug: a kind of node, or something that is broken for all, and the invariants that it breaks.

    ``where`` turns on the faults that the bug needs to do harm, so that few seeds are enough.
    """

    name: str
    breaks: tuple[str, ...]
    node_class: type[SimNode] = SimNode
    patch: Patch = lambda _: None
    where: Adjust = as_drawn

    @property
    def slug(self) -> str:
        """The name as it is written on the command line."""
        return self.name.replace(" ", "-")


class VotesBeforeStoring(SimNode):
    def persist_vote(self, effect: PersistVote) -> None:
        key = self.signer_at(effect.vote.height)
        if key is not None:
            signed = sign(effect.vote, key)
            self.disk.append_vote(signed, effect.lock, lambda: None)
            self.step(VoteDurable(signed))


class ForgetsItsVotes(SimNode):
    def durable_votes(self) -> DurableVotes:
        return DurableVotes()


class ConfirmsBeforeStoring(SimNode):
    def commit(self, bundle: BlockBundle) -> None:
        if not self.committing and bundle.block.height == self.chain.height + 1:
            self.acknowledge(bundle)
        super().commit(bundle)


class RemembersOnlyWhatWaits(SimNode):
    def may_include(self, action: ActionEnvelope) -> bool:
        return True

    def take_in(self, action: ActionEnvelope) -> bool:
        applied, self.chain.applied = self.chain.applied, {}
        try:
            return super().take_in(action)
        finally:
            self.chain.applied = applied


class IgnoresRevocations(SimNode):
    def revoked(self) -> frozenset[str]:
        return frozenset()


class RefusesProofsUnderRevokedKeys(SimNode):
    def handle_vote(self, vote: Vote) -> None:
        if vote.height > self.chain.height:
            verify_vote(self.chain.keyring.at(vote.height), self.revoked(), vote)
        super().handle_vote(vote)


def majority(directory: Directory) -> int:
    return sum(member.weight for member in directory.members) // 2 + 1


def majority_quorum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(votes, "quorum_weight", majority)


def forget_the_lock(patch: pytest.MonkeyPatch) -> None:
    restore = voting.HeightVoting.restore

    def without_lock(self: voting.HeightVoting, durable: DurableVotes) -> None:
        restore(self, durable)
        self.locked = self.valid = None

    patch.setattr(voting.HeightVoting, "restore", without_lock)


def ignore_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(voting.HeightVoting, "_lock_allows", lambda *_: True)


def no_fencing(patch: pytest.MonkeyPatch) -> None:
    start, judge = ConsensusEngine._start_height, chain.Chain.judge

    def unfenced(self: ConsensusEngine, now_ms: int, started: HeightStarted) -> None:
        start(self, now_ms, dataclasses.replace(started, parent_term=0))

    def lenient(self: chain.Chain, block: WorldBlock, batch: Any) -> str | None:
        term, self.term = self.term, 0
        try:
            return judge(self, block, batch)
        finally:
            self.term = term

    patch.setattr(ConsensusEngine, "_start_height", unfenced)
    patch.setattr(ConsensusEngine, "highest_term", property(lambda self: self._proposers.term))
    patch.setattr(chain.Chain, "judge", lenient)


def apply_twice(patch: pytest.MonkeyPatch) -> None:
    judge = chain.Chain.judge

    def forgetful(self: chain.Chain, block: WorldBlock, batch: Any) -> str | None:
        applied, self.applied = self.applied, {}
        try:
            return judge(self, block, batch)
        finally:
            self.applied = applied

    patch.setattr(chain.Chain, "judge", forgetful)


def never_repeat(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(voting, "what_to_repeat", lambda *_: [])


def hold_too_long(patch: pytest.MonkeyPatch) -> None:
    written = LeaseKeeper.written

    def greedy(self: LeaseKeeper, started_ms: int, record: LeaseRecord) -> None:
        written(self, started_ms + 2 * record.duration_ms, record)

    patch.setattr(LeaseKeeper, "written", greedy)


def majority_without_a_witness(patch: pytest.MonkeyPatch) -> None:
    majority_quorum(patch)
    patch.setattr(certificates, "quorum_weight", majority)
    patch.setattr(Oracles, "_check_quorum", lambda *_, **__: None)


def equals(count: int) -> dict[str, int]:
    return {f"v{number}": 1 for number in range(count)}


def five_with_a_twin(scenario: Scenario) -> Scenario:
    faults = {"split": 1.0, "lease-split": 1.0}
    return scenario.with_(members=equals(5), fault_model=BYZANTINE, faulty=("v4",), faults=faults)


def four_in_a_storm(scenario: Scenario) -> Scenario:
    return scenario.with_(
        members=equals(4),
        fault_model=BYZANTINE,
        faulty=(),
        weather=Weather(loss=0.2, slow=0.3),
        faults={"crash": 1.0, "lease-away": 0.7, "lease-lost": 0.3, "split": 0.5},
        drift=0.02,
        every_ms=(100, 2500),
    )


def four_in_a_disaster(scenario: Scenario) -> Scenario:
    stormy = four_in_a_storm(scenario)
    return stormy.with_(leaseless=False, faults={**stormy.faults, "disaster": 1.0})


def four_and_a_revoked_twin(scenario: Scenario) -> Scenario:
    stormy = four_in_a_storm(scenario)
    return stormy.with_(faulty=("v3",), faults={**stormy.faults, "revoke": 0.5})


BUGS = (
    Bug("votes before it has stored the vote", ("I4",), VotesBeforeStoring),
    Bug("forgets its votes in a crash", ("I4",), ForgetsItsVotes, where=four_in_a_storm),
    Bug("forgets its lock in a crash", ("LOCK", "I2"), patch=forget_the_lock, where=four_in_a_disaster),
    Bug("votes against its lock", ("LOCK", "I2"), patch=ignore_the_lock, where=four_in_a_storm),
    Bug("takes a majority for a quorum", ("I3",), patch=majority_quorum, where=five_with_a_twin),
    Bug("forks by a majority", ("I2", "I4"), patch=majority_without_a_witness, where=five_with_a_twin),
    Bug("lets lower terms pass", ("I1",), patch=no_fencing, where=four_in_a_disaster),
    Bug("confirms before it has stored the block", ("DURABLE",), ConfirmsBeforeStoring, where=four_in_a_storm),
    Bug("remembers only actions that wait", ("I5",), RemembersOnlyWhatWaits, apply_twice),
    Bug("ignores revocations", ("I8",), IgnoresRevocations, where=four_and_a_revoked_twin),
    Bug("never says anything again", ("LIVE",), patch=never_repeat, where=four_in_a_storm),
    Bug("holds the lease too long", ("LEASE",), patch=hold_too_long),
    Bug("refuses proofs under revoked keys", ("LIVE",), RefusesProofsUnderRevokedKeys, where=four_and_a_revoked_twin),
)
