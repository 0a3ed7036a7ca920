"""Bugs on purpose, in what only whole nodes run: roles, recovery, stores; each must be found by the oracles."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agentworld_core.consensus.events import DurableVotes, LockedValue
from agentworld_core.ledger import block as core_block
from agentworld_core.messages import BlockBundle, Equivocation, Revocation, Vote
from agentworld_core.ordering.transfer import Writer, WriterTransfer
from agentworld_node import ledger as node_ledger
from agentworld_node.ledger import Ledger
from agentworld_node.ledger_recovery import Recovery
from agentworld_node.pool_file import PoolFile
from agentworld_node.roles.evidence import EvidenceRole
from agentworld_node.roles.executor import Executor
from agentworld_node.roles.gateway import GatewayRole
from agentworld_node.roles.handover import HandOver
from agentworld_node.roles.membership import MembershipRole
from agentworld_node.roles.sync import Synchronizer
from agentworld_node.roles.validator import ValidatorRole
from agentworld_node.storage.wal import WriteAheadLog
from tests.simulation.nodes.runner import Run, run_seed
from tests.simulation.nodes.scenario import Scenario

Adjust = Callable[[Scenario], Scenario]
BUDGET = 60
"""The seeds within which a bug must be found."""


def with_faults(*kinds: str, **changes: Any) -> Adjust:
    """Worlds in which only these faults happen, often, and what else is changed."""

    def adjust(drawn: Scenario) -> Scenario:
        return dataclasses.replace(drawn, faults=dict.fromkeys(kinds, 1.0), every_seconds=(0.2, 1.5), **changes)

    return adjust


CRASHES = with_faults("kill", "power-cut", "power-cut-within")
RESTARTS = with_faults("kill", "power-cut", "pause", "one-way", wishes={})
STOPS = with_faults("stop", "split", trusting_clients=3)
CUTS = with_faults("split", "one-way", trusting_clients=3)
LIES = with_faults("pause", liar=True)
SPOILED_BLOCKS = with_faults("wipe", "kill", "split", liar=True)
REVOCATIONS = with_faults("kill", wishes={"rotate": 1.0, "revoke": 2.0})
TRANSFERS = with_faults("pause", wishes={"transfer": 1.0})


@dataclass(frozen=True)
class Bug:
    """A bug: what is broken, the invariants that it breaks, and the faults that it needs to do harm."""

    name: str
    breaks: tuple[str, ...]
    patch: Callable[[pytest.MonkeyPatch], None]
    where: Adjust = CRASHES

    @property
    def slug(self) -> str:
        """The name as it is written on the command line."""
        return self.name.replace(" ", "-")


# Stores and recovery


def sync_nothing(patch: pytest.MonkeyPatch) -> None:
    async def sync(_self: WriteAheadLog) -> None: ...

    patch.setattr(WriteAheadLog, "sync", sync)


def send_unstored_votes(patch: pytest.MonkeyPatch) -> None:
    async def store_vote(_self: Ledger, _vote: Vote, _lock: LockedValue | None) -> None: ...

    patch.setattr(Ledger, "store_vote", store_vote)


def recover_no_votes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "votes_above", lambda _self, _height, _votes: DurableVotes())


def prune_votes_in_use(patch: pytest.MonkeyPatch) -> None:
    """Prunes everything, whatever is decided, whenever a vote is stored."""
    append = Ledger._append_signed

    async def pruning(self: Ledger, kind: int, message: bytes, *, height: int) -> None:
        await append(self, kind, message, height=height)
        wal = self._stores.votes.wal
        segments = wal._segments
        if segments.segments[-1].first_sequence <= segments.link.sequence:
            segments.begin_segment(segments.link)
        wal.prune(wal.last_sequence + 1)

    patch.setattr(Ledger, "_append_signed", pruning)


def store_no_revocations(patch: pytest.MonkeyPatch) -> None:
    async def store(_self: Ledger, _statement: Revocation) -> None: ...

    patch.setattr(Ledger, "store_revocation", store)


def store_no_evidence(patch: pytest.MonkeyPatch) -> None:
    async def store(_self: Ledger, _evidence: Equivocation) -> None: ...

    patch.setattr(Ledger, "store_evidence", store)


# Roles


def tell_before_applying(patch: pytest.MonkeyPatch) -> None:
    """Says of what waits that it is committed."""
    known = GatewayRole._known

    def boasting(self: GatewayRole, action_id: str) -> dict[str, Any] | None:
        found = known(self, action_id)
        if found is None or found["status"] == "committed":
            return found
        height = self._ledger.height + 1
        return {"action_id": action_id, "status": "committed", "height": height, "ok": True, "message": ""}

    patch.setattr(GatewayRole, "_known", boasting)
    patch.setattr(GatewayRole, "_is_settled", lambda _self, _action_id: True)


def forget_the_pool(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PoolFile, "write", lambda _self, _kept: None)


def never_repeat_actions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GatewayRole, "_to_repeat", lambda _self, _now: [])


def take_blocks_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Believes whoever serves blocks that there was a quorum for them."""

    def replay(chain: Any, bundle: BlockBundle, *, verified: Any = None) -> core_block.Execution:
        from agentworld_core.ledger.validate import check_block

        return check_block(chain, bundle.block, bundle.batch, verified=verified)

    patch.setattr(node_ledger, "replay_bundle", replay)


