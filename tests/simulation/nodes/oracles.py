"""What must be true of a world of whole nodes: while it runs, and when all has been healed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.evidence import accused
from agentworld_core.consensus.proposers import HOLDER_ATTEMPTS
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.validate import check_alone, replay_bundle
from agentworld_core.messages import Proposal, Vote
from agentworld_node.ledger import Ledger
from tests.simulation.kernel import Violation

if TYPE_CHECKING:
    from tests.simulation.nodes.machine import Machine
    from tests.simulation.nodes.world import World

ORACLES = {
    "AGREEMENT": "all nodes have the same block at a height, for ever, also after every restart",
    "CERTIFICATE": "every node has a quorum's certificate for every block",
    "ACKNOWLEDGED": "what a client was told is committed is in that block, at every node",
    "PROMISED": "what a node has taken is committed in the end, unless its memory was lost; a clean stop loses nothing",
    "ONCE": "no action is executed twice",
    "REPLAY": "executing everything from genesis gives the state of the nodes",
    "DURABLE": "blocks, revocations and proofs that a node has told of are there after a kill or a power cut",
    "SIGN": "no honest validator votes or proposes twice in one place, whatever its machine goes through",
    "HOLDER": "the first attempts of a term are proposed by whom the lease was granted in it",
    "TRANSFER": "who is told that another writes now is told the truth",
    "SPREAD": "after healing all nodes have the same revocations and proofs",
    "REVOKED": "a revocation that somebody was told of is known",
    "EVIDENCE": "no honest validator is accused",
    "LIVE": "after healing everything is committed by all in time",
    "START": "a node starts on whatever its disk has kept",
    "ENDED": "a node does not end by itself, unless its disk fails",
    "STOP": "a node that is told to stop ends in time",
    "TRACEBACK": "no node logs an exception that nobody has thought of",
    "ERROR": "no task ends by one that nobody looks at",
}
"""What is watched; violations carry these names."""
SPREAD_SECONDS = 60.0
"""After so much every node must have every revocation and every proof that one of them has."""


class Ballots:
    """Every vote that was sent: an honest validator votes once in a place, whatever befalls it."""

    def __init__(self, world: World):
        self._world = world
        self._proposed: dict[tuple[str, int, int, int], str] = {}
        self._cast: dict[tuple[str, int, int, int, int], str | None] = {}

    def cast(self, peer_id: str, topic: str, payload: bytes) -> None:
        """Takes note of a vote that a peer has sent or passed on."""
        vote = decode(Vote, payload)
        liar = self._world.liar
        if liar is not None and vote.validator_id == liar.name:
            if peer_id == liar.peer_id:
                liar.contradict(vote, topic)
            return
        place = (vote.validator_id, vote.height, vote.term, vote.attempt, vote.phase)
        before = self._cast.setdefault(place, vote.block_hash)
        if before != vote.block_hash:
            self._world.fail("SIGN", f"{vote.validator_id} voted for {before} and for {vote.block_hash} at {place[1:]}")

    def propose(self, proposal: Proposal) -> None:
        """Takes note of a proposal: the first attempts of a term are for whom the lease was granted in it."""
        who, term = proposal.proposer_id, proposal.term
        is_for_the_holder = proposal.attempt < HOLDER_ATTEMPTS and not self._world.scenario.leaseless
        if is_for_the_holder and (term, who) not in self._world.lease.granted:
            self._world.fail("HOLDER", f"{who} proposes in term {term}, which was never granted to it")
        place = (who, proposal.height, term, proposal.attempt)
        before = self._proposed.setdefault(place, proposal.block_hash)
        if before != proposal.block_hash:
            self._world.fail("SIGN", f"{who} proposed {before} and {proposal.block_hash} at {place[1:]}")


async def judge(world: World) -> None:
    """Judges a world that is healed and in step; raises Violation."""
    await _spread(world)
    for machine in world.machines.values():
        _check_ledger(world, machine)
    _check_replay(world)
    await _check_after_power_cut(world)


async def _spread(world: World) -> None:
    """Waits until what one node knows of revocations and evidence is known to all."""
    deadline = world.loop.now + SPREAD_SECONDS
    while True:
        ledgers = [machine.node.ledger for machine in world.machines.values() if machine.node is not None]
        revoked = {ledger.revocations.hash for ledger in ledgers}
        proofs = {ledger.evidence.hash for ledger in ledgers}
        if len(ledgers) == len(world.machines) and len(revoked) == 1 and len(proofs) == 1:
            break
        if world.loop.now > deadline:
            raise Violation("SPREAD", f"revocations {len(revoked)} and proofs {len(proofs)} ways, {len(ledgers)} nodes")
        await asyncio.sleep(0.5)
    ledger = ledgers[0]
    lost = [key_id for key_id in world.governance.revoked if key_id not in ledger.revocations]
    if lost:
        raise Violation("REVOKED", f"{lost[0]} was revoked, and nobody knows of it")
    accusations = {accused(proof) for _, proof in ledger.evidence.items()}
    if accusations:
        world.reach("evidence")
    if accusations - ({world.liar.name} if world.liar is not None else set()):
        raise Violation("EVIDENCE", f"honest validators are accused: {accusations}")


def _check_ledger(world: World, machine: Machine) -> None:
    """Checks one node's answers: the same blocks with a quorum for each, and every action where its client was told."""
    assert machine.node is not None
    ledger = machine.node.ledger
    for height, known in world.blocks.items():
        bundle = ledger.bundle(height)
        if bundle is None or content_id(encode(bundle.block)) != known:
            raise Violation("AGREEMENT", f"{machine.name} has {ledger.block_hash(height)} at {height}, others {known}")
        try:
            check_alone(bundle, ledger.directory_at(height))
        except AgentWorldError as error:
            raise Violation(
                "CERTIFICATE", f"{machine.name} has a block {height} that does not verify: {error}"
            ) from error
    for action_id, height in world.acknowledged.items():
        receipt = ledger.receipt(action_id)
        if receipt is None or receipt.height != height or not receipt.ok:
            raise Violation("ACKNOWLEDGED", f"{machine.name} says {receipt} of {action_id}, committed at {height}")


