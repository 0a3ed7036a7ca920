"""What a world of nodes is made of, in a folder: genesis, keys, identities, configurations; all follows from names."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentworld_client import keys
from agentworld_client.submit import Agent
from agentworld_core.codec import encode
from agentworld_core.hashing import digest
from agentworld_core.membership.builder import Changes, key_entry, next_directory
from agentworld_core.messages import ActionEnvelope, Directory, Genesis, Member, Parameters, Revocation
from agentworld_core.names import peer_id_of
from agentworld_core.signing import Ed25519Signer, add_signature
from agentworld_core.topology.node_config import LeaseConfig, NodeConfig

WORLD = "aurora"
VALIDATORS = ("v0", "v1", "v2", "v3")
PARAMETERS = Parameters(
    block_interval_ms=0,
    max_batch_actions=256,
    max_batch_bytes=256 * 1024,
    journal_events_per_segment=64,
    snapshot_interval=5,
    leaseless=False,
)
QUICK_LEASE = LeaseConfig(duration_ms=3000, renew_deadline_ms=2000, retry_period_ms=500)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def signer(name: str, generation: int = 1) -> Ed25519Signer:
    """The signing key that a name always has."""
    return Ed25519Signer(digest(f"{name}/g{generation}".encode()))


def identity(name: str) -> Ed25519Signer:
    """The network identity that a name always has."""
    return Ed25519Signer(digest(f"{name}/identity".encode()))


def peer_id(name: str) -> str:
    return peer_id_of(identity(name).public_key)


def member(name: str, *, generations: Sequence[int] = (1,)) -> Member:
    entries = tuple(key_entry(signer(name, generation).public_key, generation) for generation in generations)
    return Member(member_id=name, peer_id=peer_id(name), keys=entries, weight=1, roles=("validator",))


def make_genesis(names: Sequence[str] = VALIDATORS, parameters: Parameters = PARAMETERS) -> Genesis:
    """The signed genesis of a world with these validators; its governance key is ``signer("gov")``."""
    created = now_ms() - 1000
    directory = Directory(
        world_id=WORLD,
        epoch=1,
        previous_hash="",
        members=tuple(member(name) for name in sorted(names)),
        fault_model="Byzantine",
        governance=(key_entry(signer("gov").public_key, 1),),
        governance_threshold=1,
        revoked=(),
        activation_delay=2,
        issued_at_ms=created,
        expires_at_ms=None,
        reason="genesis",
        signatures=(),
    )
    genesis = Genesis(
        world_id=WORLD,
        created_at_ms=created,
        parameters=parameters,
        directory=add_signature(directory, signer("gov")),
        signatures=(),
    )
    return add_signature(genesis, signer("gov"))


def next_epoch(current: Directory, **changes: Any) -> Directory:
    """The next directory epoch, signed by governance."""
    return add_signature(next_directory(current, Changes(**changes), now_ms=now_ms()), signer("gov"))


def revocation(key_id: str, *, by: str = "gov", reason: str = "leaked") -> Revocation:
    """A signed statement that a key counts no more."""
    statement = Revocation(
        world_id=WORLD, key_id=key_id, reason=reason, revoked_at_ms=now_ms(), requester_id="tests", signatures=()
    )
    return add_signature(statement, signer(by))


def agent(name: str) -> Agent:
    return Agent(signer(name), world_id=WORLD, actor_id=name)


def registrations(count: int, *, prefix: str = "a") -> tuple[list[Agent], list[ActionEnvelope]]:
    """Agents and the actions that register them."""
    agents = [agent(f"{prefix}{number}") for number in range(count)]
    return agents, [one.act("agent.register", {"position": [0, number]}) for number, one in enumerate(agents)]


class Material:
    """A folder with everything that the nodes of one world need before they start."""

    def __init__(
        self,
        folder: Path,
        *,
        validators: Sequence[str] = VALIDATORS,
        others: Sequence[str] = (),
        parameters: Parameters = PARAMETERS,
        lease: LeaseConfig = QUICK_LEASE,
    ):
        self.folder = folder
        self.validators = tuple(validators)
        self.names = (*validators, *others)
        self.genesis = make_genesis(validators, parameters)
        self._lease = lease
        self.genesis_file = folder / "genesis.cbor"
        self.genesis_file.write_bytes(encode(self.genesis))
        self.peers_file = folder / "peers.json"
        for name in self.names:
            self.write_node(name)

    def node_folder(self, name: str) -> Path:
        return self.folder / name

    def write_node(self, name: str) -> None:
        """Writes identity and, for a validator, the key folder of a node."""
        keys.save(identity(name), self.node_folder(name) / "identity.pem", overwrite=True)
        if name in self.validators:
            self.write_keys(name)

    def write_keys(self, name: str, *, generations: Sequence[int] = (1,), active: int = 1) -> None:
        """Writes the key folder of a node as the home would."""
        folder = self.node_folder(name) / "keys"
        for generation in generations:
            keys.save(signer(name, generation), folder / f"g{generation}.pem", overwrite=True)
        (folder / "active").write_text(signer(name, active).key_id)

    def write_peers(self, ports: dict[str, int]) -> None:
        """Writes the list of peers that all nodes share."""
        rows = [
            {"node_id": name, "peer_id": peer_id(name), "addresses": [f"127.0.0.1:{port}"]}
            for name, port in ports.items()
        ]
        self.peers_file.write_text(json.dumps(rows))

    def config(self, name: str, **changes: Any) -> NodeConfig:
        """The configuration of a node; the lease is a file that all of them share."""
        folder = self.node_folder(name)
        is_validator = name in self.validators
        kind = "none" if self.genesis.parameters.leaseless else "file"
        config = NodeConfig(
            world_id=WORLD,
            node_id=name,
            roles=("validator", "sequencer", "storage", "gateway") if is_validator else ("gateway", "storage"),
            data_folder=str(folder / "data"),
            key_folder=str(folder / "keys") if is_validator else "",
            identity_file=str(folder / "identity.pem"),
            genesis_file=str(self.genesis_file),
            peers_file=str(self.peers_file) if self.peers_file.exists() else "",
            lease=dataclasses.replace(self._lease, kind=kind, path=str(self.folder / "lease.json")),
        )
        return dataclasses.replace(config, **changes)

    def write_config(self, config: NodeConfig) -> Path:
        """Writes a configuration for ``agentworld node`` and returns its file."""
        path = self.node_folder(config.node_id) / "node.json"
        path.write_text(json.dumps(config.to_dict()))
        return path
