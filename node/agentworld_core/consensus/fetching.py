"""Which parts of the offered batches to ask for, and whom; what arrives is checked, and bounded by who offered it.

Whoever offered a batch is asked first, since it must have it; after a refusal, also the other members, one part each
until they have shown that they have more. A peer that refuses is left alone until it offers the batch again, which
everybody who has it does while the height is undecided; one that lies is not asked or listened to again at the height.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from agentworld_core.consensus.parts import Batch, ProposalOffer, batch_of, check_sizes, size_of_part, whole
from agentworld_core.errors import HashMismatch
from agentworld_core.hashing import content_id
from agentworld_core.messages import WorldBlock

UNDER_WAY_PER_PEER = 8
FETCHES_PER_PEER = 2
"""So many batches that a peer has offered are being fetched; a newer offer pushes out the oldest of the same peer."""
KEPT_PER_PROPOSER = 2
PEERS_REMEMBERED = 1024

Key: TypeAlias = tuple[str, int, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Ask:
    """A part to ask a peer for; every one must be ended by ``took``, ``failed`` or ``lied``."""

    peer_id: str
    part: str
    size: int
    key: Key
    index: int


@dataclasses.dataclass(frozen=True)
class Arrived:
    """A whole proposal, as if the peer that offered it had sent it whole."""

    peer_id: str
    data: bytes


@dataclasses.dataclass
class _Fetch:
    block: WorldBlock
    sizes: tuple[int, ...]
    offers: dict[str, ProposalOffer] = dataclasses.field(default_factory=dict)  # by who sent it, the newest of each
    parts: dict[int, bytes] = dataclasses.field(default_factory=dict)
    under_way: dict[int, str] = dataclasses.field(default_factory=dict)
    refused: dict[str, None] = dataclasses.field(default_factory=dict)
    gave: dict[str, None] = dataclasses.field(default_factory=dict)


class Fetching:
    """The batches of proposals that this node is fetching, and those that it has and serves."""

    def __init__(self) -> None:
        self._fetches: dict[Key, _Fetch] = {}
        self._kept: dict[str, Batch] = {}
        self._liars: dict[str, None] = {}
        self._busy: Counter[str] = Counter()
        self._silent: dict[str, None] = {}

    @property
    def held_bytes(self) -> int:
        """How many bytes of batches are kept, whole or in parts."""
        pieces = [part for fetch in self._fetches.values() for part in fetch.parts.values()]
        return sum(map(len, pieces)) + sum(batch.size for batch in self._kept.values())

    def keep(self, action_root: str, batch: Batch) -> None:
        """Serves a batch from now on; of each proposer the newest few, so that one who floods pushes out its own."""
        self._kept.pop(action_root, None)
        self._kept[action_root] = batch
        own = [root for root, kept in self._kept.items() if kept.proposer_id == batch.proposer_id]
        for root in own[:-KEPT_PER_PROPOSER]:
            del self._kept[root]

    def kept(self, action_root: str) -> Batch | None:
        """Returns a batch that is served."""
        return self._kept.get(action_root)

    def part(self, part: str) -> bytes | None:
        """Returns the part of a batch that is served, None when there is none with this content id."""
        for batch in self._kept.values():
            if part in batch.ids:
                return batch.parts[batch.ids.index(part)]
        return None

    def offer(self, peer_id: str, offer: ProposalOffer) -> list[Arrived]:
        """Takes in a verified offer; returns the proposal if its batch is here already.

        Raises InvalidField for sizes that do not fit, and HashMismatch for offers of who has lied at this height.
        """
        check_sizes(offer)
        if peer_id in self._liars:
            raise HashMismatch("is by a peer whose parts were wrong", field="offer", value=peer_id)
        kept = self._kept.get(offer.block.action_root)
        if kept is not None:
            self.keep(offer.block.action_root, kept)
            return [Arrived(peer_id, whole(offer, b"".join(kept.parts)))]
        key = (offer.block.action_root, offer.batch_bytes, offer.parts)
        if key not in self._fetches:
            self._make_room(peer_id)
            sizes = tuple(size_of_part(offer, index) for index in range(len(offer.parts)))
            self._fetches[key] = _Fetch(offer.block, sizes)
        elif peer_id not in self._fetches[key].offers:
            self._make_room(peer_id)
        fetch = self._fetches[key]
        fetch.offers[peer_id] = offer
        fetch.refused.pop(peer_id, None)
        return []

    def asks(self, peers: Sequence[str]) -> list[Ask]:
        """Returns what to ask now of these peers, the connected members; each part is asked of one at a time."""
        found: list[Ask] = []
        for key, fetch in self._fetches.items():
            for index, part in enumerate(key[2]):
                if index in fetch.parts or index in fetch.under_way:
                    continue
                peer_id = self._whom(fetch, peers)
                if peer_id is None:
                    break
                fetch.under_way[index] = peer_id
                self._busy[peer_id] += 1
                found.append(Ask(peer_id, part, fetch.sizes[index], key, index))
        return found

    def took(self, ask: Ask, data: bytes) -> list[Arrived]:
        """Takes in an answer; returns the proposals that are complete now. Raises HashMismatch for wrong bytes."""
        fetch = self._ended(ask)
        if len(data) != ask.size or content_id(data) != ask.part:
            self._distrust(ask.peer_id)
            raise HashMismatch("is not the part that was asked for", field="part", value=ask.part)
        if fetch is None:
            return []
        fetch.gave[ask.peer_id] = None
        self._silent.pop(ask.peer_id, None)
        fetch.parts[ask.index] = data
        return self._assembled(ask.key, fetch) if len(fetch.parts) == len(fetch.sizes) else []

    def failed(self, ask: Ask) -> None:
        """Takes in that a peer did not answer in time, or has not got the part."""
        fetch = self._ended(ask)
        _remember(self._silent, ask.peer_id)
        if fetch is not None:
            fetch.refused[ask.peer_id] = None

    def lied(self, ask: Ask) -> None:
        """Takes in that a peer answered what is no part at all."""
        self._ended(ask)
        self._distrust(ask.peer_id)

    def decided(self, height: int) -> None:
        """Forgets what was offered up to the height; its own batches are served on, to who has not got there yet."""
        self._fetches = {key: fetch for key, fetch in self._fetches.items() if fetch.block.height > height}
        self._kept = {root: batch for root, batch in self._kept.items() if batch.height >= height}
        self._liars.clear()

    def _whom(self, fetch: _Fetch, peers: Sequence[str]) -> str | None:
        """Returns whom to ask for a part, None when nobody may be asked now."""
        willing = [peer for peer in peers if peer not in fetch.refused and peer not in self._liars]
        offered = [peer for peer in willing if peer in fetch.offers]
        # Others may not have it yet, and are asked only when who must have it does not give it.
        chosen = offered if offered and not fetch.refused else [*offered, *(p for p in willing if p not in offered)]
        known = {peer for peer in chosen if peer in fetch.offers or peer in fetch.gave}
        free = [peer for peer in chosen if self._busy[peer] < (UNDER_WAY_PER_PEER if peer in known else 1)]
        # Who gave nothing last time is asked after all others, also at later heights: each silence costs a deadline.
        return min(free, key=lambda peer: (peer in self._silent, peer not in known, self._busy[peer]), default=None)

    def _make_room(self, peer_id: str) -> None:
        mine = [key for key, fetch in self._fetches.items() if peer_id in fetch.offers]
        for key in mine[: len(mine) - FETCHES_PER_PEER + 1]:
            del self._fetches[key].offers[peer_id]
            if not self._fetches[key].offers:
                del self._fetches[key]

    def _ended(self, ask: Ask) -> _Fetch | None:
        """Notes that a request has ended; returns its fetch, None when that is over or was asked of another since."""
        self._busy -= Counter((ask.peer_id,))
        fetch = self._fetches.get(ask.key)
        if fetch is None or fetch.under_way.get(ask.index) != ask.peer_id:
            return None
        del fetch.under_way[ask.index]
        return fetch

    def _distrust(self, peer_id: str) -> None:
        _remember(self._liars, peer_id)
        for key, fetch in list(self._fetches.items()):
            fetch.offers.pop(peer_id, None)
            if not fetch.offers:
                del self._fetches[key]

    def _assembled(self, key: Key, fetch: _Fetch) -> list[Arrived]:
        del self._fetches[key]
        encoded = b"".join(fetch.parts[index] for index in range(len(fetch.sizes)))
        if content_id(encoded) != fetch.block.action_root:
            # Every part is what the offer named, so the offers are wrong, and nobody else is to blame.
            for peer_id in fetch.offers:
                self._distrust(peer_id)
            raise HashMismatch("are not the batch of the block", field="parts", value=fetch.block.action_root)
        self.keep(fetch.block.action_root, batch_of(fetch.block, encoded))
        first: dict[bytes, Arrived] = {}
        # In the name of one that gave parts, since it waits among the messages of that peer.
        for peer_id, offer in sorted(fetch.offers.items(), key=lambda item: item[0] not in fetch.gave):
            data = whole(offer, encoded)
            first.setdefault(data, Arrived(peer_id, data))
        return list(first.values())


def _remember(peers: dict[str, None], peer_id: str) -> None:
    """Adds a peer; the oldest makes room for it."""
    peers[peer_id] = None
    while len(peers) > PEERS_REMEMBERED:
        del peers[next(iter(peers))]
