"""Takes what governance has signed, directories and revocations, keeps it, and passes it on until everybody has it.

A revocation counts on this node from the moment it is durable here. A directory counts when a block has carried it;
until then it is offered to whoever writes. Both are gossiped again while they are not settled, and the revocations a
node misses are fetched by comparing digests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, InvalidField, KeyRevoked, StateMismatch, WrongWorld
from agentworld_core.membership.directory import (
    check_next_directory,
    directory_hash,
    is_expired,
    usable_governance,
)
from agentworld_core.membership.revocation import check_revocation, statement_id
from agentworld_core.messages import Directory, Revocation, Revocations
from agentworld_core.names import protocol, topic
from agentworld_node.ledger import Ledger
from agentworld_node.metrics import Metrics
from agentworld_node.network.port import Network
from agentworld_node.roles.keyring import NodeKeyring
from agentworld_node.roles.spawning import Spawner
from agentworld_node.roles.strikes import Strikes
from agentworld_node.shielding import begin

log = logging.getLogger(__name__)

GET_REVOCATIONS = protocol("get_revocations")
REPEAT_SECONDS = 2.0
REPEATED_FOR_SECONDS = 20.0
RECONCILE_SECONDS = 15.0
REQUEST_SECONDS = 5.0
MESSAGE_LIMIT = 1024 * 1024
REPORTED_REFUSALS = 16


class MembershipRole:
    """Holds the directory that waits for a block, and every revocation this node knows."""

    def __init__(self, *, ledger: Ledger, keyring: NodeKeyring, network: Network, metrics: Metrics):
        self._ledger = ledger
        self._keyring = keyring
        self._network = network
        self._metrics = metrics
        self._world_id = ledger.genesis.world_id
        self._waiting: Directory | None = None
        self._recent: dict[str, float] = {}
        self._keeping: dict[str, asyncio.Task[bool]] = {}
        self._liars = Strikes(first=10.0, longest=320.0)
        self._reported = 0
        self._directory_topic = topic(self._world_id, "membership")
        self._revocation_topic = topic(self._world_id, "membership.revoke")
        self._spawner = Spawner()
        self.on_change: Callable[[], None] = lambda: None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Listens, serves and repeats until the task group ends."""
        self._spawner.open(tasks)
        self._network.serve(GET_REVOCATIONS, self._serve_revocations)
        self._network.subscribe(self._directory_topic, self._on_directory)
        self._network.subscribe(self._revocation_topic, self._on_revocation)
        tasks.create_task(self._repeat_forever(), name="repeat-membership")
        tasks.create_task(self._reconcile_forever(), name="reconcile-revocations")

    def _latest(self) -> Directory:
        return self._ledger.chain.directories[-1].directory

    def waiting_directory(self) -> Directory | None:
        """Returns the directory that the next block should carry, None when there is none that still fits."""
        waiting = self._waiting
        if waiting is None:
            return None
        if waiting.epoch <= self._latest().epoch or is_expired(waiting, _now_ms()) or not self._counts(waiting):
            self._waiting = None
        return self._waiting

    async def submit_directory(self, proposed: Directory) -> dict[str, Any]:
        """Takes the next epoch; raises a typed error unless it follows from the latest one and governance signed it."""
        state = self._take_directory(proposed)
        if state == "waiting":
            await self._send(self._directory_topic, encode(proposed))
        return {"epoch": proposed.epoch, "hash": directory_hash(proposed), "status": state}

    async def submit_revocation(self, statement: Revocation, *, force: bool) -> dict[str, Any]:
        """Takes a statement and makes it durable before answering; raises a typed error unless it proves itself."""
        check_revocation(
            statement,
            self._latest(),
            revoked_key_ids=self._keyring.revoked_key_ids(),
            forced=force or statement.key_id in self._keyring.revocations,
        )
        await self._keep_revocation(statement)
        held = self._keyring.revocations.get(statement.key_id) or statement
        return {
            "key_id": held.key_id,
            "statement": statement_id(held),
            "status": "revoked",
            "set_hash": self._keyring.revocations.hash,
        }

    def revocations(self) -> Revocations:
        """Returns every statement this node holds, sorted by key id."""
        return self._keyring.revocations.as_message(self._world_id)

    def _take_directory(self, proposed: Directory) -> str:
        latest = self._latest()
        if proposed.epoch <= latest.epoch:
            known = self._ledger.directory(proposed.epoch)
            if known is not None and directory_hash(known) == directory_hash(proposed):
                return "committed"
            raise StateMismatch(
                f"epoch {latest.epoch} is already in the ledger",
                field="epoch",
                value=proposed.epoch,
                remedy="build the next epoch on the latest directory",
            )
        check_next_directory(latest, proposed)
        if is_expired(proposed, _now_ms()):
            raise InvalidField("has expired", field="expires_at_ms", value=proposed.expires_at_ms)
        if not self._counts(proposed):
            raise KeyRevoked("are by governance keys that have been revoked", field="signatures")
        waiting = self.waiting_directory()
        if waiting is not None and directory_hash(waiting) != directory_hash(proposed):
            raise StateMismatch(
                "another directory of this epoch waits for a block",
                field="epoch",
                value=proposed.epoch,
                remedy="wait until it is in the ledger and build on it",
            )
        if waiting is None:
            self._waiting = proposed
            self.on_change()
        return "waiting"

    def _counts(self, proposed: Directory) -> bool:
        """True when enough governance keys that this node does not know to be revoked have signed the next epoch."""
        latest = self._latest()
        usable = {key.key_id for key in usable_governance(latest, self._keyring.revoked_key_ids())}
        return sum(item.key_id in usable for item in proposed.signatures) >= latest.governance_threshold

    async def _keep_revocation(self, statement: Revocation) -> bool:
        """Makes a checked statement durable, then count; the same one coming from several sides is stored once.

        It is finished also when the caller is cancelled: a statement in the log counts.
        """
        if statement.key_id in self._keyring.revocations:
            return False
        task = self._keeping.get(statement.key_id)
        if task is None:
            task = begin(self._store(statement), name="keep-revocation")
            self._keeping[statement.key_id] = task
            task.add_done_callback(lambda _done: self._keeping.pop(statement.key_id, None))
        return await asyncio.shield(task)

    async def _store(self, statement: Revocation) -> bool:
        await self._ledger.store_revocation(statement)
        added = self._keyring.revocations.add(statement)
        if added:
            log.warning("key %s is revoked: %s", statement.key_id, statement.reason)
            self._recent[statement.key_id] = time.monotonic()
            self.on_change()
            await self._send(self._revocation_topic, encode(statement))
        return added

    def _on_directory(self, peer_id: str, payload: bytes) -> None:
        if self._liars.is_struck(peer_id, time.monotonic()):
            return
        try:
            proposed = decode(Directory, payload, limit=MESSAGE_LIMIT)
            if proposed.epoch > self._latest().epoch and proposed != self._waiting:
                self._take_directory(proposed)
        except AgentWorldError as error:
            self._refused("membership", peer_id, error)

    def _on_revocation(self, peer_id: str, payload: bytes) -> None:
        if self._liars.is_struck(peer_id, time.monotonic()):
            return
        try:
            statement = decode(Revocation, payload, limit=MESSAGE_LIMIT)
            if statement.key_id in self._keyring.revocations or statement.key_id in self._keeping:
                return
            self._check_passed_on(statement)
        except AgentWorldError as error:
            self._refused("membership.revoke", peer_id, error)
            return
        self._spawner.spawn(self._keep_revocation(statement), name="keep-revocation")

    def _check_passed_on(self, statement: Revocation) -> None:
        revoked = self._keyring.revoked_key_ids()
        check_revocation(statement, self._latest(), revoked_key_ids=revoked, forced=True)

    async def _repeat_forever(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_SECONDS)
            waiting = self.waiting_directory()
            if waiting is not None:
                await self._send(self._directory_topic, encode(waiting))
            before = time.monotonic() - REPEATED_FOR_SECONDS
            self._recent = {key_id: since for key_id, since in self._recent.items() if since > before}
            for statement in filter(None, map(self._keyring.revocations.get, self._recent)):
                await self._send(self._revocation_topic, encode(statement))

    async def _reconcile_forever(self) -> None:
        """Asks one peer after another for the revocations that this node lacks; a lost message costs one interval."""
        turn = 0
        while True:
            peers = self._network.connected()
            if peers:
                turn += 1
                try:
                    await self._reconcile(peers[turn % len(peers)])
                except AgentWorldError as error:
                    if self._ledger.failure is not None:
                        raise
                    log.debug("reconcile: %s", error)
            await asyncio.sleep(RECONCILE_SECONDS if peers else 1.0)

    async def _reconcile(self, peer_id: str) -> None:
        mine = self._keyring.revocations.hash.encode()
        answer = await self._network.request(peer_id, GET_REVOCATIONS, mine, timeout=REQUEST_SECONDS)
        if not answer:
            return
        for statement in decode(Revocations, answer, limit=8 * MESSAGE_LIMIT).statements:
            if statement.key_id in self._keyring.revocations:
                continue
            try:
                self._check_passed_on(statement)
            except AgentWorldError as error:
                self._refused("get_revocations", peer_id, error)
                continue
            await self._keep_revocation(statement)

    async def _serve_revocations(self, _peer_id: str, payload: bytes) -> bytes:
        if payload == self._keyring.revocations.hash.encode():
            return b""
        return encode(self.revocations())

    async def _send(self, name: str, data: bytes) -> None:
        try:
            await self._network.publish(name, data)
        except AgentWorldError as error:
            log.error("a message on %s cannot be sent: %s", name, error)  # noqa: TRY400

    def _refused(self, where: str, peer_id: str, error: AgentWorldError) -> None:
        """Counts a refusal; the first ones are logged as well, so that garbage does not fill the log."""
        self._metrics.count("agentworld_messages_refused_total", topic=where, code=error.code)
        # What does not follow may be old or early; what is malformed or unsigned no honest node passes on.
        dishonest = not isinstance(error, WrongWorld | StateMismatch | KeyRevoked)
        if dishonest:
            self._liars.add(peer_id, time.monotonic())
        self._reported += dishonest
        loud = dishonest and self._reported <= REPORTED_REFUSALS
        log.log(logging.WARNING if loud else logging.DEBUG, "%s from %s refused: %s", where, peer_id, error)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
