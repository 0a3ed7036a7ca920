"""Where a world lives on one machine: its keys, genesis and nodes, as files in one folder.

::

    world.json                    the manifests as last applied
    genesis.cbor                  made once, never changed
    lease.json.<version>          the writer lease, and the last versions before
    peers.json                    all nodes and where they listen
    keys/<key>/                   a MembershipKey: g<n>.pem, and ring.json, what is known of the generations
    revocations/<key id>.cbor     signed statements
    next-directory.cbor           the epoch that waits for a block, if one does
    nodes/<node>/config.json      what the node starts from
    nodes/<node>/identity.pem     its network identity
    nodes/<node>/keys/            its key folder: g<n>.pem and active
    nodes/<node>/data/            its log, blobs and index
    nodes/<node>/log              its output
    supervisor.json, lock         of the supervisor that runs
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from agentworld_client import keys as key_files
from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, InvalidField
from agentworld_core.membership.rings import Generation, KeyRing
from agentworld_core.membership.rotation import Progress
from agentworld_core.messages import Directory, Genesis, Revocation
from agentworld_core.names import peer_id_of
from agentworld_core.signing import Ed25519Signer
from agentworld_core.topology.node_config import NodeConfig

_T = TypeVar("_T")


class WorldHome:
    """Reads and writes the folder of one world; every file is replaced whole or not at all."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()

    def prepare(self) -> None:
        """Makes the folder; refuses one that holds something else than a world."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            strangers = [path.name for path in self.folder.iterdir() if path.name not in _OWN_NAMES]
        except OSError as error:
            raise InvalidField(f"cannot be used: {error.strerror}", field="--data", value=self.folder) from error
        if strangers and not (self.folder / "world.json").exists():
            raise InvalidField(
                "is not empty and holds no world", field="--data", value=self.folder, remedy="name an empty folder"
            )

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

    # The world

    def manifests(self) -> list[dict[str, Any]]:
        """Returns the manifests as last applied; empty before the first time."""
        stored = self._read_json(self.folder / "world.json")
        return [] if stored is None else list(stored)

    def save_manifests(self, manifests: Iterable[Mapping[str, Any]]) -> None:
        """Stores the applied manifests."""
        self._write_json(self.folder / "world.json", list(manifests))

    def genesis(self) -> Genesis | None:
        """Returns the genesis, None before it was made."""
        return self._read_message(Genesis, self.genesis_file)

    def save_genesis(self, genesis: Genesis) -> None:
        """Stores the genesis; a world has one for ever."""
        if self.genesis_file.exists():
            raise InvalidField("has a genesis already", field=str(self.folder))
        write_file(self.genesis_file, encode(genesis))

    def statements(self) -> list[Revocation]:
        """Returns the revocations that were signed or learned of here, in the order of key ids."""
        paths = sorted((self.folder / "revocations").glob("*.cbor"))
        found = [self._read_message(Revocation, path) for path in paths]
        return [statement for statement in found if statement is not None]

    def save_statement(self, statement: Revocation) -> None:
        """Stores a revocation; the first one for a key stays."""
        path = self.folder / "revocations" / f"{statement.key_id}.cbor"
        if not path.exists():
            write_file(path, encode(statement))

    def waiting_directory(self) -> Directory | None:
        """Returns the signed directory that was submitted last and may still wait for a block."""
        return self._read_message(Directory, self.folder / "next-directory.cbor")

    def save_waiting_directory(self, directory: Directory | None) -> None:
        """Stores the directory before it is submitted, so that a restart submits the same again; None forgets it."""
        path = self.folder / "next-directory.cbor"
        if directory is None:
            path.unlink(missing_ok=True)
        else:
            write_file(path, encode(directory))

    # Keys

    def signers(self, key: str) -> dict[int, Ed25519Signer]:
        """Returns the signers of a MembershipKey by generation."""
        found = {}
        for path in sorted((self.folder / "keys" / key).glob("g*.pem")):
            if path.stem[1:].isdecimal():
                found[int(path.stem[1:])] = key_files.load(path)
        return found

    def all_signers(self) -> list[Ed25519Signer]:
        """Returns the signers of every generation of every MembershipKey."""
        folders = sorted((self.folder / "keys").glob("*"))
        return [signer for folder in folders for signer in self.signers(folder.name).values()]

    def make_key(self, key: str, generation: int, *, asked: int) -> Ed25519Signer:
        """Makes the key of a generation, for which ``spec.generation`` was ``asked``, or returns it when it exists."""
        path = self.folder / "keys" / key / f"g{generation}.pem"
        if not path.exists():
            ring_file = path.with_name("ring.json")
            stored = self._read_json(ring_file) or {}
            self._write_json(ring_file, stored | {"asked": stored.get("asked", {}) | {str(generation): asked}})
            key_files.save(key_files.generate(), path)
        return key_files.load(path)

    def ring(self, key: str) -> KeyRing:
        """Returns the generations of a MembershipKey: the keys that there are, and what was stored about them.

        What was stored may be lost: the newest key then counts as the active one, and waits begin anew.
        """
        stored = self._read_json(self.folder / "keys" / key / "ring.json") or {}
        asked = stored.get("asked", {})
        generations = tuple(
            Generation(number=number, public_key=signer.public_key, asked=int(asked.get(str(number), number)))
            for number, signer in sorted(self.signers(key).items())
        )
        ring = KeyRing(generations=generations, progress=Progress(**stored.get("progress", {})))
        active = ring.by_id(stored.get("active_key_id", "")) or ring.newest
        return ring if active is None else dataclasses.replace(ring, active_key_id=active.key_id)

    def save_ring(self, key: str, ring: KeyRing) -> None:
        """Stores what is known of the generations of a MembershipKey beside the keys themselves."""
        stored = {
            "asked": {str(item.number): item.asked for item in ring.generations},
            "active_key_id": ring.active_key_id,
            "progress": dataclasses.asdict(ring.progress),
        }
        self._write_json(self.folder / "keys" / key / "ring.json", stored)

    # Nodes

    def node_configs(self) -> list[NodeConfig]:
        """Returns the configurations of all nodes that have a folder, in the order of their ids."""
        folders = sorted((self.folder / "nodes").glob("*/config.json"))
        configs = [self.node_config(path.parent.name) for path in folders]
        return [config for config in configs if config is not None]

    def node_config(self, node_id: str) -> NodeConfig | None:
        """Returns the configuration of a node as last written."""
        path = self.node_folder(node_id) / "config.json"
        stored = self._read_json(path)
        try:
            return None if stored is None else NodeConfig.from_dict(stored)
        except InvalidField as error:
            raise _damaged(path, error) from error

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

    def remove_node(self, node_id: str, *, data: bool) -> None:
        """Forgets a node that has left; its identity stays, and its data unless told otherwise."""
        folder = self.node_folder(node_id)
        (folder / "config.json").unlink(missing_ok=True)
        if data:
            shutil.rmtree(folder / "data", ignore_errors=True)

    def _read_json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise _damaged(path, error) from error

    def _read_message(self, cls: type[_T], path: Path) -> _T | None:
        try:
            return decode(cls, path.read_bytes())
        except FileNotFoundError:
            return None
        except AgentWorldError as error:
            raise _damaged(path, error) from error

    def _write_json(self, path: Path, value: Any) -> None:
        write_file(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


_OWN_NAMES = frozenset({"keys", "nodes", "lock", "supervisor.json", "supervisor.log", "supervisor.out"})


def _damaged(path: Path, error: Exception) -> InvalidField:
    return InvalidField(f"is damaged: {error}", field=str(path), remedy="restore it, or begin anew in another folder")


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
