"""Keeps a connection with every listed peer: dials, waits longer after each failure, and dials again."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import trio
from libp2p.peer.id import ID

from agentworld_node.network.counters import Counters
from agentworld_node.network.libp2p.addresses import parse_peer_id, resolve
from agentworld_node.network.libp2p.swarm import AdmittingSwarm
from agentworld_node.network.port import Peer

logger = logging.getLogger(__name__)

_FIRST_DELAY = 0.2
_MOST_DELAY = 5.0
_STABLE_SECONDS = 5.0  # a connection that lasted this long ends the waiting for earlier failures
_HEAD_START = 0.5  # the larger peer id lets the smaller dial first, so that they seldom dial each other at once
_RESOLVE_SECONDS = 5.0
_DIAL_SECONDS = 8.0


class _Target:
    def __init__(self, peer: Peer):
        self.peer_id: ID = parse_peer_id(peer.peer_id)
        self.addresses = peer.addresses
        self.scope = trio.CancelScope()
        self.changed = trio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Dialer:
    """One task per listed peer; told about peers by ``set_peers`` and about connections by ``changed``."""

    def __init__(self, swarm: AdmittingSwarm, *, nursery: trio.Nursery, counters: Counters):
        self._swarm = swarm
        self._nursery = nursery
        self._counters = counters
        self._targets: dict[str, _Target] = {}

    def set_peers(self, peers: Sequence[Peer]) -> None:
        """Replaces the listed peers; new addresses of a known peer are tried at once."""
        wanted = {peer.peer_id: peer for peer in peers}
        for gone in [name for name in self._targets if name not in wanted]:
            self._targets.pop(gone).scope.cancel()
        for name, peer in wanted.items():
            known = self._targets.get(name)
            if known is None:
                self._targets[name] = target = _Target(peer)
                self._nursery.start_soon(self._keep, target)
            elif known.addresses != peer.addresses:
                known.addresses = peer.addresses
                known.wake()

    def changed(self, peer_id: ID) -> None:
        """A connection with this peer has come or gone."""
        target = self._targets.get(str(peer_id))
        if target is not None:
            target.wake()

    async def _keep(self, target: _Target) -> None:
        second = str(self._swarm.get_peer_id()) > str(target.peer_id)
        delay = _FIRST_DELAY
        with target.scope:
            if second:
                await _pause(target, _HEAD_START)
            while True:
                if self._connected(target):
                    since = trio.current_time()
                    while self._connected(target):
                        await target.changed.wait()
                    if trio.current_time() - since > _STABLE_SECONDS:
                        delay = _FIRST_DELAY
                elif target.addresses and await self._dial(target):
                    continue
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads dials, guards nothing
                await _pause(target, delay * jitter + (_HEAD_START if second else 0.0))
                delay = min(delay * 2, _MOST_DELAY)

    def _connected(self, target: _Target) -> bool:
        return bool(self._swarm.get_connections(target.peer_id))

    async def _dial(self, target: _Target) -> bool:
        self._counters.add("dials")
        for address in target.addresses:
            try:
                with trio.fail_after(_RESOLVE_SECONDS):
                    found = await resolve(address)
                for multiaddress in found:
                    # The swarm refuses for a minute to dial a peer that it could not reach once.
                    self._swarm.unblock_peer(target.peer_id)
                    with trio.fail_after(_DIAL_SECONDS):
                        await self._swarm.dial_addr(multiaddress, target.peer_id)
                    return True
            except Exception as error:  # noqa: BLE001 - libp2p has no common base for what may go wrong in a dial
                logger.debug("dialling %s at %s: %r", target.peer_id, address, error)
            if self._connected(target):
                return True
        self._counters.add("dial_failures")
        return False


async def _pause(target: _Target, seconds: float) -> None:
    """Waits, but no longer than until something about the target changes."""
    with trio.move_on_after(seconds):
        await target.changed.wait()
