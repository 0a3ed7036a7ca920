"""Keeps the proofs that a validator voted twice: durable before they are told, passed on, and fetched where they lack.

A proof proves itself under the directory of its epoch, so it does not matter who passes it on, and there are only so
many for each validator. Keeping one changes nothing about what is decided: people decide what becomes of a cheat.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.evidence import (
    MAX_EVIDENCE,
    PER_VALIDATOR,
    Evidence,
    accused,
    check_equivocation,
    evidence_id,
    phase_name,
    place_of,
)
from agentworld_core.errors import AgentWorldError, StateMismatch, WrongWorld
from agentworld_core.messages import Equivocation
from agentworld_core.names import protocol, topic
from agentworld_node.ledger import Ledger
from agentworld_node.metrics import Metrics
from agentworld_node.network.port import Network
from agentworld_node.roles.spawning import Spawner
from agentworld_node.roles.strikes import Strikes

log = logging.getLogger(__name__)

GET_EVIDENCE = protocol("get_evidence")
RECONCILE_SECONDS = 15.0
REQUEST_SECONDS = 5.0
PROOF_LIMIT = 4096
LIST_LIMIT = 1024 * 1024


class EvidenceRole:
    """Holds every proof that this node knows; what it holds is in the log."""

    def __init__(self, *, ledger: Ledger, network: Network, metrics: Metrics):
        self._ledger = ledger
        self._network = network
        self._metrics = metrics
        self._world_id = ledger.genesis.world_id
        self._keeping: dict[str, str] = {}  # by id, the validator that it is about
        self._liars = Strikes(first=10.0, longest=320.0)
        self._topic = topic(self._world_id, "consensus.evidence")
        self._spawner = Spawner()
        metrics.gauge("agentworld_evidence", lambda: len(ledger.evidence))

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Listens, serves and reconciles until the task group ends."""
        self._spawner.open(tasks)
        self._network.serve(GET_EVIDENCE, self._serve)
        self._network.subscribe(self._topic, self._on_evidence)
        tasks.create_task(self._reconcile_forever(), name="reconcile-evidence")

    def found(self, evidence: Equivocation) -> None:
        """Takes in a proof that is known to be right, and makes it durable before it is told to anybody."""
        key = evidence_id(evidence)
        if key in self._keeping or not self._wants(evidence):
            return
        self._keeping[key] = accused(evidence)
        self._spawner.spawn(self._keep(key, evidence), name="keep-evidence")

    def all(self) -> Evidence:
        """Returns every proof that this node holds."""
        return self._ledger.evidence.as_message(self._world_id)

    def get(self, content_hash: str) -> Equivocation | None:
        """Returns one proof by its content id, None when this node does not hold it."""
        return self._ledger.evidence.get(content_hash)

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row a proof for the status document: its hash, and what it is about."""
        return [evidence_row(key, item) for key, item in self._ledger.evidence.items()]

    async def _keep(self, key: str, evidence: Equivocation) -> None:
        try:
            await self._ledger.store_evidence(evidence)
        finally:
            del self._keeping[key]
        if not self._ledger.evidence.add(evidence):
            return
        self._metrics.count("agentworld_evidence_total")
        who, what = accused(evidence), phase_name(evidence)
        log.error("validator %s signed two %ss at height %d: evidence %s", who, what, evidence.first.height, key)
        try:
            await self._network.publish(self._topic, encode(evidence))
        except AgentWorldError as error:
            log.error("evidence %s cannot be sent: %s", key, error)  # noqa: TRY400

    def _check(self, evidence: Equivocation) -> None:
        """Raises a typed error unless the proof is right; StateMismatch also while its epoch is not known here."""
        vote = evidence.first
        if vote.world_id != self._world_id:
            raise WrongWorld("is another world", field="first.world_id", value=vote.world_id)
        directory = self._ledger.directory(vote.directory_epoch) if vote.directory_epoch > 0 else None
        if directory is None:
            raise StateMismatch("is not known here", field="first.directory_epoch", value=vote.directory_epoch)
        check_equivocation(evidence, directory)

    def _on_evidence(self, peer_id: str, payload: bytes) -> None:
        if self._liars.is_struck(peer_id, time.monotonic()):
            return
        try:
            self._take(decode(Equivocation, payload, limit=PROOF_LIMIT))
        except AgentWorldError as error:
            self._refused("consensus.evidence", peer_id, error)

    def _take(self, evidence: Equivocation) -> None:
        if self._wants(evidence):
            self._check(evidence)
            self.found(evidence)

    def _wants(self, evidence: Equivocation) -> bool:
        """True when the proof would be kept, also after all those that are being written."""
        held, waiting = self._ledger.evidence, list(self._keeping.values())
        of_one = waiting.count(accused(evidence))
        return held.lacks(evidence) and of_one < PER_VALIDATOR and len(waiting) + len(held) < MAX_EVIDENCE

    async def _reconcile_forever(self) -> None:
        """Asks one peer after another for the proofs that this node lacks; a lost message costs one interval."""
        turn = 0
        while True:
            peers = self._network.connected()
            if peers:
                turn += 1
                await self._reconcile(peers[turn % len(peers)])
            await asyncio.sleep(RECONCILE_SECONDS if peers else 1.0)

    async def _reconcile(self, peer_id: str) -> None:
        mine = self._ledger.evidence.hash.encode()
        try:
            answer = await self._network.request(peer_id, GET_EVIDENCE, mine, timeout=REQUEST_SECONDS)
            items = decode(Evidence, answer, limit=LIST_LIMIT).items if answer else ()
        except AgentWorldError as error:
            log.debug("asking %s for evidence: %s", peer_id, error)
            return
        for item in items:
            try:
                self._take(item)
            except AgentWorldError as error:
                self._refused("get_evidence", peer_id, error)

    async def _serve(self, _peer_id: str, payload: bytes) -> bytes:
        return b"" if payload == self._ledger.evidence.hash.encode() else encode(self.all())

    def _refused(self, where: str, peer_id: str, error: AgentWorldError) -> None:
        self._metrics.count("agentworld_messages_refused_total", topic=where, code=error.code)
        # An epoch that is not known here may be known there; all else no honest node passes on.
        if not isinstance(error, StateMismatch):
            self._liars.add(peer_id, time.monotonic())


def evidence_row(key: str, evidence: Equivocation) -> dict[str, Any]:
    """Returns what a proof is about; a block hash is null where that vote was for none."""
    first, second = evidence.first, evidence.second
    height, term, attempt, phase = place_of(first)
    return {
        "hash": key,
        "validator_id": accused(evidence),
        "height": height,
        "term": term,
        "attempt": attempt,
        "phase": phase,
        "first_block_hash": first.block_hash,
        "second_block_hash": second.block_hash,
    }
