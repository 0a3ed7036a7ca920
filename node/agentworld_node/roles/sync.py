"""Keeps a node at the head: learns of newer heads, fetches the blocks in between and lets the ledger check every one.

Heads are announced on a topic, also while nothing happens, so that a lost message costs one interval. A head says only
where to look: nothing is believed of it but what the fetched blocks prove. A peer that serves a wrong block, or none
where it announced some, is asked last for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, WrongWorld
from agentworld_core.messages import BlockBundle, Blocks, GetBlocks, WorldHeadAnnounce
from agentworld_core.names import protocol, topic
from agentworld_node.metrics import Metrics
from agentworld_node.network.port import Network

log = logging.getLogger(__name__)

GET_BLOCKS = protocol("get_blocks")
ANNOUNCE_SECONDS = 2.0
REQUEST_SECONDS = 10.0
BLOCKS_PER_REQUEST = 64
BYTES_PER_ANSWER = 4 * 1024 * 1024
STRIKE_SECONDS = 10.0


class SyncedLedger(Protocol):
    """The part of the ledger that synchronising needs."""

    @property
    def height(self) -> int: ...
    def bundles(self, start: int, *, limit: int, max_bytes: int) -> list[BlockBundle]: ...
    async def apply(self, bundle: BlockBundle) -> bool: ...


class Synchronizer:
    """Follows the heads of a world and applies the blocks that this node has not got."""

    def __init__(
        self,
        *,
        world_id: str,
        ledger: SyncedLedger,
        network: Network,
        head: Callable[[], WorldHeadAnnounce | None],
        metrics: Metrics,
    ):
        self._world_id = world_id
        self._ledger = ledger
        self._network = network
        self._head = head
        self._metrics = metrics
        self._announced: dict[str, int] = {}
        self._strikes: dict[str, float] = {}
        self._heard = False
        self._wake = asyncio.Event()
        self._topic = topic(world_id, "head")

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Serves blocks, listens to heads and runs until the task group ends."""
        self._network.serve(GET_BLOCKS, self._serve_blocks)
        self._network.subscribe(self._topic, self._on_head)
        tasks.create_task(self._announce_forever(), name="announce-head")
        tasks.create_task(self._fetch_forever(), name="fetch-blocks")

    @property
    def network_height(self) -> int:
        """The highest height that a connected peer has announced, or the node's own."""
        return max([self._ledger.height, *self._announced.values()])

    @property
    def in_touch(self) -> bool:
        """True once a peer has told its head, or has answered, since the start."""
        return self._heard

    async def announce(self) -> None:
        """Tells the others the head of this node, if it has one."""
        head = self._head()
        if head is not None:
            await self._network.publish(self._topic, encode(head))

    def notice(self, peer_id: str, height: int) -> None:
        """Takes note that a peer seems to be at a height, and fetches if that is news."""
        if height > self._announced.get(peer_id, 0):
            self._announced[peer_id] = height
        if height > self._ledger.height:
            self._wake.set()

    def _on_head(self, peer_id: str, payload: bytes) -> None:
        try:
            head = decode(WorldHeadAnnounce, payload)
            if head.world_id != self._world_id:
                raise WrongWorld("the head is of another world", field="world_id", value=head.world_id)
        except AgentWorldError as error:
            self._metrics.count("agentworld_messages_refused_total", topic="head", code=error.code)
            return
        self._heard = True
        self.notice(peer_id, head.height)

    async def _announce_forever(self) -> None:
        while True:
            await self.announce()
            self._forget_gone_peers()
            await self._ask_around()
            await asyncio.sleep(ANNOUNCE_SECONDS)

    async def _ask_around(self) -> None:
        """Before anything was heard, asks a peer outright: a world that stands still may have nothing to announce."""
        if self._heard:
            return
        for peer_id in self._network.connected():
            try:
                bundles = await self._request(peer_id, self._ledger.height + 1)
            except AgentWorldError as error:
                log.debug("asking %s for its head: %s", peer_id, error)
                continue
            self._heard = True
            if bundles:
                self.notice(peer_id, bundles[-1].block.height)
            return

    def _forget_gone_peers(self) -> None:
        connected = set(self._network.connected())
        for peer_id in [peer_id for peer_id in self._announced if peer_id not in connected]:
            del self._announced[peer_id]

    async def _fetch_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self.network_height > self._ledger.height:
                if not await self._fetch_some():
                    break

    async def _fetch_some(self) -> bool:
        """Fetches from one peer that is ahead; False when none of them had anything good."""
        now = asyncio.get_running_loop().time()
        ahead = [peer_id for peer_id, height in self._announced.items() if height > self._ledger.height]
        for peer_id in sorted(ahead, key=lambda peer: (self._strikes.get(peer, 0.0), peer)):
            if self._strikes.get(peer_id, 0.0) > now and len(ahead) > 1:
                continue
            try:
                bundles = await self._request(peer_id, self._ledger.height + 1)
                for bundle in bundles:
                    await self._ledger.apply(bundle)
                if bundles:
                    return True
                self._announced[peer_id] = min(self._announced.get(peer_id, 0), self._ledger.height)
            except AgentWorldError as error:
                log.warning("blocks from %s: %s", peer_id, error)
                self._metrics.count("agentworld_messages_refused_total", topic="get_blocks", code=error.code)
                self._announced.pop(peer_id, None)
            self._strikes[peer_id] = now + STRIKE_SECONDS
        return False

    async def _request(self, peer_id: str, start: int) -> tuple[BlockBundle, ...]:
        question = GetBlocks(self._world_id, start, BLOCKS_PER_REQUEST)
        answer = await self._network.request(peer_id, GET_BLOCKS, encode(question), timeout=REQUEST_SECONDS)
        return decode(Blocks, answer, limit=2 * BYTES_PER_ANSWER).bundles

    async def _serve_blocks(self, _peer_id: str, payload: bytes) -> bytes:
        question = decode(GetBlocks, payload, limit=1024)
        if question.world_id != self._world_id:
            raise WrongWorld("this node serves another world", field="world_id", value=question.world_id)
        limit = min(question.limit, BLOCKS_PER_REQUEST)
        return encode(
            Blocks(tuple(self._ledger.bundles(question.from_height, limit=limit, max_bytes=BYTES_PER_ANSWER)))
        )
