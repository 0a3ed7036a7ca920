"""The files of a node: its configuration, the list of its peers, the genesis, its key folder and its identity."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from agentworld_core.signing import Ed25519Signer
from agentworld_core.topology.node_config import LeaseConfig, NodeConfig
from agentworld_core.topology.plan import NodePlan, Topology, node_settings
from agentworld_core.topology.resources import Metadata
from agentworld_operator.resources import names
from agentworld_operator.resources.objects import Object, metadata, to_base64

HTTP_PORT = 8080
DATA = "/data"
CONFIG = "/etc/agentworld/config"
GENESIS = "/etc/agentworld/genesis"
KEYS = "/etc/agentworld/keys"
IDENTITY = "/etc/agentworld/identity"
GENESIS_FILE = "genesis.cbor"
PEERS_FILE = "peers.json"
IDENTITY_FILE = "identity.pem"
KEY_SECRET_TYPE = "agentworld.dev/membership-key"  # noqa: S105 - a type, not a secret
PRIVATE_KEY = "private.pem"


def validator_config(topology: Topology, node: NodePlan) -> NodeConfig:
    """Returns what a validator's pod starts from."""
    world = topology.world
    settings = node_settings(topology, node)
    return dataclasses.replace(
        settings,
        data_folder=DATA,
        key_folder=KEYS,
        identity_file=f"{IDENTITY}/{IDENTITY_FILE}",
        genesis_file=f"{GENESIS}/{GENESIS_FILE}",
        peers_file=f"{CONFIG}/{PEERS_FILE}",
        p2p_host="0.0.0.0",  # noqa: S104 - the pod's own network
        p2p_port=world.spec.network.port,
        announce=(
            names.peer_address(
                node.name, world=world.name, namespace=world.metadata.namespace, port=world.spec.network.port
            ),
        ),
        http_host="0.0.0.0",  # noqa: S104
        http_port=HTTP_PORT,
        lease=dataclasses.replace(
            settings.lease,
            kind="kubernetes",
            namespace=world.metadata.namespace,
            name=names.sequencer_lease(world.name),
            heartbeat_name=node.name,
        ),
    )


def gateway_config(topology: Topology, node: NodePlan) -> NodeConfig:
    """Returns what every gateway pod starts from: no keys, no volume, no Lease, an identity of the pod's own making."""
    return dataclasses.replace(
        validator_config(topology, node),
        node_id=names.gateway(topology.world.name),
        key_folder="",
        identity_file=f"{DATA}/{IDENTITY_FILE}",
        announce=(),
        lease=LeaseConfig(),
    )


def config_file(config: NodeConfig) -> str:
    """Returns the text of a node's configuration file."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def peers_document(topology: Topology, peer_ids: Mapping[str, str]) -> str:
    """Returns the list of all validators whose identity is known, with the addresses under which peers find them."""
    world = topology.world
    rows = [
        {
            "node_id": node.node_id,
            "peer_id": peer_ids[node.name],
            "addresses": [
                names.peer_address(
                    node.name, world=world.name, namespace=world.metadata.namespace, port=world.spec.network.port
                )
            ],
        }
        for node in topology.nodes
        if node.kind == "validator" and node.name in peer_ids
    ]
    return json.dumps(rows, indent=2, sort_keys=True) + "\n"


def node_config_map(topology: Topology, peer_ids: Mapping[str, str]) -> Object:
    """Returns the ConfigMap with one file for each node and the list of peers."""
    world = topology.world
    data = {PEERS_FILE: peers_document(topology, peer_ids)}
    for node in topology.nodes:
        if node.kind == "validator":
            data[f"{node.name}.json"] = config_file(validator_config(topology, node))
    if topology.gateways:
        data[f"{names.gateway(world.name)}.json"] = config_file(gateway_config(topology, topology.gateways[0]))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(world.metadata, names.node_config(world.name), component="config"),
        "data": data,
    }


def genesis_config_map(world: Metadata, encoded: bytes) -> Object:
    """Returns the ConfigMap with the genesis document, which the API server lets nobody change."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(world, names.genesis_config(world.name), component="config"),
        "immutable": True,
        "binaryData": {GENESIS_FILE: to_base64(encoded)},
    }


def membership_config_map(world: Metadata, statements: Mapping[str, bytes]) -> Object:
    """Returns the ConfigMap with what governance has signed: the directory in flight and all revocations."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(world, names.membership_config(world.name), component="config"),
        "binaryData": {name: to_base64(data) for name, data in sorted(statements.items())},
    }


def identity_secret(world: Metadata, validator: str, signer: Ed25519Signer) -> Object:
    """Returns the Secret with a validator's network identity."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(world, names.identity_secret(validator), component="identity", validator=validator),
        "type": "Opaque",
        "data": {IDENTITY_FILE: to_base64(signer.pem())},
    }


def key_secret(world: Metadata, key: str, generation: int, signer: Ed25519Signer) -> Object:
    """Returns the Secret with one generation of a MembershipKey."""
    meta = metadata(world, names.key_secret(key, generation), component="membership-key")
    meta["labels"]["agentworld.dev/membership-key"] = key
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta,
        "type": KEY_SECRET_TYPE,
        "data": {
            PRIVATE_KEY: to_base64(signer.pem()),
            "public-key": to_base64(signer.public_key.hex().encode()),
            "key-id": to_base64(signer.key_id.encode()),
        },
    }


def key_folder_secret(world: Metadata, validator: str, keys: Mapping[int, Ed25519Signer], active: str) -> Object:
    """Returns the Secret that a validator's pod mounts as its key folder: the keys it may sign with."""
    data: dict[str, Any] = {f"g{generation}.pem": to_base64(signer.pem()) for generation, signer in keys.items()}
    data["active"] = to_base64(f"{active}\n".encode())
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(world, names.key_folder_secret(validator), component="key-folder", validator=validator),
        "type": "Opaque",
        "data": data,
    }