def ask_nobody(patch: pytest.MonkeyPatch) -> None:
    """Fetches blocks only from who said so lately."""
    patch.setattr(Synchronizer, "notice_decided", lambda _self, _height: None)
    patch.setattr(Synchronizer, "notice", lambda _self, _peer, _height: None)


def keep_evidence(patch: pytest.MonkeyPatch) -> None:
    """Neither passes proofs on nor serves them."""

    async def serve(_self: EvidenceRole, _peer: str, _payload: bytes) -> bytes:
        return b""

    patch.setattr(EvidenceRole, "_serve", serve)
    patch.setattr(EvidenceRole, "_on_evidence", lambda _self, _peer, _payload: None)


def keep_revocations(patch: pytest.MonkeyPatch) -> None:
    """Neither passes revocations on nor serves them."""

    async def serve(_self: MembershipRole, _peer: str, _payload: bytes) -> bytes:
        return b""

    patch.setattr(MembershipRole, "_serve_revocations", serve)
    patch.setattr(MembershipRole, "_on_revocation", lambda _self, _peer, _payload: None)


def promise_transfers(patch: pytest.MonkeyPatch) -> None:
    """Says that the target writes before the store of the lease says so."""

    async def hand_over(_self: HandOver, wish: WriterTransfer, _lease: Any) -> Writer:
        return Writer(wish.target_id, wish.term + 1)

    patch.setattr(HandOver, "_hand_over", hand_over)


def write_without_lease(patch: pytest.MonkeyPatch) -> None:
    """Proposes in whatever term it has heard of, whoever holds the lease."""
    patch.setattr(
        Executor, "may_write", property(lambda _self: lambda: True, lambda _self, _given: None), raising=False
    )
    observed = ValidatorRole.lease_observed

    def mine(self: ValidatorRole, term: int, _holder: str | None) -> None:
        observed(self, term, self._keyring.node_id)

    patch.setattr(ValidatorRole, "lease_observed", mine)


BUGS = (
    Bug("tells before the log is synced", ("DURABLE", "SIGN"), sync_nothing),
    Bug("sends votes that are not stored", ("SIGN",), send_unstored_votes, RESTARTS),
    Bug("recovers no votes", ("SIGN",), recover_no_votes, RESTARTS),
    Bug("prunes votes that it still needs", ("SIGN",), prune_votes_in_use, RESTARTS),
    Bug("stores no revocations", ("DURABLE", "REVOKED"), store_no_revocations, REVOCATIONS),
    Bug("stores no evidence", ("DURABLE",), store_no_evidence, LIES),
    Bug("says that what waits is committed", ("ACKNOWLEDGED",), tell_before_applying),
    Bug("forgets its pool in a clean stop", ("PROMISED",), forget_the_pool, STOPS),
    Bug("never repeats actions", ("PROMISED",), never_repeat_actions, CUTS),
    Bug("takes blocks without a quorum", ("CERTIFICATE", "AGREEMENT"), take_blocks_unchecked, SPOILED_BLOCKS),
    Bug("asks nobody for blocks", ("LIVE",), ask_nobody, CUTS),
    Bug("keeps proofs to itself", ("SPREAD",), keep_evidence, LIES),
    Bug("keeps revocations to itself", ("SPREAD",), keep_revocations, REVOCATIONS),
    Bug("promises transfers", ("TRANSFER",), promise_transfers, TRANSFERS),
    Bug("writes without the lease", ("HOLDER",), write_without_lease),
)


@dataclass(frozen=True)
class Found:
    """What became of a bug: how many seeds it took, and the oracle that saw it, None if it was missed."""

    bug: str
    seeds: int
    invariant: str | None
    says: str
    seconds: float


def run_with(bug: Bug, seed: int, *, full: bool = False) -> Run:
    """Runs a seed with the bug planted; what is broken is mended afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        bug.patch(patch)
        return run_seed(seed, bug.where, full=full)


def search(bug: Bug, budget: int = BUDGET) -> Found:
    """Runs seeds from 0 until the bug breaks what it should break."""
    began, last = time.perf_counter(), ""
    for seed in range(budget):
        run = run_with(bug, seed)
        last = run.violation or last
        if run.invariant in bug.breaks:
            return Found(bug.name, seed + 1, run.invariant, last, time.perf_counter() - began)
    return Found(bug.name, budget, None, last, time.perf_counter() - began)


def search_numbered(number: int) -> Found:
    """Searches for the bug of that number, which a process can be told where it cannot be told the bug."""
    return search(BUGS[number])


def by_slug(slug: str) -> Bug | None:
    """Returns the bug of that name, or the first whose name begins with it."""
    return next((bug for bug in BUGS if bug.slug.startswith(slug)), None)