def _check_replay(world: World) -> None:
    """Executes everything from genesis: the same state, and every action executed once."""
    (machine, *_) = world.machines.values()
    assert machine.node is not None
    ledger = machine.node.ledger
    chain = chain_from_genesis(world.material.genesis)
    executed: Counter[str] = Counter()
    for height in range(1, ledger.height + 1):
        bundle = ledger.bundle(height)
        if bundle is None:
            raise Violation("REPLAY", f"{machine.name} has no block {height}")
        execution = replay_bundle(chain, bundle)
        executed.update(receipt.action_id for receipt in execution.receipts if receipt.ok)
        chain = execution.chain_after(bundle.block)
    if (chain.block_hash, chain.state_root) != (ledger.chain.block_hash, ledger.chain.state_root):
        raise Violation("REPLAY", f"replaying gives {chain.state_root}, {machine.name} has {ledger.chain.state_root}")
    if twice := [action_id for action_id, times in executed.items() if times > 1]:
        raise Violation("ONCE", f"{twice[0]} was executed {executed[twice[0]]} times")
    if missing := [action_id for action_id in world.acknowledged if action_id not in executed]:
        raise Violation("ACKNOWLEDGED", f"{missing[0]} was acknowledged and never executed")


async def _check_after_power_cut(world: World) -> None:
    """Takes the power from all at once: everything that was committed is on every disk."""
    roots = {}
    for machine in world.machines.values():
        assert machine.node is not None
        roots[machine.name] = machine.node.ledger.chain.state_root
        height, proofs = machine.node.ledger.height, machine.node.ledger.evidence.hash
        machine.crash(power=True)
        machine.start()
        if machine.node is None:
            raise Violation("START", f"{machine.name} does not start after the last power cut")
        ledger: Ledger = machine.node.ledger
        if (ledger.height, ledger.chain.state_root) != (height, roots[machine.name]):
            raise Violation("DURABLE", f"{machine.name} had {height} and recovered {ledger.height}")
        if ledger.evidence.hash != proofs:
            raise Violation("DURABLE", f"{machine.name} has lost evidence in the last power cut")
