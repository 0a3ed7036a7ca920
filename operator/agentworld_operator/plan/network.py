"""How a world's nodes are reached: Services, NetworkPolicies, and the budget of evictions."""

from __future__ import annotations

from typing import Any

from agentworld_core.topology.plan import WORLD_LABEL, Topology
from agentworld_operator.plan.files import HTTP_PORT
from agentworld_operator.resources import names
from agentworld_operator.resources.objects import Object, metadata, selector


def peers_service(topology: Topology) -> Object:
    """Returns the headless Service in which nodes find each other, also before they are ready."""
    world = topology.world
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(world.metadata, names.peers_service(world.name), component="validator"),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(world.name, "validator"),
            "ports": [
                {"name": "p2p", "port": world.spec.network.port, "targetPort": "p2p", "protocol": "TCP"},
                {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP"},
            ],
        },
    }


def gateway_service(topology: Topology) -> Object:
    """Returns the Service that clients use."""
    world = topology.world
    gateway = world.spec.gateway
    meta = metadata(world.metadata, names.gateway(world.name), component="gateway")
    meta["annotations"] = {**gateway.service_annotations, **meta["annotations"]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "type": gateway.service_type,
            "selector": selector(world.name, "gateway"),
            "ports": [{"name": "http", "port": gateway.service_port, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def disruption_budget(topology: Topology) -> Object | None:
    """Returns the budget that keeps the quorum through drains; None when it would block every drain for ever."""
    if topology.quorum.tolerates < 1:
        return None
    world = topology.world
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(world.metadata, f"{world.name}-validators", component="validator"),
        "spec": {
            "maxUnavailable": topology.quorum.tolerates,
            "selector": {"matchLabels": selector(world.name, "validator")},
            # A pod that does not run anyway may always be evicted: it holds no part of the quorum.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def network_policies(topology: Topology, operator_namespace: str) -> list[Object]:
    """Returns who may speak to whom: nodes among themselves, the operator to all, clients to the gateway only."""
    world = topology.world
    if not world.spec.network.network_policy:
        return []
    peers = [{"podSelector": {"matchLabels": {WORLD_LABEL: world.name}}}]
    operator: list[dict[str, Any]] = [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
            "podSelector": {
                "matchLabels": {"app.kubernetes.io/part-of": "agent-world", "app.kubernetes.io/component": "operator"}
            },
        }
    ]
    p2p = _port(world.spec.network.port)
    egress = [
        {"ports": [_port(53, "UDP"), _port(53)]},
        {"to": peers, "ports": [p2p, _port(HTTP_PORT)]},
    ]
    # The address of the API server is not known to a policy; its usual ports are.
    api_server = {"ports": [_port(443), _port(6443)]}
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(world.metadata, f"{world.name}-validators", component="validator"),
            "spec": {
                "podSelector": {"matchLabels": selector(world.name, "validator")},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {"from": peers, "ports": [p2p, _port(HTTP_PORT)]},
                    {"from": operator, "ports": [_port(HTTP_PORT)]},
                ],
                "egress": [*egress, api_server],
            },
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(world.metadata, names.gateway(world.name), component="gateway"),
            "spec": {
                "podSelector": {"matchLabels": selector(world.name, "gateway")},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": peers, "ports": [p2p]}, {"ports": [_port(HTTP_PORT)]}],
                "egress": egress,
            },
        },
    ]


def _port(number: int, protocol: str = "TCP") -> dict[str, Any]:
    return {"port": number, "protocol": protocol}
