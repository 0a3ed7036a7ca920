"""Who is sent a message that came straight from its author, and who is only told that it is here.

Where everybody is connected with everybody, as validators are, each message arrives from its author at once and then
again from each other peer. So what comes straight from its author is not pushed on: peers are told its id a little
later, and get it when they ask, which is the lazy push of gossipsub (IHAVE, IWANT). A peer that has to ask again and
again for what one author says is not connected with that author, and has it pushed from then on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from libp2p.peer.id import ID

ASKED_OFTEN = 3
KEPT_SECONDS = 60.0
_PAIRS = 4096
_WAITING = 4096

Told = dict[ID, dict[str, list[bytes]]]
"""Message ids by topic that each peer is to be told."""


class LazyRelay:
    """Remembers what peers are to be told and which peers depend on a relay; all times are seconds of one clock."""

    def __init__(self) -> None:
        self._asked: dict[tuple[bytes, ID], int] = {}
        self._asked_before: dict[tuple[bytes, ID], int] = {}
        self._turned = 0.0
        self._told: Told = defaultdict(lambda: defaultdict(list))
        self._waiting = 0

    def depends(self, author: bytes, peer: ID) -> bool:
        """True when the peer has often asked for what the author said."""
        pair = (author, peer)
        return self._asked.get(pair, 0) + self._asked_before.get(pair, 0) >= ASKED_OFTEN

    def asked(self, author: bytes, peer: ID, *, now: float) -> None:
        """Notes that a peer had to ask for a message of this author."""
        if now - self._turned > KEPT_SECONDS or len(self._asked) >= _PAIRS:
            self._asked, self._asked_before, self._turned = {}, self._asked, now
        pair = (author, peer)
        self._asked[pair] = self._asked.get(pair, 0) + 1

    def note(self, topic: str, message_id: bytes, author: bytes, peers: Iterable[ID]) -> list[ID]:
        """Notes what to tell the peers; returns those to whom the message is to be pushed instead."""
        pushed = []
        for peer in peers:
            if self._waiting >= _WAITING or self.depends(author, peer):
                pushed.append(peer)
            else:
                self._told[peer][topic].append(message_id)
                self._waiting += 1
        return pushed

    def take(self) -> Told:
        """Returns what to tell each peer now, and begins afresh."""
        told, self._told, self._waiting = self._told, defaultdict(lambda: defaultdict(list)), 0
        return told
