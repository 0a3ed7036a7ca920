"""Bugs on purpose: each must be found by the oracles, or they would not find it by accident either."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agentworld_core.codec import encode_value
from agentworld_core.consensus import certificates, decided, offers, verify, votes, voting
from agentworld_core.consensus.engine import ConsensusEngine
from agentworld_core.consensus.events import (
    CandidateJudged,
    DurableVotes,
    Effect,
    HeightStarted,
    PersistVote,
    ProposalDurable,
    VoteDurable,
)
from agentworld_core.consensus.following import TERM_STEP, Following
from agentworld_core.consensus.proposers import Proposers
from agentworld_core.consensus.verify import verify_vote
from agentworld_core.errors import StateMismatch
from agentworld_core.ledger import validate
from agentworld_core.ledger.block import block_hash_of, execute
from agentworld_core.ledger.chain import ChainState
from agentworld_core.membership.directory import quorum_weight
from agentworld_core.messages import (
    ActionBatch,
    ActionEnvelope,
    BlockBundle,
    CommitCertificate,
    Directory,
    ProposalBody,
    Round,
    Vote,
    WorldBlock,
)
from agentworld_core.ordering.lease import HandOver, LeaseKeeper, LeaseRecord
from agentworld_core.signing import sign
from agentworld_core.world import kernel as world_kernel
from agentworld_core.world.modules.sandbox import CallResult, ModuleCall
from agentworld_core.world.nonces import NonceWindow
from agentworld_node.records import EVIDENCE, PROPOSAL, REVOCATION
from tests.simulation import chain, node
from tests.simulation.governor import StandIn
from tests.simulation.history import Frame
from tests.simulation.node import SimNode
from tests.simulation.oracles import Oracles
from tests.simulation.order import Place, place_of
from tests.simulation.storms import (
    a_lease_that_comes_and_goes,
    a_writer_that_changes,
    five_with_a_twin,
    four_and_a_lease_that_is_lost,
    four_and_a_liar,
    four_and_a_rare_twin,
    four_and_a_revoked_twin,
    four_and_a_whisperer,
    four_and_a_writer_that_is_silent,
    four_in_a_disaster,
    four_in_a_noise,
    four_in_a_storm,
    four_on_slow_disks,
    four_that_change,
    four_that_govern,
    four_that_hand_over,
    heavy_ones,
    seven_and_a_twin,
    taking_turns_with_a_liar,
)
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


# Storage


class VotesBeforeStoring(SimNode):
    def persist_vote(self, effect: PersistVote) -> None:
        key = self.signer_at(effect.vote.height)
        if key is not None:
            signed = sign(effect.vote, key)
            self.disk.append_vote(signed, effect.lock, lambda: None)
            self.step(VoteDurable(signed))


class ProposesBeforeStoring(SimNode):
    def persist_proposal(self, body: ProposalBody) -> None:
        key = self.signer_at(body.proposal.height)
        if key is not None:
            signed = dataclasses.replace(body, proposal=sign(body.proposal, key))
            self.disk.append(PROPOSAL, signed, lambda: None)
            self.step(ProposalDurable(signed))


class ForgetsItsVotes(SimNode):
    def durable_votes(self) -> DurableVotes:
        return DurableVotes()


class ForgetsItsProposals(SimNode):
    def durable_votes(self) -> DurableVotes:
        return dataclasses.replace(self.stored, proposals=())


class ForgetsRevocations(SimNode):
    def boot(self) -> None:
        records = self.disk.records
        self.disk.records = lambda: [item for item in records() if item.kind != REVOCATION]  # type: ignore[method-assign]
        super().boot()


class ConfirmsBeforeStoring(SimNode):
    def commit(self, bundle: BlockBundle) -> None:
        if not self.committing and bundle.block.height == self.chain.height + 1:
            self.acknowledge(bundle)
        super().commit(bundle)


def forget_the_lock(patch: pytest.MonkeyPatch) -> None:
    restore = voting.HeightVoting.restore

    def without_lock(self: voting.HeightVoting, durable: DurableVotes) -> None:
        restore(self, durable)
        self.locked = self.valid = None

    patch.setattr(voting.HeightVoting, "restore", without_lock)


# Counting


def majority(directory: Directory) -> int:
    return sum(member.weight for member in directory.members) // 2 + 1


def majority_quorum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(votes, "quorum_weight", majority)


def majority_without_a_witness(patch: pytest.MonkeyPatch) -> None:
    majority_quorum(patch)
    patch.setattr(certificates, "quorum_weight", majority)
    patch.setattr(Oracles, "_check_quorum", lambda *_, **__: None)


def one_less(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(votes, "quorum_weight", lambda directory: quorum_weight(directory) - 1)


def count_again(patch: pytest.MonkeyPatch) -> None:
    add = votes.Tally.add

    def count(self: votes.Tally, vote: Vote, weight: int, *, revoked: bool = False) -> bool:
        if vote.validator_id in self._by_value.get(vote.block_hash, {}):
            self._proven[vote.block_hash] += weight
            self.weight += weight
            return True
        return add(self, vote, weight, revoked=revoked)

    patch.setattr(votes.Tally, "add", count)
    patch.setattr(ConsensusEngine, "is_news", lambda *_: True)


def count_heads(patch: pytest.MonkeyPatch) -> None:
    begin = votes.VoteBook.__init__

    def equal(self: votes.VoteBook, directory: Directory, *, own_id: str | None) -> None:
        members = tuple(dataclasses.replace(item, weight=1) for item in directory.members)
        begin(self, dataclasses.replace(directory, members=members), own_id=own_id)

    patch.setattr(votes.VoteBook, "__init__", equal)


def keep_every_round(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(votes, "FUTURE_ROUNDS_PER_VALIDATOR", 10**9)


# Rules of the vote


def ignore_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(voting.HeightVoting, "_lock_allows", lambda *_: True)


def ignore_the_valid_block(patch: pytest.MonkeyPatch) -> None:
    propose = voting.HeightVoting._propose

    def anew(self: voting.HeightVoting) -> None:
        valid, self.valid = self.valid, None
        try:
            propose(self)
        finally:
            self.valid = valid

    patch.setattr(voting.HeightVoting, "_propose", anew)


def no_fencing(patch: pytest.MonkeyPatch) -> None:
    start, judge = ConsensusEngine._start_height, chain.Executions.judge

    def unfenced(self: ConsensusEngine, now_ms: int, started: HeightStarted) -> list[Effect]:
        return start(self, now_ms, dataclasses.replace(started, parent_round=Round(0, 0)))

    def lenient(self: chain.Executions, state: ChainState, block: WorldBlock, batch: ActionBatch) -> chain.Verdict:
        return judge(self, dataclasses.replace(state, round=Round(0, 0)), block, batch)

    patch.setattr(ConsensusEngine, "_start_height", unfenced)
    patch.setattr(ConsensusEngine, "highest_term", property(lambda self: self._proposers.term))
    patch.setattr(chain.Executions, "judge", lenient)
    patch.setattr(chain, "execute", lambda state, *rest: execute(dataclasses.replace(state, round=Round(0, 0)), *rest))


def never_rotate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Proposers, "rotates", lambda self, _: self.leaseless)


def follow_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Following, "next_term", lambda *_: None)


def follow_without_end(patch: pytest.MonkeyPatch) -> None:
    """Goes on to where the liar is from wherever it has got to."""

    def farther(self: Following, term: int) -> int | None:
        beyond = self._book.terms_beyond(term)
        self._times += 1
        return min(beyond[self._times % len(beyond)], term + TERM_STEP) if beyond else None

    patch.setattr(Following, "next_term", farther)


def never_repeat(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(voting, "what_to_repeat", lambda *_: [])


class TakesVotesOfOtherHeights(SimNode):
    def handle_vote(self, vote: Vote) -> None:
        super().handle_vote(vote)
        if vote.height == self.chain.height:
            directory = self.chain.keyring.at(vote.height)
            event = verify.receive_vote(directory, self.revoked(), vote)
            self.step(dataclasses.replace(event, vote=dataclasses.replace(vote, height=vote.height + 1)))


class VotesWithoutExecuting(SimNode):
    def judge(self, body: ProposalBody) -> None:
        self.step(CandidateJudged(body.proposal.height, body.proposal.block_hash, True))


def verify_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verify, "verify", lambda *_: None)


# Blocks and actions


def trust_certificates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(node, "check_committed", lambda *_: None)


def count_certificates_by_votes(patch: pytest.MonkeyPatch) -> None:
    """A certificate that names one validator often enough will do."""
    check = certificates._check_vote

    def certified(certificate: Any, directory: Directory) -> None:
        weight = sum(check(certificate, item, directory, field="votes") for item in certificate.votes)
        if weight < quorum_weight(directory):
            raise StateMismatch("needs more votes")

    def check_committed(block: WorldBlock, certificate: Any, directory: Directory) -> None:
        if certificate.block_hash != block_hash_of(block):
            raise StateMismatch("another block")
        certified(certificate, directory)

    patch.setattr(node, "check_committed", check_committed)


def ignore_the_parent(patch: pytest.MonkeyPatch) -> None:
    place, compare = validate._check_place, validate._compare

    def anywhere(state: ChainState, block: WorldBlock) -> None:
        place(state, dataclasses.replace(block, prev_block_hash=state.block_hash))

    def otherwise_equal(block: WorldBlock, executed: WorldBlock) -> None:
        compare(dataclasses.replace(block, prev_block_hash=executed.prev_block_hash), executed)

    patch.setattr(validate, "_check_place", anywhere)
    patch.setattr(validate, "_compare", otherwise_equal)


class RemembersOnlyWhatWaits(SimNode):
    def may_include(self, action: ActionEnvelope) -> bool:
        return True

    def take_in(self, action: ActionEnvelope) -> bool:
        applied, self.chain.applied = self.chain.applied, {}
        try:
            return super().take_in(action)
        finally:
            self.chain.applied = applied


def forget_nonces(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NonceWindow, "usable", lambda *_: True)
    patch.setattr(world_kernel._Run, "_use_nonce", lambda *_: None)


def admit_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(node, "check_admission", lambda *_, **__: None)


# Membership


class IgnoresRevocations(SimNode):
    def revoked(self) -> frozenset[str]:
        return frozenset()


class RefusesProofsUnderRevokedKeys(SimNode):
    def handle_vote(self, vote: Vote) -> None:
        if vote.height > self.chain.height:
            verify_vote(self.chain.keyring.at(vote.height), self.revoked(), vote)
        super().handle_vote(vote)


class TakesDirectoriesAtOnce(SimNode):
    def start_height(self, certificate: CommitCertificate | None = None) -> None:
        height = self.chain.height + 1
        self.update_work()
        self.step(HeightStarted(height, self.chain.keyring.newest, self.chain.round))

    def handle_vote(self, vote: Vote) -> None:
        if vote.height == self.chain.height + 1:
            self.step(verify.receive_vote(self.chain.keyring.newest, self.revoked(), vote))

    def handle_proposal(self, body: ProposalBody) -> None:
        if body.proposal.height == self.chain.height + 1:
            self.step(verify.receive_proposal(self.chain.keyring.newest, self.revoked(), body))


class KeepsTheFirstDirectory(SimNode):
    def start_height(self, certificate: CommitCertificate | None = None) -> None:
        height, keyring = self.chain.height + 1, self.chain.keyring
        members = keyring.at(1).members
        self.update_work()
        self.step(HeightStarted(height, dataclasses.replace(keyring.at(height), members=members), self.chain.round))


# The lease


def hold_too_long(patch: pytest.MonkeyPatch) -> None:
    written = LeaseKeeper.written

    def greedy(self: LeaseKeeper, started_ms: int, record: LeaseRecord) -> None:
        written(self, started_ms + 2 * record.duration_ms, record)

    patch.setattr(LeaseKeeper, "written", greedy)


def take_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseKeeper, "_duration", lambda self, record: record.duration_ms // 4)


def keep_the_term(patch: pytest.MonkeyPatch) -> None:
    write = LeaseKeeper._write

    def same(self: LeaseKeeper, holder: str | None, term: int) -> Any:
        return write(self, holder, 1 if self._record is None or holder is None else self._record.term)

    patch.setattr(LeaseKeeper, "_write", same)


# Evidence, gateways, modules, the hand-over


def forget_decided_votes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decided.DecidedHeights, "may_prove", lambda *_: False)
    # Or the two proposals that the same twin makes at the height would give it away in most seeds.
    patch.setattr(offers.Offers, "note", lambda *_: None)


def accuse_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(votes, "evidence_of", lambda *_: None)


def compare_no_proposals(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(offers.Offers, "note", lambda *_: None)


class KeepsProofsToItself(SimNode):
    def send(self, frame: Frame) -> None:
        if frame[0] != "evidence":
            super().send(frame)

    def handle(self, source: str, kind: str, data: bytes) -> None:
        if kind != "proofs-wanted":
            super().handle(source, kind, data)


class ForgetsProofs(SimNode):
    def boot(self) -> None:
        records = self.disk.records
        self.disk.records = lambda: [item for item in records() if item.kind != EVIDENCE]  # type: ignore[method-assign]
        super().boot()


class ConfirmsWhatItHasTakenIn(SimNode):
    def submit(self, action: ActionEnvelope) -> None:
        super().submit(action)
        if action.action_id in self.mempool:
            self.world.oracles.acknowledged(self, action.action_id)


class ReadsWhatItRemembers(SimNode):
    def read(self, actor: str) -> tuple[int, Place]:
        height, place = super().read(actor)
        return height, self.remembered.setdefault(actor, place)

    @functools.cached_property
    def remembered(self) -> dict[str, Place]:
        return {}


class ForgetsItsHeight(SimNode):
    def read(self, actor: str) -> tuple[int, Place]:
        height = max(self.chain.height - self.rng.randrange(2), 0)
        tree = self.world.beginning.state.tree if height == 0 else self.chain.state.tree
        return (height, place_of(tree, actor)) if height in (0, self.chain.height) else (height, None)


def remember_between_calls(patch: pytest.MonkeyPatch) -> None:
    """A sandbox that lets a module see what this process has run before."""
    call = StandIn.call

    def remembering(self: StandIn, given: ModuleCall) -> CallResult:
        calls = self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        result = call(self, given)
        return dataclasses.replace(result, output=encode_value({"new_state": encode_value(calls)}))

    patch.setattr(StandIn, "call", remembering)


def hold_what_was_given(patch: pytest.MonkeyPatch) -> None:
    decide = LeaseKeeper.decide

    def greedy(self: LeaseKeeper, now_ms: int, **given: Any) -> Any:
        until = self._held_until_ms
        decision = decide(self, now_ms, **given)
        if isinstance(decision, HandOver):
            self._held_until_ms = until
        return decision

    patch.setattr(LeaseKeeper, "decide", greedy)
    patch.setattr(LeaseKeeper, "observe", _observe_nothing_new(LeaseKeeper.observe))
    patch.setattr(LeaseKeeper, "written", _keep_holding(LeaseKeeper.written))


def _keep_holding(written: Callable[..., None]) -> Callable[..., None]:
    def keep(self: LeaseKeeper, started_ms: int, record: LeaseRecord) -> None:
        until = self._held_until_ms
        written(self, started_ms, record)
        if record.holder not in (None, self.holder_id):
            self._held_until_ms = until

    return keep


def _observe_nothing_new(observe: Callable[..., None]) -> Callable[..., None]:
    def keep(self: LeaseKeeper, now_ms: int, record: LeaseRecord | None) -> None:
        until = self._held_until_ms
        observe(self, now_ms, record)
        if record is not None and record.term == self._held_term + 1:
            self._held_until_ms = until

    return keep


def hand_over_in_the_same_term(patch: pytest.MonkeyPatch) -> None:
    decide = LeaseKeeper.decide

    def same(self: LeaseKeeper, now_ms: int, **given: Any) -> Any:
        decision = decide(self, now_ms, **given)
        if isinstance(decision, HandOver) and self._record is not None:
            return HandOver(dataclasses.replace(decision.write, term=self._record.term))
        return decision

    patch.setattr(LeaseKeeper, "decide", same)


BUGS = (
    Bug("votes before it has stored the vote", ("I4",), VotesBeforeStoring),
    Bug("proposes before it has stored the proposal", ("I4",), ProposesBeforeStoring, where=four_on_slow_disks),
    Bug("forgets its votes in a crash", ("I4",), ForgetsItsVotes, where=four_in_a_storm),
    Bug("forgets its proposals in a crash", ("I4",), ForgetsItsProposals, where=four_on_slow_disks),
    Bug("forgets its lock in a crash", ("LOCK", "I2"), patch=forget_the_lock, where=four_in_a_disaster),
    Bug("forgets revocations in a crash", ("I8", "I9"), ForgetsRevocations, where=four_and_a_revoked_twin),
    Bug("confirms before it has stored the block", ("DURABLE",), ConfirmsBeforeStoring, where=four_on_slow_disks),
    Bug("takes a majority for a quorum", ("I3",), patch=majority_quorum, where=five_with_a_twin),
    Bug("forks by a majority", ("I2", "I4"), patch=majority_without_a_witness, where=five_with_a_twin),
    Bug("is content with one vote less", ("I3",), patch=one_less, where=four_in_a_storm),
    Bug("counts a vote twice", ("I3",), patch=count_again, where=four_in_a_storm),
    Bug("counts heads and not weights", ("I3", "LIVE"), patch=count_heads, where=heavy_ones),
    Bug("keeps every round it hears of", ("I12",), patch=keep_every_round, where=four_and_a_liar("flood")),
    Bug("votes against its lock", ("LOCK", "I2"), patch=ignore_the_lock, where=a_writer_that_changes),
    Bug("proposes anew instead of the valid block", ("LIVE",), patch=ignore_the_valid_block, where=four_in_a_disaster),
    Bug("lets lower terms pass", ("I1",), patch=no_fencing, where=four_in_a_disaster),
    Bug("leaves all attempts to the holder", ("LIVE",), patch=never_rotate, where=four_and_a_writer_that_is_silent),
    Bug("follows nobody", ("LIVE",), patch=follow_nobody, where=four_and_a_lease_that_is_lost),
    Bug("follows without end", ("LIVE",), patch=follow_without_end, where=four_and_a_whisperer),
    Bug("never says anything again", ("LIVE",), patch=never_repeat, where=four_in_a_storm),
    Bug("takes votes of other heights", ("I3", "I4"), TakesVotesOfOtherHeights, where=four_in_a_storm),
    Bug("verifies no signatures", ("I3",), patch=verify_nothing, where=four_and_a_liar("forged-names")),
    Bug("votes without executing", ("VALID", "ERROR"), VotesWithoutExecuting, where=taking_turns_with_a_liar),
    Bug("ignores the parent of a block", ("VALID",), patch=ignore_the_parent, where=taking_turns_with_a_liar),
    Bug("trusts certificates", ("I2", "I3"), patch=trust_certificates, where=four_and_a_liar("false-certificates")),
    Bug(
        "counts a validator twice in a certificate",
        ("I2", "I3"),
        patch=count_certificates_by_votes,
        where=four_and_a_liar("false-certificates"),
    ),
    Bug("loses the nonces", ("I5",), RemembersOnlyWhatWaits, forget_nonces),
    Bug("takes in actions unchecked", ("LIVE",), patch=admit_everything, where=four_in_a_noise),
    Bug("ignores revocations", ("I8",), IgnoresRevocations, where=four_and_a_revoked_twin),
    Bug("refuses proofs under revoked keys", ("LIVE",), RefusesProofsUnderRevokedKeys, where=four_and_a_revoked_twin),
    Bug("applies a directory too early", ("I3", "VALID", "LIVE"), TakesDirectoriesAtOnce, where=four_that_change),
    Bug("weighs by the first directory", ("I3", "LIVE"), KeepsTheFirstDirectory, where=four_that_change),
    Bug("holds the lease too long", ("LEASE",), patch=hold_too_long, where=a_lease_that_comes_and_goes),
    Bug("takes the lease before it has expired", ("LEASE",), patch=take_too_early, where=a_lease_that_comes_and_goes),
    Bug("forgets the votes of decided heights", ("I14",), patch=forget_decided_votes, where=four_and_a_rare_twin),
    Bug("accuses nobody", ("I14",), patch=accuse_nobody, where=five_with_a_twin),
    Bug(
        "compares no proposals",
        ("I14",),
        patch=compare_no_proposals,
        where=four_and_a_liar("conflicting-proposals"),
    ),
    Bug("keeps proofs to itself", ("I14",), KeepsProofsToItself, where=seven_and_a_twin),
    Bug("forgets proofs in a crash", ("I14",), ForgetsProofs, where=four_and_a_rare_twin),
    Bug("confirms what it has only taken in", ("I7",), ConfirmsWhatItHasTakenIn),
    Bug("reads what it remembers", ("I7",), ReadsWhatItRemembers),
    Bug("forgets how far it has come", ("I7",), ForgetsItsHeight),
    Bug("runs modules that remember", ("I6", "LIVE", "ERROR"), patch=remember_between_calls, where=four_that_govern),
    Bug("holds the lease that it has handed over", ("LEASE",), patch=hold_what_was_given, where=four_that_hand_over),
    Bug("hands over in the same term", ("I1",), patch=hand_over_in_the_same_term, where=four_that_hand_over),
    Bug("takes the lease without raising the term", ("I1",), patch=keep_the_term, where=a_lease_that_comes_and_goes),
)
