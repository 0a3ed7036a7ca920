"""What must hold in every run, judged from outside and as soon as it can be seen (numbers: the list of invariants).

I1 accepted terms never go back; I2 one committed block per height for ever; I3 every commit carries a quorum of
distinct signers; I4 no honest validator signs two votes for one place, whatever crashes; I5 what was acknowledged stays
and was applied once; I6 the same height has the same root; I8 a revocation that is known is heeded; LOCK a lock is left
only for a later quorum; LEASE one holder at a time; DURABLE what a node has confirmed it still has after its crash;
LIVE progress after healing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentworld_core.codec import encode
from agentworld_core.consensus.certificates import check_certificate
from agentworld_core.consensus.events import VoteReceived
from agentworld_core.consensus.evidence import check_equivocation
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.membership.directory import BYZANTINE
from agentworld_core.messages import (
    PRECOMMIT,
    PREVOTE,
    BlockBundle,
    CommitCertificate,
    Directory,
    Equivocation,
    Round,
    Vote,
)
from tests.simulation.kernel import Violation

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World


def needed_weight(directory: Directory) -> int:
    """The quorum, computed here on its own so that a wrong one in the product is noticed."""
    total = sum(member.weight for member in directory.members)
    over = (2, 3) if directory.fault_model == BYZANTINE else (1, 2)
    return next(weight for weight in range(total + 1) if weight * over[1] > total * over[0])


class Oracles:
    """Watches a world; every method raises Violation when something is wrong."""

    def __init__(self, world: World):
        self.world = world
        self.blocks: dict[int, str] = {}
        self.bundles: dict[int, BlockBundle] = {}
        self.directories: dict[int, Directory] = {}
        self.cast: dict[tuple[str, int, Round, int], str | None] = {}
        self.prevoters: dict[tuple[int, Round, str], dict[str, None]] = {}
        self.locks: dict[tuple[str, int], tuple[Round, str]] = {}
        self.acks: dict[str, None] = {}
        self.confirmed_heights: dict[str, int] = {}
        self.known_revocations: dict[str, dict[str, None]] = {}
        self.accepted: dict[str, dict[bytes, None]] = {}
        self.evidence: dict[str, None] = {}

    # Votes

    def vote_sent(self, node: SimNode, vote: Vote) -> None:
        self._note_prevote(vote)
        if not node.honest or vote.validator_id != node.name:
            return
        round_ = Round(vote.term, vote.attempt)
        place = (node.name, vote.height, round_, vote.phase)
        if self.cast.setdefault(place, vote.block_hash) != vote.block_hash:
            raise Violation("I4", f"{node.name} votes twice at {place[1:]}")
        if vote.signature not in node.disk.signatures:
            raise Violation("I4", f"{node.name} sends a vote at {place[1:]} that is not on disk")
        self._check_lock(node, vote, round_)

    def vote_accepted(self, node: SimNode, event: VoteReceived) -> None:
        vote = event.vote
        self._note_prevote(vote)
        revoked = vote.key_id in self.known_revocations.get(node.end, {})
        if revoked and event.revoked:
            self.world.kernel.reach("vote under a revoked key")
        elif not revoked:
            self.accepted.setdefault(node.end, {})[vote.signature] = None
        elif node.honest:
            raise Violation("I8", f"{node.name} accepts a vote under a key that it knows to be revoked")

    def _note_prevote(self, vote: Vote) -> None:
        if vote.phase == PREVOTE and vote.block_hash is not None:
            place = (vote.height, Round(vote.term, vote.attempt), vote.block_hash)
            self.prevoters.setdefault(place, {})[vote.validator_id] = None

    def _check_lock(self, node: SimNode, vote: Vote, round_: Round) -> None:
        if vote.block_hash is None:
            return
        locked = self.locks.get((node.name, vote.height))
        if vote.phase == PREVOTE and locked is not None and locked[0] < round_ and locked[1] != vote.block_hash:
            if not self._quorum_between(vote, locked[0], round_):
                raise Violation("LOCK", f"{node.name} at {vote.height} leaves its lock of {locked[0]} in {round_}")
            self.world.kernel.reach("left a lock for a later quorum")
        if vote.phase == PRECOMMIT and (locked is None or locked[0] < round_):
            if locked is not None and locked[1] != vote.block_hash:
                self.world.kernel.reach("locked another block")
            self.locks[node.name, vote.height] = (round_, vote.block_hash)

    def _quorum_between(self, vote: Vote, low: Round, high: Round) -> bool:
        directory = self.directory_at(vote.height)
        weights = {member.member_id: member.weight for member in directory.members}
        for (height, round_, block_hash), voters in self.prevoters.items():
            relevant = height == vote.height and block_hash == vote.block_hash and low <= round_ < high
            if relevant and sum(weights.get(name, 0) for name in voters) >= needed_weight(directory):
                return True
        return False

    def evidence_found(self, node: SimNode, evidence: Equivocation) -> None:
        check_equivocation(evidence, node.chain.keyring.at(evidence.first.height))
        accused = evidence.first.validator_id
        if accused not in self.world.faulty:
            raise Violation("I4", f"evidence against the honest {accused}")
        self.evidence[accused] = None

    def decided(self, node: SimNode, certificate: CommitCertificate) -> None:
        """A node's own engine has decided: not with votes that came after it knew their key to be revoked."""
        known, in_time = self.known_revocations.get(node.end, {}), self.accepted.get(node.end, {})
        late = [vote for vote in certificate.votes if vote.key_id in known and vote.signature not in in_time]
        if node.honest and late:
            raise Violation("I8", f"{node.name} decides {certificate.height} with a revoked key")

    # Blocks

    def directory_at(self, height: int) -> Directory:
        known = [at for at in self.directories if at <= height]
        return self.directories[max(known)] if known else self.world.first_directory

    def committing(self, node: SimNode, bundle: BlockBundle) -> None:
        if node.honest:
            self._check_block(node, bundle, term=node.chain.term)

    def _check_block(self, node: SimNode, bundle: BlockBundle, *, term: int) -> None:
        block, height = bundle.block, bundle.block.height
        block_hash = content_id(encode(block))
        if self.blocks.setdefault(height, block_hash) != block_hash:
            raise Violation("I2", f"{node.name} commits a second block at {height}")
        if block.term < term:
            raise Violation("I1", f"{node.name} commits term {block.term} after {term} at {height}")
        directory = self.directory_at(height)
        self._check_quorum(node, bundle, directory)
        if height not in self.bundles:
            self.bundles[height] = bundle
            if bundle.batch.directory is not None and block.directory_change is not None:
                self.directories[block.directory_change.effective_height] = bundle.batch.directory
                self.world.kernel.reach("changed the directory")
            if bundle.certificate.attempt or bundle.certificate.term != block.term:
                self.world.kernel.reach("decided in a later round")

    def _check_quorum(self, node: SimNode, bundle: BlockBundle, directory: Directory) -> None:
        weights = {member.member_id: member.weight for member in directory.members}
        signers = dict.fromkeys(vote.validator_id for vote in bundle.certificate.votes)
        weight = sum(weights.get(name, 0) for name in signers)
        if weight < needed_weight(directory) or len(signers) != len(bundle.certificate.votes):
            raise Violation("I3", f"{node.name} commits {bundle.block.height} with weight {weight}")
        try:
            check_certificate(bundle.certificate, directory)
        except AgentWorldError as error:
            raise Violation("I3", f"certificate of {bundle.block.height}: {error}") from error

    # Actions and what nodes say of themselves

    def acknowledged(self, node: SimNode, action_id: str) -> None:
        if node.honest:
            self.acks[action_id] = None

    def confirmed(self, node: SimNode, height: int) -> None:
        self.confirmed_heights[node.end] = max(height, self.confirmed_heights.get(node.end, 0))

    def booted(self, node: SimNode) -> None:
        term = 0
        for bundle in node.chain.bundles if node.honest else ():
            # Among them may be some that were on disk before the sync was: it never said so, and now it does.
            self._check_block(node, bundle, term=term)
            term = bundle.block.term
        confirmed = self.confirmed_heights.get(node.end, 0)
        if node.honest and node.chain.height < confirmed:
            raise Violation("DURABLE", f"{node.name} has lost height {confirmed} that it has confirmed")

    def revocation_known(self, node: SimNode, key_id: str) -> None:
        self.known_revocations.setdefault(node.end, {})[key_id] = None

    def lease_checked(self) -> None:
        if self.world.lease_store.may_have_two_holders:
            return
        holders = [node.name for node in self.world.honest if node.up and node.keeper.is_held(node.now)]
        if len(set(holders)) > 1:
            raise Violation("LEASE", f"held by {holders} at once")

    def finish(self) -> None:
        """Checks what can only be judged at the end."""
        applied: dict[str, int] = {}
        for height in sorted(self.bundles):
            for action in self.bundles[height].batch.actions:
                if action.action_id in applied:
                    at = applied[action.action_id]
                    raise Violation("I5", f"an action is applied at {at} and again at {height}")
                applied[action.action_id] = height
        for action_id in self.acks:
            if action_id not in applied:
                raise Violation("I5", f"the acknowledged action {action_id[:8]} is in no block")
        roots = {node.chain.height: node.chain.root for node in self.world.honest}
        for node in self.world.honest:
            if node.chain.root != roots[node.chain.height]:
                raise Violation("I6", f"{node.name} has another root at {node.chain.height}")
