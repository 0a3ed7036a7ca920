"""Where a world lives on one machine: its keys, genesis and nodes, as files in one folder.

::

    world.json                    the manifests as last applied
    genesis.cbor                  made once, never changed
    lease.json                    the writer lease
    keys/<key>/g<n>.pem           one file a generation of a MembershipKey
    nodes/<node>/config.json      what the node starts from
    nodes/<node>/identity.pem     its network identity
    nodes/<node>/keys/            its key folder: g<n>.pem and active
    nodes/<node>/data/            its log, blobs and index
    nodes/<node>/log              its output
    peers.json                    all nodes and where they listen
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentworld_client import keys as key_files
from agentworld_core.codec import decode, encode
from agentworld_core.errors import InvalidField
from agentworld_core.messages import Genesis
from agentworld_core.names import peer_id_of
from agentworld_core.signing import Ed25519Signer
from agentworld_core.topology.node_config import NodeConfig


class WorldHome:
    """Reads and writes the folder of one world; every file is replaced whole or not at all."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def lease_file(self) -> Path:
        """The file that the writer lease lives in."""
        return self.folder / "lease.json"

    @property
    def genesis_file(self) -> Path:
        """The encoded genesis document."""
        return self.folder / "genesis.cbor"

    @property
    def peers_file(self) -> Path:
        """The list of nodes that every node watches."""
        return self.folder / "peers.json"

    def node_folder(self, node_id: str) -> Path:
        """The folder of a node."""
        return self.folder / "nodes" / node_id

    def manifests(self) -> list[dict[str, Any]]:
        """Returns the manifests as last applied; empty before the first time."""
        stored = self._read_json(self.folder / "world.json")
        return [] if stored is None else list(stored)

    def save_manifests(self, manifests: Iterable[Mapping[str, Any]]) -> None:
        """Stores the applied manifests."""
        self._write_json(self.folder / "world.json", list(manifests))

    def genesis(self) -> Genesis | None:
        """Returns the genesis, None before it was made."""
        try:
            return decode(Genesis, self.genesis_file.read_bytes())
        except FileNotFoundError:
            return None

    def save_genesis(self, genesis: Genesis) -> None:
        """Stores the genesis; a world has one for ever."""
        if self.genesis_file.exists():
            raise InvalidField("has a genesis already", field=str(self.folder))
        write_file(self.genesis_file, encode(genesis))

    def key_generations(self, key: str) -> dict[int, Ed25519Signer]:
        """Returns the signers of a MembershipKey by generation."""
        folder = self.folder / "keys" / key
        if not folder.is_dir():
            return {}
        return {int(path.stem[1:]): key_files.load(path) for path in sorted(folder.glob("g*.pem"))}

    def make_key(self, key: str, generation: int) -> Ed25519Signer:
        """Makes the key of a generation, or returns it when it exists."""
        path = self.folder / "keys" / key / f"g{generation}.pem"
        if path.exists():
            return key_files.load(path)
        signer = key_files.generate()
        key_files.save(signer, path)
        return signer

    def identity(self, node_id: str) -> Ed25519Signer:
        """Returns the network identity of a node, made at the first call."""
        path = self.node_folder(node_id) / "identity.pem"
        if not path.exists():
            key_files.save(key_files.generate(), path)
        return key_files.load(path)

    def write_key_folder(self, node_id: str, generations: Mapping[int, Ed25519Signer], active: str) -> bool:
        """Makes a node's key folder hold these keys with this one active; True when that changed anything."""
        folder = self.node_folder(node_id) / "keys"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        wanted = {f"g{number}.pem": signer.pem() for number, signer in generations.items()}
        changed = False
        for name, data in wanted.items():
            changed |= write_file(folder / name, data)
        changed |= write_file(folder / "active", f"{active}\n".encode())
        for path in folder.glob("g*.pem"):
            if path.name not in wanted:
                path.unlink()
                changed = True
        return changed

    def active_key(self, node_id: str) -> str:
        """Returns the key id that a node is told to sign with, empty before it was told."""
        try:
            return (self.node_folder(node_id) / "keys" / "active").read_text().strip()
        except FileNotFoundError:
            return ""

    def node_config(self, node_id: str) -> NodeConfig | None:
        """Returns the configuration of a node as last written."""
        stored = self._read_json(self.node_folder(node_id) / "config.json")
        return None if stored is None else NodeConfig.from_dict(stored)

    def save_node_config(self, config: NodeConfig) -> Path:
        """Writes a node's configuration and returns its path."""
        path = self.node_folder(config.node_id) / "config.json"
        self._write_json(path, config.to_dict())
        return path

    def save_peers(self, configs: Iterable[NodeConfig]) -> None:
        """Writes where every node listens."""
        rows = [
            {
                "node_id": config.node_id,
                "peer_id": peer_id_of(self.identity(config.node_id).public_key),
                "addresses": [f"127.0.0.1:{config.p2p_port}"],
            }
            for config in configs
        ]
        self._write_json(self.peers_file, rows)

    def _read_json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InvalidField(f"is damaged: {error}", field=str(path), remedy="restore it, or start anew") from error

    def _write_json(self, path: Path, value: Any) -> None:
        write_file(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def write_file(path: Path, data: bytes) -> bool:
    """Makes a file hold these bytes, whole or not at all, for its owner alone; True when it did not before."""
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def free_port() -> int:
    """Returns a TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
