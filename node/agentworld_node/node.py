"""One node: wires storage, network, roles and HTTP together, runs them, and stops them so that nothing is lost.

Stopping hands the writer lease over before anything else, so that the next writer need not wait for it to expire.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from agentworld_client.keys import load
from agentworld_core.codec import decode
from agentworld_core.consensus.engine import ConsensusEngine
from agentworld_core.consensus.events import ConsensusSettings
from agentworld_core.errors import AgentWorldError, Busy, InvalidField, NotAvailable, NotFound, WrongWorld
from agentworld_core.messages import Genesis, WorldHeadAnnounce
from agentworld_core.ordering.batch import BatchLimits
from agentworld_core.ordering.lease import LeaseTimings
from agentworld_core.ordering.mempool import Mempool, MempoolLimits
from agentworld_core.signing import sign
from agentworld_core.topology.node_config import NodeConfig
from agentworld_node.api.server import build_app
from agentworld_node.api.services import Services
from agentworld_node.keys import KeyFolder
from agentworld_node.lease.file import FileLeaseStore
from agentworld_node.lease.loop import LeaseLoop
from agentworld_node.lease.port import LeaseStore
from agentworld_node.ledger import Ledger
from agentworld_node.metrics import Metrics
from agentworld_node.network.libp2p import Libp2pConfig, Libp2pNetwork
from agentworld_node.network.port import Network, Peer
from agentworld_node.node_status import node_status
from agentworld_node.roles.executor import Executor
from agentworld_node.roles.gateway import GatewayRole
from agentworld_node.roles.keyring import NodeKeyring
from agentworld_node.roles.membership import MembershipRole
from agentworld_node.roles.sync import Synchronizer
from agentworld_node.roles.validator import ValidatorRole

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
HEARTBEAT_SECONDS = 10.0
STOP_SECONDS = 10.0
IN_SYNC_LAG = 2
GENESIS_LIMIT = 1024 * 1024


class Node:
    """A node of one world; ``run`` returns after ``stop`` was called, and raises when it cannot go on."""

    def __init__(self, config: NodeConfig, *, network: Network | None = None):
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
        self.ledger = Ledger.open(Path(config.data_folder), genesis)
        self.keyring = NodeKeyring(
            node_id=config.node_id,
            folder=KeyFolder(Path(config.key_folder) if config.key_folder else None),
            revocations=self.ledger.revocations,
            directory_at=self.ledger.directory_at,
        )
        self._build_roles(genesis)
        self.peers: tuple[Peer, ...] = ()
        self.http_port = 0
        self._head: WorldHeadAnnounce | None = None

    def _build_roles(self, genesis: Genesis) -> None:
        config, parameters = self.config, genesis.parameters
        self.mempool = Mempool(
            MempoolLimits(max_actions=config.mempool_max_actions, max_per_actor=config.mempool_max_per_actor),
            BatchLimits(max_actions=parameters.max_batch_actions, max_bytes=parameters.max_batch_bytes),
        )
        self.gateway = GatewayRole(ledger=self.ledger, mempool=self.mempool, network=self.network, metrics=self.metrics)
        self.membership = MembershipRole(
            ledger=self.ledger, keyring=self.keyring, network=self.network, metrics=self.metrics
        )
        self.executor = Executor(
            ledger=self.ledger, mempool=self.mempool, keyring=self.keyring, is_verified=self.gateway.is_verified
        )
        settings = ConsensusSettings(
            world_id=genesis.world_id,
            validator_id=config.node_id if "validator" in config.roles else None,
            leaseless=parameters.leaseless,
            block_interval_ms=parameters.block_interval_ms,
        )
        self.validator = ValidatorRole(
            engine=ConsensusEngine(settings),
            ledger=self.ledger,
            executor=self.executor,
            keyring=self.keyring,
            network=self.network,
            metrics=self.metrics,
        )
        self.sync = Synchronizer(
            world_id=genesis.world_id,
            ledger=self.ledger,
            network=self.network,
            head=self.head,
            metrics=self.metrics,
        )
        self.lease = self._lease_loop()
        self._connect_roles()

    def _connect_roles(self) -> None:
        self.executor.proposed_directory = self.membership.waiting_directory
        self.gateway.on_change = self.validator.work_changed
        self.gateway.refuse_work = self._refusal
        self.membership.on_change = self.validator.work_changed
        self.validator.on_behind = self.sync.notice
        if self.lease is not None:
            self.lease.on_view = self._lease_seen
            self.validator.on_unknown_term = lambda _term: self.lease.poke() if self.lease is not None else None
        metrics, ledger = self.metrics, self.ledger
        metrics.gauge("agentworld_head_height", lambda: ledger.height)
        metrics.gauge("agentworld_head_time_seconds", lambda: ledger.chain.time_ms / 1000)
        metrics.gauge("agentworld_directory_epoch", lambda: ledger.chain.directory_at(ledger.height + 1).epoch)
        metrics.gauge("agentworld_revoked_keys", lambda: len(self.keyring.revocations))
        metrics.gauge("agentworld_mempool_actions", lambda: len(self.mempool))
        metrics.gauge("agentworld_peers_connected", lambda: len(self.network.connected()))
        metrics.gauge("agentworld_writer", lambda: int(self.lease is not None and self.lease.is_held))
        metrics.gauge("agentworld_lease_term", lambda: self.writer()[1])
        metrics.gauge("agentworld_storage_full", lambda: int(ledger.full))
        metrics.table("agentworld_network_total", "name", self.network.counters)

    async def run(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Starts everything, calls ``ready`` once the node listens, and runs until ``stop``."""
        await self.network.start()
        runner = web.AppRunner(build_app(self._services()), access_log=None, shutdown_timeout=2)
        try:
            await runner.setup()
            await self._listen(runner)
            self._read_peers()
            ready()
            async with asyncio.TaskGroup() as tasks:
                self._start_tasks(tasks)
                await self.stopping.wait()
                await self._hand_over()
                raise _Stopped
        except* _Stopped:
            log.info("node %s stops at height %d", self.config.node_id, self.ledger.height)
        finally:
            await runner.cleanup()
            await self.network.stop()
            self.ledger.close()

    def stop(self) -> None:
        """Begins a clean stop; calling it again changes nothing."""
        self.stopping.set()

    def head(self) -> WorldHeadAnnounce | None:
        """Returns the newest committed head, signed by this node, None before the first block."""
        chain = self.ledger.chain
        if chain.height == 0:
            return None
        if self._head is None or self._head.block_hash != chain.block_hash:
            certificate = self.ledger.certificate(chain.height)
            if certificate is None:
                raise NotFound("the certificate of the head is missing", field="height", value=chain.height)
            announce = WorldHeadAnnounce(
                world_id=chain.world_id,
                height=chain.height,
                block_hash=chain.block_hash,
                state_root=chain.state_root,
                timestamp_ms=chain.time_ms,
                signature=b"",
                term=chain.term,
                directory_epoch=certificate.directory_epoch,
                announcer_id=self.config.node_id,
                key_id="0" * 32,
                certificate=certificate,
            )
            self._head = sign(announce, self.keyring.signer_at(chain.height + 1) or self.identity)
        return self._head

    def writer(self) -> tuple[str | None, int]:
        """Returns who writes, as far as this node knows, and in which term."""
        if self.lease is not None:
            term, holder = self.lease.view
            return holder, term
        if self.ledger.genesis.parameters.leaseless and self.ledger.height:
            bundle = self.ledger.bundle(self.ledger.height)
            return (None if bundle is None else bundle.block.proposer_id), 0
        return None, self.ledger.chain.term

    def not_ready(self) -> str | None:
        """Returns why the node should get no work now, None when it is ready."""
        if self.stopping.is_set():
            return "stopping"
        if self.ledger.full:
            return "the data folder is full; free space or enlarge the volume"
        alone = len(self.ledger.chain.directory_at(self.ledger.chain.next_height).members) == 1
        if alone and self.keyring.signer_at(self.ledger.chain.next_height) is not None:
            return None
        if not self.sync.in_touch:
            return "no peer has answered yet"
        lag = self.sync.network_height - self.ledger.height
        return f"{lag} blocks behind" if lag > IN_SYNC_LAG else None

    def _services(self) -> Services:
        return Services(
            ledger=self.ledger,
            gateway=self.gateway,
            membership=self.membership,
            metrics=self.metrics,
            head=self.head,
            status=lambda: node_status(self),
            failure=lambda: None,
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
        self.membership.start(tasks)
        self.validator.start(tasks, self.ledger.durable_votes)
        if self.lease is not None:
            tasks.create_task(self.lease.run(), name="lease")
        if self.config.lease.heartbeat_name:
            tasks.create_task(self._beat_forever(), name="heartbeat")
        tasks.create_task(self._watch_forever(), name="watch-files")

    def _lease_loop(self) -> LeaseLoop | None:
        lease = self.config.lease
        store: LeaseStore
        if lease.kind == "none":
            return None
        if lease.kind == "file":
            store = FileLeaseStore(Path(lease.path))
        else:
            from agentworld_node.kube.leases import KubernetesLeases, KubernetesLeaseStore

            store = KubernetesLeaseStore(KubernetesLeases(lease.namespace), lease.name)
        timings = LeaseTimings(
            duration_ms=lease.duration_ms, renew_deadline_ms=lease.renew_deadline_ms, retry_ms=lease.retry_period_ms
        )
        return LeaseLoop(
            node_id=self.config.node_id,
            store=store,
            timings=timings,
            wanted=self._may_write,
            term_floor=lambda: self.ledger.chain.term,
        )

    def _may_write(self) -> bool:
        signs = self.keyring.signer_at(self.ledger.chain.next_height) is not None
        return "sequencer" in self.config.roles and signs and self.not_ready() is None

    def _lease_seen(self, term: int, holder: str | None) -> None:
        self.executor.lease_term = term
        self.validator.lease_observed(term, holder)

    def _refusal(self) -> AgentWorldError | None:
        if self.stopping.is_set():
            return NotAvailable("the node is stopping", remedy="try another node")
        return Busy("the data folder is full", remedy="try another node") if self.ledger.full else None

    async def _hand_over(self) -> None:
        if self.lease is None:
            return
        try:
            await asyncio.wait_for(self.lease.release(), STOP_SECONDS)
        except TimeoutError:
            log.warning("the writer lease could not be handed over in time; it will expire")

    async def _beat_forever(self) -> None:
        from agentworld_node.kube.leases import KubernetesLeases, renew_heartbeat

        lease = self.config.lease
        leases = KubernetesLeases(lease.namespace)
        while True:
            try:
                seconds = int(4 * HEARTBEAT_SECONDS)
                await renew_heartbeat(leases, lease.heartbeat_name, self.config.node_id, duration_seconds=seconds)
            except NotAvailable as error:
                log.warning("heartbeat: %s", error)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _watch_forever(self) -> None:
        """Takes up changed keys and peers, and ends when the supervisor that started this node is gone."""
        parent = os.environ.get("AGENTWORLD_PARENT_PID")
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self.keyring.folder.reload():
                log.info("signing keys: active %s", self.keyring.folder.keys.active_key_id or "none")
            self._read_peers()
            if parent is not None and str(os.getppid()) != parent:
                log.warning("the supervisor is gone; stopping")
                self.stop()

    def _read_peers(self) -> None:
        if not self.config.peers_file:
            return
        try:
            peers = read_peers(Path(self.config.peers_file), own=self.network.peer_id)
        except InvalidField as error:
            log.warning("the list of peers stays as it was: %s", error)
            return
        if peers != self.peers:
            self.peers = peers
            self.network.set_peers(peers)


class _Stopped(Exception):
    """Ends the task group of a node that was asked to stop."""


def read_genesis(path: Path) -> Genesis:
    """Returns the genesis document of a file; a typed error says what is wrong with it."""
    try:
        return decode(Genesis, path.read_bytes(), limit=GENESIS_LIMIT)
    except FileNotFoundError as error:
        raise NotFound("there is no genesis file", field="genesis_file", value=path) from error
    except OSError as error:
        raise InvalidField(f"cannot be read: {error.strerror}", field="genesis_file", value=path) from error


def read_peers(path: Path, *, own: str) -> tuple[Peer, ...]:
    """Returns the peers of a file, ``[{"node_id", "peer_id", "addresses"}]``, without the node itself."""
    try:
        rows = json.loads(path.read_text())
        peers = [Peer(str(row["peer_id"]), tuple(str(item) for item in row["addresses"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidField(f"cannot be read: {error}", field="peers_file", value=path) from error
    return tuple(peer for peer in sorted(peers, key=lambda peer: peer.peer_id) if peer.peer_id != own)
