"""What must hold in every run, judged from outside and as soon as it can be seen; ORACLES names them.

They know nothing of how production decides: quorums, effective heights and links are computed here once more.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from agentworld_core.codec import encode
from agentworld_core.consensus.certificates import check_certificate
from agentworld_core.consensus.events import VoteReceived
from agentworld_core.consensus.evidence import accused, check_equivocation
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import Execution
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.ledger.restart import chain_from_snapshot
from agentworld_core.ledger.validate import replay_bundle
from agentworld_core.membership.directory import BYZANTINE
from agentworld_core.messages import (
    PRECOMMIT,
    PREVOTE,
    BlockBundle,
    CommitCertificate,
    Directory,
    Equivocation,
    Proposal,
    ProposalBody,
    Round,
    Vote,
)
from tests.simulation.accusations import Accusations
from tests.simulation.kernel import Violation
from tests.simulation.order import Order

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World


ORACLES = {
    "I1": "terms and rounds never go back: in the chain, at a validator, at the lease service",
    "I2": "one committed block for a height, for ever",
    "I3": "every commit carries distinct members of its epoch with a quorum, and only votes that they cast",
    "I4": "no honest validator signs two votes or two proposals for one place, whatever crashes; none is accused",
    "I5": "what was acknowledged stays, and every action is applied exactly once",
    "I6": "replay from genesis and restart from a snapshot give the state of every node",
    "I7": "what clients are told fits one order: no action before one confirmed earlier, no read of another state",
    "I8": "a revocation that is known is heeded",
    "I9": "after healing every node knows every revocation",
    "I12": "what a node remembers is bounded by its members, not by what it is sent",
    "I14": "who shows a node two votes that could split the world is named by it, and in the end by all",
    "VALID": "a committed block follows its parent, holds what clients and governance made, under the right directory",
    "LOCK": "a lock is left only for a later quorum",
    "LEASE": "one holder at a time, unless the service itself forgot or was split",
    "DURABLE": "what a node has confirmed it still has after its crash",
    "LIVE": "after healing an action is committed by all in time",
    "BUSY": "virtual time goes on: nothing spins",
    "SAME": "a seed is a history: every hundredth is run twice",
    "ERROR": "production raises nothing that nobody expects",
}


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
        self.proposed: dict[tuple[str, int, Round], str] = {}
        self.reached: dict[tuple[str, int], tuple[Round, int]] = {}
        self.seen: dict[bytes, None] = {}
        self.lease_term = 0
        self.holders: dict[int, str] = {}
        self.order = Order()
        self.accusations = Accusations()

    # Votes

    def vote_sent(self, node: SimNode, vote: Vote) -> None:
        self._note_prevote(vote)
        if not node.honest or vote.validator_id != node.name:
            return
        round_ = Round(vote.term, vote.attempt)
        place = self._note_cast(node, vote)
        if vote.signature not in node.disk.signatures:
            raise Violation("I4", f"{node.name} sends a vote at {place[1:]} that is not on disk")
        self._check_lock(node, vote, round_)

    def _note_cast(self, node: SimNode, vote: Vote) -> tuple[str, int, Round, int]:
        place = (node.name, vote.height, Round(vote.term, vote.attempt), vote.phase)
        if self.cast.setdefault(place, vote.block_hash) != vote.block_hash:
            raise Violation("I4", f"{node.name} votes twice at {place[1:]}")
        if vote.signature not in self.seen:
            self.seen[vote.signature] = None
            now = (place[2], vote.phase)
            reached = self.reached.setdefault((node.name, vote.height), now)
            if now < reached:
                raise Violation("I1", f"{node.name} votes at {place[1:]} after {reached}")
            self.reached[node.name, vote.height] = now
        return place

    def proposal_sent(self, node: SimNode, body: ProposalBody) -> None:
        proposal = body.proposal
        if not node.honest or proposal.proposer_id != node.name:
            return
        place = (node.name, proposal.height, Round(proposal.term, proposal.attempt))
        if self.proposed.setdefault(place, proposal.block_hash) != proposal.block_hash:
            raise Violation("I4", f"{node.name} proposes two blocks at {place[1:]}")

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

    def vote_heard(self, node: SimNode, vote: Vote) -> None:
        """A vote has arrived, maybe a forged one."""
        if node.honest and self.world.faulty:
            self.accusations.heard(node, vote)

    def proposal_accepted(self, node: SimNode, proposal: Proposal) -> None:
        """A node takes in a verified proposal."""
        if node.honest and self.world.faulty:
            self.accusations.offered(node, proposal)

    def crashed(self, node: SimNode) -> None:
        if node.honest and node.up:
            self.accusations.crashed(node)

    def evidence_found(self, node: SimNode, evidence: Equivocation) -> None:
        directory = node.chain.keyring.epoch(evidence.first.directory_epoch)
        if directory is None:
            raise Violation("I4", f"evidence of an epoch that {node.name} does not know")
        check_equivocation(evidence, directory)
        name = accused(evidence)
        if name not in self.world.faulty:
            raise Violation("I4", f"evidence against the honest {name}")
        self.evidence[name] = None

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
            certificate = bundle.certificate
            self.accusations.decided(node, certificate.height, Round(certificate.term, certificate.attempt))

    def _check_block(self, node: SimNode, bundle: BlockBundle, *, term: int) -> None:
        block, height = bundle.block, bundle.block.height
        block_hash = content_id(encode(block))
        if self.blocks.setdefault(height, block_hash) != block_hash:
            raise Violation("I2", f"{node.name} commits a second block at {height}")
        if block.term < term:
            raise Violation("I1", f"{node.name} commits term {block.term} after {term} at {height}")
        self._check_quorum(node, bundle, self.directory_at(height))
        if height not in self.bundles:
            self._check_valid(bundle, block_hash)
            self.bundles[height] = bundle
            if bundle.batch.directory is not None:
                self.directories[height + bundle.batch.directory.activation_delay] = bundle.batch.directory
                self.world.kernel.reach("changed the directory")
            if bundle.certificate.attempt or bundle.certificate.term != block.term:
                self.world.kernel.reach("decided in a later round")

    def _check_valid(self, bundle: BlockBundle, block_hash: str) -> None:
        """The first time a block is committed: is it one that could be?"""
        block, batch, height = bundle.block, bundle.batch, bundle.block.height
        directory = self.directory_at(height)
        parent = self.blocks.get(height - 1, genesis_hash(self.world.beginning.genesis))
        stated = (block.prev_block_hash, bundle.certificate.block_hash, block.action_root, block.directory_epoch)
        expected = (parent, block_hash, content_id(encode(batch)), directory.epoch)
        if stated != expected:
            raise Violation("VALID", f"block {height} says {stated}, not {expected}")
        if block.proposer_id not in {item.member_id for item in directory.members}:
            raise Violation("VALID", f"block {height} is by {block.proposer_id}, who is no member")
        for item in batch.actions:
            if self.world.clients.by_id.get(item.action_id) != item:
                raise Violation("VALID", f"block {height} holds an action that no client made")
        if batch.directory is not None and batch.directory not in self.world.chaos.governed:
            raise Violation("VALID", f"block {height} carries a directory that governance did not sign")

    def _check_quorum(self, node: SimNode, bundle: BlockBundle, directory: Directory) -> None:
        certificate = bundle.certificate
        weights = {member.member_id: member.weight for member in directory.members}
        signers = dict.fromkeys(vote.validator_id for vote in certificate.votes)
        weight = sum(weights.get(name, 0) for name in signers)
        if weight < needed_weight(directory) or len(signers) != len(certificate.votes):
            raise Violation("I3", f"{node.name} commits {bundle.block.height} with weight {weight}")
        round_ = Round(certificate.term, certificate.attempt)
        for name in signers:
            if name not in self.world.faulty:
                place = (name, certificate.height, round_, PRECOMMIT)
                if self.cast.get(place) != certificate.block_hash:
                    raise Violation("I3", f"{node.name} commits {certificate.height} by a vote that {name} never cast")
        try:
            check_certificate(certificate, directory)
        except AgentWorldError as error:
            raise Violation("I3", f"certificate of {bundle.block.height}: {error}") from error

    # Actions and what nodes say of themselves

    def acknowledged(self, node: SimNode, action_id: str) -> None:
        if node.honest:
            self.acks[action_id] = None
            self.order.confirmed(action_id, self.world.kernel.now)

    def confirmed(self, node: SimNode, height: int) -> None:
        self.confirmed_heights[node.end] = max(height, self.confirmed_heights.get(node.end, 0))

    def booted(self, node: SimNode) -> None:
        for vote in node.stored.votes if node.honest else ():
            # Durable before the crash, though it may never have been sent: it binds all the same.
            self._note_cast(node, vote)
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
        store = self.world.lease_store
        if store.may_have_two_holders:
            return
        record = store.record
        if record is not None:
            if record.term < self.lease_term:
                raise Violation("I1", f"the lease goes from term {self.lease_term} back to {record.term}")
            self.lease_term = record.term
            holder = self.holders.setdefault(record.term, record.holder or "")
            if record.holder not in (None, holder or record.holder):
                raise Violation("I1", f"term {record.term} of {holder} is used by {record.holder} again")
            self.holders[record.term] = holder or record.holder or ""
        holders = [node.name for node in self.world.honest if node.up and node.keeper.is_held(node.now)]
        if len(set(holders)) > 1:
            raise Violation("LEASE", f"held by {holders} at once")

    # Memory

    def remembered(self, node: SimNode) -> None:
        """Compares what a node holds in memory with what its members alone account for."""
        if not node.honest:
            return
        members = len(self.world.honest) + len(self.world.faulty) + MEMBERS_LEFT
        for name, count in count_memory(node).items():
            most = MOST_OF_ONE.get(name, 0) or MOST_PER_MEMBER[name] * members
            if count > most:
                raise Violation("I12", f"{node.name} remembers {count} {name}, at most {most} are due to {members}")

    # The end

    def finish(self) -> None:
        """Checks what can only be judged at the end."""
        self.order.check_order(self.bundles[height] for height in sorted(self.bundles))
        final = self._replay()
        for node in self.world.honest:
            state = node.chain.state
            if final.get(state.height) != (state.block_hash, state.state_root):
                raise Violation("I6", f"{node.name} has another state at {state.height} than replay gives")
        known = {key_id: None for keys in self.known_revocations.values() for key_id in keys}
        for node in self.world.honest:
            for key_id in known:
                if key_id not in node.chain.keyring.revoked_key_ids:
                    raise Violation("I9", f"{node.name} does not know of the revocation of {key_id[:8]}")
        self.accusations.check(self.world.honest)

    def _replay(self) -> dict[int, tuple[str, str]]:
        """Replays the committed blocks, without what the nodes remember, and judges the events that come of them."""
        begun = self.world.beginning
        chain: ChainState = begun.state
        states = {0: (chain.block_hash, chain.state_root)}
        turns: dict[str, tuple[int, int]] = {}
        blobs: dict[str, bytes] = {}
        snapshot: BlockBundle | None = None
        for height in sorted(self.bundles):
            bundle = self.bundles[height]
            try:
                execution = replay_bundle(chain, bundle)
            except AgentWorldError as error:
                raise Violation("I6", f"replay refuses block {height}: {error}") from error
            chain = execution.chain_after(bundle.block)
            states[height] = (chain.block_hash, chain.state_root)
            self.order.check_reads(height, chain.tree)
            blobs.update(execution.blobs)
            snapshot = bundle if bundle.block.snapshot_ref is not None else snapshot
            self._count_turns(execution, height, turns)
        for action_id in self.acks:
            if action_id not in turns:
                raise Violation("I5", f"the acknowledged action {action_id[:8]} is in no block")
        if snapshot is not None:
            self._check_snapshot(snapshot, chain, blobs, states)
        return states

    def _count_turns(self, execution: Execution, height: int, turns: dict[str, tuple[int, int]]) -> None:
        """Notes at which place of which block every action has had its effects, but for those through modules."""
        first = {receipt.first_event_id: receipt.position for receipt in execution.receipts}
        position = -1
        for event in execution.events:
            position = first.get(event.event_id, position)
            refused = isinstance(event.payload, dict) and event.payload.get("code") == "nonce_used"
            if event.caused_by and not refused and not event.kind.startswith("module."):
                turn = (height, position)
                if turns.setdefault(event.caused_by, turn) != turn:
                    raise Violation("I5", f"an action is applied at {turns[event.caused_by]} and again at {turn}")

    def _check_snapshot(
        self, bundle: BlockBundle, chain: ChainState, blobs: dict[str, bytes], states: dict[int, tuple[str, str]]
    ) -> None:
        directories = [entry.directory for entry in chain.directories]
        genesis = self.world.beginning.genesis
        restored = chain_from_snapshot(
            genesis, bundle, directories=directories, fetch=blobs.__getitem__, sandbox=chain.sandbox
        )
        if states[restored.height] != (restored.block_hash, restored.state_root):
            raise Violation("I6", f"the snapshot at {restored.height} gives another state than replay")
        self.world.kernel.reach("restarted from a snapshot")


MEMBERS_LEFT = 3
"""Members of the past, for whom there may still be something."""

MOST_OF_ONE = {"votes of one": 2 * 2 * (2 * 8 + 4 + 2), "rounds of one": 64 + 4 + 16 + 2, "own votes": 64 + 2 * 16}
"""The most that one validator may make a node remember: values, phases and rounds, as ``consensus.votes`` says."""

MOST_PER_MEMBER = {
    "reported offences": 1,
    "proposals": 3 * 4,
    "verdicts": 3 * 4,
    "votes for the next height": 8,
    "waiting actions": 64,
}
"""The most that a node may remember for each member."""


def count_memory(node: SimNode) -> dict[str, int]:
    """Returns how many things of each kind a node holds in memory."""
    voting = node.engine._voting
    if voting is None:
        return {}
    book, proposals = voting.book, voting.proposals
    cast = Counter(name for tally in book._tallies.values() for voters in tally._by_value.values() for name in voters)
    return {
        "votes of one": max(cast.values(), default=0),
        "rounds of one": max(map(len, book._rounds.values()), default=0),
        "reported offences": len(book._reported),
        "proposals": len(proposals._accepted) + len(proposals._blocks) + len(proposals._all_waiting()),
        "verdicts": len(voting.verdicts) + len(voting._judging),
        "own votes": len(voting.own.votes),
        "votes for the next height": sum(len(kept) for kept in node.engine._next._votes.values()),
        "waiting actions": len(node.mempool),
    }
