"""One node: wires storage, network, roles and HTTP together, runs them, and stops them so that nothing is lost.

Stopping hands the writer lease over before anything else, so that the next writer need not wait for it to expire.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from agentworld_client.keys import load
from agentworld_core.consensus.engine import ConsensusEngine
from agentworld_core.consensus.events import ConsensusSettings
from agentworld_core.errors import AgentWorldError, Busy, NotAvailable, WrongWorld
from agentworld_core.messages import BlockBundle, Genesis, WorldHeadAnnounce
from agentworld_core.ordering.batch import BatchLimits
from agentworld_core.ordering.mempool import Mempool, MempoolLimits
from agentworld_core.topology.node_config import NodeConfig
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_node.api.malformed import server_log
from agentworld_node.api.server import build_app
from agentworld_node.api.services import Services
from agentworld_node.keys import KeyFolder
from agentworld_node.lease.places import beat_forever, lease_loop
from agentworld_node.ledger import Ledger
from agentworld_node.ledger_stores import POOL
from agentworld_node.metrics import Metrics
from agentworld_node.network.libp2p import Libp2pConfig, Libp2pNetwork
from agentworld_node.network.port import Network
from agentworld_node.node_ending import cause_of
from agentworld_node.node_files import PeersFile, read_genesis
from agentworld_node.node_gauges import register_gauges
from agentworld_node.node_head import OwnHead
from agentworld_node.node_progress import Progress
from agentworld_node.node_status import node_status
from agentworld_node.pool_file import PoolFile
from agentworld_node.roles.evidence import EvidenceRole
from agentworld_node.roles.executor import Executor
from agentworld_node.roles.gateway import GatewayRole
from agentworld_node.roles.handover import HandOver, Surroundings
from agentworld_node.roles.keyring import NodeKeyring
from agentworld_node.roles.membership import MembershipRole
from agentworld_node.roles.pool_keeper import PoolKeeper
from agentworld_node.roles.sync import Synchronizer
from agentworld_node.roles.validator import ValidatorRole
from agentworld_node.roles.verification import worker_count
from agentworld_node.storage.files import LOCAL_FILES, FileSystem

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
STOP_SECONDS = 10.0
LAST_SECONDS = 2.0


class Node:
    """A node of one world; ``run`` returns after ``stop`` was called, and raises a typed error when it cannot go on."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        network: Network | None = None,
        sandbox: Sandbox | None = None,
        files: FileSystem = LOCAL_FILES,
    ):
        self.config = config
        self.metrics = Metrics()
        self.stopping = asyncio.Event()
        self.started_at = time.monotonic()
        self.identity = load(Path(config.identity_file))
        genesis = read_genesis(Path(config.genesis_file))
        if genesis.world_id != config.world_id:
            raise WrongWorld("the genesis is of another world", field="genesis_file", value=genesis.world_id)
        self.network = network or Libp2pNetwork(
            Libp2pConfig(
                seed=self.identity.seed,
                listen_host=config.p2p_host,
                listen_port=config.p2p_port,
                announce=config.announce,
                allow_unknown=True,
            )
        )
        self.ledger = Ledger.open(Path(config.data_folder), genesis, sandbox=sandbox, files=files)
        self.ledger.retain(config.retain_snapshots)
        # Only now: what is committed is written again on opening, however little room is left.
        self.ledger.limit_blobs(config.max_blob_bytes)
        self.keyring = NodeKeyring(
            node_id=config.node_id,
            folder=KeyFolder(Path(config.key_folder) if config.key_folder else None),
            revocations=self.ledger.revocations,
            directory_at=self.ledger.directory_at,
        )
        self._own_head = OwnHead(ledger=self.ledger, keyring=self.keyring, identity=self.identity)
        self._build_roles(genesis, files)
        self.peers_file = PeersFile(
            Path(config.peers_file) if config.peers_file else None,
            own=self.network.peer_id,
            take=self.network.set_peers,
        )
        self.progress = Progress(self)
        self.http_port = 0
        self._last_proposer: str | None = None
        self._ended: str | None = None

    def _build_roles(self, genesis: Genesis, files: FileSystem) -> None:
        config, parameters = self.config, genesis.parameters
        self.mempool = Mempool(
            MempoolLimits(
                max_actions=config.mempool_max_actions,
                max_per_actor=config.mempool_max_per_actor,
                max_per_source=config.mempool_max_per_source,
                expiry_ms=config.mempool_expiry_ms,
            ),
            BatchLimits(max_actions=parameters.max_batch_actions, max_bytes=parameters.max_batch_bytes),
        )
        self.gateway = GatewayRole(
            ledger=self.ledger,
            mempool=self.mempool,
            network=self.network,
            metrics=self.metrics,
            workers=worker_count(config.verification_workers),
        )
        self.pool = PoolKeeper(
            PoolFile(Path(config.data_folder) / POOL, config.world_id, files=files),
            take=self.gateway.take_up,
            waiting=self.gateway.waiting,
        )
        self.membership = MembershipRole(
            ledger=self.ledger, keyring=self.keyring, network=self.network, metrics=self.metrics
        )
        self.evidence = EvidenceRole(ledger=self.ledger, network=self.network, metrics=self.metrics)
        self.executor = Executor(
            ledger=self.ledger, mempool=self.mempool, keyring=self.keyring, is_verified=self.gateway.is_verified
        )
        settings = ConsensusSettings(
            world_id=genesis.world_id,
            validator_id=config.node_id if "validator" in config.roles else None,
            leaseless=parameters.leaseless,
            block_interval_ms=parameters.block_interval_ms,
        )
        self.engine = ConsensusEngine(settings)
        self.validator = ValidatorRole(
            engine=self.engine,
            ledger=self.ledger,
            executor=self.executor,
            keyring=self.keyring,
            network=self.network,
            metrics=self.metrics,
        )
        self.sync = Synchronizer(ledger=self.ledger, network=self.network, head=self.head, metrics=self.metrics)
        self.lease = lease_loop(
            config.lease,
            node_id=config.node_id,
            wanted=self._may_write,
            # Rounds may have gone beyond the chain's term, or beyond a Lease that was lost and made again.
            term_floor=lambda: max(self.ledger.chain.term, self.engine.highest_term),
        )
        around = Surroundings(node_id=config.node_id, writer=self.writer, unfit=self._unfit, view=self.engine.view)
        self.handover = HandOver(
            around, ledger=self.ledger, keyring=self.keyring, network=self.network, lease=self.lease
        )
        self._connect_roles()

    def _connect_roles(self) -> None:
        self.executor.proposed_directory = self.membership.waiting_directory
        self.executor.on_verified = self.gateway.note_verified
        self.ledger.is_verified = self.gateway.is_verified
        self.sync.execution_of = self.executor.execution_of
        self.executor.may_write = lambda: self.lease is None or (self.lease.is_held and not self.handover.under_way)
        self.gateway.on_change = self.validator.work_changed
        self.gateway.refuse_work = self._refusal
        self.membership.on_change = self.validator.work_changed
        self.validator.on_evidence = self.evidence.found
        self.validator.on_behind = self.sync.notice
        self.validator.on_decided = self.sync.notice_decided
        self.ledger.on_commit(self._note_proposer)
        if self.lease is not None:
            self.lease.on_view = self._lease_seen
            self.validator.on_unknown_term = lambda _term: self.lease.poke() if self.lease is not None else None
        register_gauges(self)

    async def run(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Starts everything, calls ``ready`` once the node listens, and runs until ``stop``."""
        runner = web.AppRunner(
            build_app(self._services()),
            access_log=None,
            logger=server_log(self.metrics),
            shutdown_timeout=LAST_SECONDS / 2,  # it is waited for twice
        )
        cause: AgentWorldError | None = None
        ended = False
        try:
            await self.pool.take_up()
            await self.network.start()
            await runner.setup()
            await self._listen(runner)
            self.peers_file.reload()
            ready()
            async with asyncio.TaskGroup() as tasks:
                self._start_tasks(tasks)
                await self.stopping.wait()
                await self.handover.finish()
                await self._hand_over(STOP_SECONDS)
                raise _Stopped
        except* _Stopped:
            log.info("node %s stops at height %d", self.config.node_id, self.ledger.height)
            ended = True
        except* Exception as group:  # noqa: BLE001 - whatever ended a task is told in one sentence
            cause = cause_of(group, self.ledger.failure)
            self._ended = str(cause)
            ended = True
            if self.writer()[0] == self.config.node_id:
                # Nothing is lost with it, and the others need not wait for the lease to expire.
                await self._hand_over(LAST_SECONDS)
        finally:
            self.stopping.set()
            await self._close(runner, keep=ended)
        if cause is not None:
            raise cause

    async def _close(self, runner: web.AppRunner, *, keep: bool) -> None:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.ledger.settle()
        except TimeoutError:
            log.warning("a block could not be written to the end; the log has it, or its peers have")
        await runner.cleanup()
        await self.network.stop()
        if keep:
            # Now that nothing more comes, and while the log still locks the folder.
            await self.pool.write_down()
        self.gateway.close()
        try:
            self.ledger.close()
        except AgentWorldError as error:
            # What could not be written has been promised to nobody.
            log.warning("the log could not be closed: %s", error)

    def stop(self) -> None:
        """Begins a clean stop; calling it again changes nothing."""
        self.stopping.set()

    def head(self) -> WorldHeadAnnounce | None:
        """Returns the newest committed head, signed by this node, None before the first block."""
        return self._own_head.newest()

    def writer(self) -> tuple[str | None, int]:
        """Returns who writes, as far as this node knows, and in which term."""
        if self.lease is not None:
            term, holder = self.lease.view
            return holder, term
        return self._last_proposer, self.ledger.chain.term

    def not_ready(self) -> str | None:
        """Returns why the node should get no work now, None when it is ready."""
        if self.stopping.is_set():
            return "stopping"
        if self.ledger.full:
            return "the data folder is full; free space or enlarge the volume"
        if self.ledger.failure is not None:
            return str(self.ledger.failure)
        if self.sync.conflict is not None:
            return str(self.sync.conflict)
        if self._is_alone():
            return None
        if not self.network.connected():
            return "no peer is connected"
        if not self.sync.in_touch:
            return "no peer has answered yet"
        return self.sync.behind()

    def failure(self) -> str | None:
        """Returns why only a restart helps, None while the node can make progress."""
        return self._ended or (None if self.ledger.failure is None else str(self.ledger.failure))

    def _is_alone(self) -> bool:
        """True when this node decides by itself, and so has nobody to be in step with."""
        chain = self.ledger.chain
        members = chain.directory_at(chain.next_height).members
        return len(members) == 1 and self.keyring.signer_at(chain.next_height) is not None

    def _services(self) -> Services:
        return Services(
            ledger=self.ledger,
            gateway=self.gateway,
            membership=self.membership,
            evidence=self.evidence,
            handover=self.handover,
            metrics=self.metrics,
            rate_limit=self.config.rate_limit,
            head=self.head,
            status=lambda: node_status(self),
            consensus=self.progress.document,
            failure=self.failure,
            not_ready=self.not_ready,
            stopping=self.stopping,
        )

    async def _listen(self, runner: web.AppRunner) -> None:
        site = web.TCPSite(runner, self.config.http_host, self.config.http_port)
        try:
            await site.start()
        except OSError as error:
            raise NotAvailable(
                f"the HTTP server cannot listen: {error.strerror}",
                field="http_port",
                value=f"{self.config.http_host}:{self.config.http_port}",
                remedy="choose another port, or stop what uses it",
            ) from error
        self.http_port = runner.addresses[0][1]

    def _start_tasks(self, tasks: asyncio.TaskGroup) -> None:
        self.sync.start(tasks)
        self.gateway.start(tasks)
        tasks.create_task(self.pool.run(), name="take-up-waiting")
        self.membership.start(tasks)
        self.evidence.start(tasks)
        self.handover.start()
        self.validator.start(tasks, self.ledger.durable_votes)
        if self.lease is not None:
            tasks.create_task(self.lease.run(), name="lease")
        if self.config.lease.heartbeat_name:
            tasks.create_task(beat_forever(self.config.lease, self.config.node_id), name="heartbeat")
        tasks.create_task(self._watch_forever(), name="watch-files")
        tasks.create_task(self.progress.run(), name="watch-progress")
        tasks.create_task(self._watch_ledger(), name="watch-ledger")

    def _unfit(self) -> str | None:
        """Returns why this node could not write, None when it could."""
        if "sequencer" not in self.config.roles:
            return "it has not the role of a sequencer"
        if self.keyring.signer_at(self.ledger.chain.next_height) is None:
            return "it has no key that counts"
        return self.not_ready()

    def _may_write(self) -> bool:
        return self._unfit() is None and not self.validator.should_yield

    def _lease_seen(self, term: int, holder: str | None) -> None:
        self.executor.lease_term = term
        self.validator.lease_observed(term, holder)

    def _refusal(self) -> AgentWorldError | None:
        if self.stopping.is_set():
            return NotAvailable("the node is stopping", remedy="try another node")
        return Busy("the data folder is full", remedy="try another node") if self.ledger.full else None

    async def _hand_over(self, seconds: float) -> None:
        if self.lease is None:
            return
        try:
            held = self.lease.is_held
            await asyncio.wait_for(self.lease.release(), seconds)
            if held:
                await self.handover.tell_all()
        except TimeoutError:
            log.warning("the writer lease could not be handed over in time; it will expire")

    async def _watch_forever(self) -> None:
        """Takes up changed keys and peers, and ends when the supervisor that started this node is gone."""
        parent = os.environ.get("AGENTWORLD_PARENT_PID")
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self.keyring.folder.reload():
                log.info("signing keys: active %s", self.keyring.folder.keys.active_key_id or "none")
            self.peers_file.reload()
            if parent is not None and str(os.getppid()) != parent:
                log.warning("the supervisor is gone; stopping")
                self.stop()

    async def _watch_ledger(self) -> None:
        raise await self.ledger.broken()

    def _note_proposer(self, bundle: BlockBundle) -> None:
        self._last_proposer = bundle.block.proposer_id


class _Stopped(Exception):
    """Ends the task group of a node that was asked to stop."""
