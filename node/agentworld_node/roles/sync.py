"""Keeps a node at the head: learns of newer heads, fetches the blocks in between and lets the ledger check every one.

Heads are announced on a topic, also while nothing happens, so that a lost message costs one interval. A head whose
certificate verifies is a fact about the world, whoever passes it on. Any other claim to be ahead is only a place to
ask: it makes nobody wait, and a peer that does not keep it, or serves a wrong block, is asked last for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, StateMismatch, WrongWorld
from agentworld_core.ledger.block import Execution
from agentworld_core.ledger.errors import HeadConflict
from agentworld_core.ledger.follow import check_head
from agentworld_core.ledger.validate import check_alone
from agentworld_core.messages import BlockBundle, Blocks, Directory, GetBlocks, WorldBlock, WorldHeadAnnounce
from agentworld_core.names import protocol, topic
from agentworld_node.ledger import Ledger
from agentworld_node.metrics import Metrics
from agentworld_node.network.port import Network
from agentworld_node.roles.strikes import Strikes

log = logging.getLogger(__name__)

GET_BLOCKS = protocol("get_blocks")
ANNOUNCE_SECONDS = 2.0
REQUEST_SECONDS = 10.0
ASK_SECONDS = 0.5
BLOCKS_PER_REQUEST = 64
BYTES_PER_ANSWER = 4 * 1024 * 1024
HEAD_LIMIT = 128 * 1024
SMALL_LAG = 2
"""As many blocks a node may be behind while others decide the next one; more means that it is catching up."""


class Synchronizer:
    """Follows the heads of a world and applies the blocks that this node has not got."""

    def __init__(
        self, *, ledger: Ledger, network: Network, head: Callable[[], WorldHeadAnnounce | None], metrics: Metrics
    ):
        self._ledger = ledger
        self._world_id = ledger.genesis.world_id
        self._network = network
        self._head = head
        self._metrics = metrics
        self._claims: dict[str, int] = {}
        self._liars = Strikes(first=10.0, longest=320.0)
        self._silent = Strikes(first=1.0, longest=60.0)
        self._decided = 0
        self._heard = False
        self._catching_up = False
        self._wake = asyncio.Event()
        self._topic = topic(self._world_id, "head")
        self.conflict: HeadConflict | None = None
        self.execution_of: Callable[[WorldBlock], Awaitable[Execution | None]] = _nothing_judged

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Serves blocks, listens to heads and runs until the task group ends."""
        self._network.serve(GET_BLOCKS, self._serve_blocks)
        self._network.subscribe(self._topic, self._on_head)
        tasks.create_task(self._announce_forever(), name="announce-head")
        tasks.create_task(self._fetch_forever(), name="fetch-blocks")

    @property
    def network_height(self) -> int:
        """The highest height that is known to be decided."""
        return max(self._ledger.height, self._decided)

    @property
    def in_touch(self) -> bool:
        """True once a peer has shown a certified head, or had nothing newer than this node has, since the start."""
        return self._heard

    def behind(self) -> str | None:
        """Returns how this node is behind the others, None when it is not, as far as it knows."""
        lag = self.network_height - self._ledger.height
        if lag > SMALL_LAG:
            return f"{lag} blocks behind"
        return "catching up" if self._catching_up else None

    async def announce(self) -> None:
        """Tells the others the head of this node, if it has one."""
        head = self._head()
        if head is not None:
            await self._network.publish(self._topic, encode(head))

    def notice(self, peer_id: str, height: int) -> None:
        """Takes note that a peer says it is at a height, which makes it one to ask for blocks."""
        if height > self._ledger.height and peer_id in self._network.connected() and not self._is_struck(peer_id):
            self._claims[peer_id] = max(height, self._claims.get(peer_id, 0))
            self._wake.set()

    def notice_decided(self, height: int) -> None:
        """Takes note that a height has been decided, by the word of more validators than may lie."""
        self._decided = max(self._decided, height)
        if height > self._ledger.height:
            self._wake.set()

    # Heads

    def _on_head(self, peer_id: str, payload: bytes) -> None:
        try:
            if self._liars.is_struck(peer_id, _now()):
                return
            head = decode(WorldHeadAnnounce, payload, limit=HEAD_LIMIT)
            if head.world_id != self._world_id:
                raise WrongWorld("the head is of another world", field="world_id", value=head.world_id)
            if head.height > self._ledger.height:
                self._take_newer(peer_id, head)
            else:
                self._take_known(head)
        except AgentWorldError as error:
            self._metrics.count("agentworld_messages_refused_total", topic="head", code=error.code)
            if not isinstance(error, WrongWorld):
                self._liars.add(peer_id, _now())

    def _take_newer(self, peer_id: str, head: WorldHeadAnnounce) -> None:
        directory = self._epoch(head.directory_epoch)
        if directory is not None and head.height > self._decided:
            if head.height <= self._ledger.chain.horizon and directory != self._ledger.directory_at(head.height):
                raise StateMismatch(
                    "is not in force at this height", field="directory_epoch", value=head.directory_epoch
                )
            check_head(head, directory)
            self._heard = True
            self.notice_decided(head.height)
        self.notice(peer_id, head.height)

    def _take_known(self, head: WorldHeadAnnounce) -> None:
        if head.height < 1:
            raise StateMismatch("heights begin with 1", field="height", value=head.height)
        known = self._ledger.block_hash(head.height)
        if known == head.block_hash and self._heard:
            return
        check_head(head, self._ledger.directory_at(head.height))
        self._heard = True
        if known is not None and known != head.block_hash and self.conflict is None:
            self.conflict = HeadConflict(head, known_hash=known)
            self._metrics.count("agentworld_evidence_total")
            log.critical("%s; more validators than may lie have signed twice", self.conflict)

    def _epoch(self, epoch: int) -> Directory | None:
        return self._ledger.directory(epoch) if epoch > 0 else None

    # Fetching

    async def _announce_forever(self) -> None:
        while True:
            await self.announce()
            connected, own = set(self._network.connected()), self._ledger.height
            self._claims = {peer: height for peer, height in self._claims.items() if peer in connected and height > own}
            await asyncio.sleep(ANNOUNCE_SECONDS)

    async def _fetch_forever(self) -> None:
        while True:
            # Before anything was heard, peers are asked outright: a world that stands still has nothing to announce.
            # While blocks are known to exist that nobody gave, all are asked again.
            asks = not self._heard or self._decided > self._ledger.height
            with suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS if asks else None):
                    await self._wake.wait()
            self._wake.clear()
            while await self._fetch_some():
                pass
            self._catching_up = False

    async def _fetch_some(self) -> bool:
        """Fetches from one peer that may be ahead; False when none of them had anything good."""
        for peer_id in self._candidates():
            start = self._ledger.height + 1
            try:
                bundles = await self._request(peer_id, start)
                if bundles and bundles[0].block.height != start:
                    raise StateMismatch(
                        "is not the block that was asked for", field="height", value=bundles[0].block.height
                    )
            except AgentWorldError as error:
                log.debug("asking %s for blocks: %s", peer_id, error)
                self._claims.pop(peer_id, None)
                kind = self._silent if error.retryable else self._liars
                kind.add(peer_id, _now())
                continue
            # An answer with blocks may not hold all there are; only one without any says that there is no more.
            self._heard = self._heard or not bundles
            if await self._apply(peer_id, bundles):
                self._catching_up = len(bundles) > SMALL_LAG
                return True
            if self._claims.pop(peer_id, 0) >= start:
                self._silent.add(peer_id, _now())
        return False

    def _candidates(self) -> list[str]:
        """Returns whom to ask, best first: who claims to be ahead, and anybody while blocks are known to exist."""
        own, connected = self._ledger.height, self._network.connected()
        if not self._heard:
            return list(connected)
        ahead = [peer_id for peer_id in connected if self._claims.get(peer_id, 0) > own]
        if self._decided > own:
            ahead += [peer_id for peer_id in connected if peer_id not in ahead]
        else:
            ahead = [peer_id for peer_id in ahead if not self._is_struck(peer_id)]
        now = _now()
        return sorted(ahead, key=lambda peer_id: (self._liars.weight(peer_id, now), self._silent.weight(peer_id, now)))

    async def _apply(self, peer_id: str, bundles: tuple[BlockBundle, ...]) -> bool:
        """Commits blocks in order; True when the ledger is, or was meanwhile brought, at the end of the first one."""
        for bundle in bundles:
            try:
                await self._ledger.apply(bundle, execution=await self._judged(bundle))
            except AgentWorldError as error:
                if self._ledger.failure is not None:
                    raise
                log.warning("block %d from %s is refused: %s", bundle.block.height, peer_id, error)
                self._metrics.count("agentworld_messages_refused_total", topic="get_blocks", code=error.code)
                self._liars.add(peer_id, _now())
                break
        return bool(bundles) and self._ledger.height >= bundles[0].block.height

    async def _judged(self, bundle: BlockBundle) -> Execution | None:
        """Returns the execution of a block that this node has judged as a proposal, once the rest of it is checked."""
        height = self._ledger.chain.next_height
        execution = await self.execution_of(bundle.block)
        if execution is None or bundle.block.height != height:
            return None
        await asyncio.to_thread(check_alone, bundle, self._ledger.directory_at(height))
        return execution

    async def _request(self, peer_id: str, start: int) -> tuple[BlockBundle, ...]:
        question = GetBlocks(self._world_id, start, BLOCKS_PER_REQUEST)
        answer = await self._network.request(peer_id, GET_BLOCKS, encode(question), timeout=REQUEST_SECONDS)
        blocks = await asyncio.to_thread(decode, Blocks, answer, limit=2 * BYTES_PER_ANSWER)
        return blocks.bundles

    async def _serve_blocks(self, _peer_id: str, payload: bytes) -> bytes:
        question = decode(GetBlocks, payload, limit=1024)
        if question.world_id != self._world_id:
            raise WrongWorld("this node serves another world", field="world_id", value=question.world_id)
        limit = min(question.limit, BLOCKS_PER_REQUEST)
        return await asyncio.to_thread(
            self._ledger.encoded_blocks, question.from_height, limit=limit, max_bytes=BYTES_PER_ANSWER
        )

    def _is_struck(self, peer_id: str) -> bool:
        return self._liars.is_struck(peer_id, _now()) or self._silent.is_struck(peer_id, _now())


async def _nothing_judged(_block: WorldBlock) -> Execution | None:
    return None


def _now() -> float:
    return asyncio.get_running_loop().time()
