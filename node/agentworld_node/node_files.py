"""The files a node starts from and looks at again while it runs: genesis and peers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from agentworld_core.codec import decode
from agentworld_core.errors import InvalidField, NotFound
from agentworld_core.messages import Genesis
from agentworld_node.network.port import Peer

log = logging.getLogger(__name__)

GENESIS_LIMIT = 1024 * 1024


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
        if not isinstance(rows, list):
            raise TypeError("must be a list")
        peers = [Peer(str(row["peer_id"]), tuple(str(item) for item in row["addresses"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidField(f"cannot be read: {error}", field="peers_file", value=path) from error
    return tuple(peer for peer in sorted(peers, key=lambda peer: peer.peer_id) if peer.peer_id != own)


class PeersFile:
    """Hands the peers of a file on whenever they change; a file that is wrong changes nothing and is reported once."""

    def __init__(self, path: Path | None, *, own: str, take: Callable[[Sequence[Peer]], None]):
        self._path = path
        self._own = own
        self._take = take
        self._problem = ""
        self.peers: tuple[Peer, ...] = ()

    def reload(self) -> None:
        """Reads the file again."""
        if self._path is None:
            return
        problem = ""
        try:
            peers = read_peers(self._path, own=self._own)
            if peers != self.peers:
                self._take(peers)
                self.peers = peers
        except InvalidField as error:
            problem = str(error)
        if problem and problem != self._problem:
            log.warning("the list of peers stays as it was: %s", problem)
        self._problem = problem
