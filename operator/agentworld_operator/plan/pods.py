"""The pod and the volume of a validator, and the Deployment of the gateway."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agentworld_core.topology.plan import NodePlan, Topology
from agentworld_core.topology.pod_template import PodTemplate
from agentworld_operator.plan import files, security
from agentworld_operator.resources import names
from agentworld_operator.resources.objects import (
    NODE_ID,
    TEMPLATE_HASH,
    Object,
    digest_of,
    metadata,
    selector,
)

GRACE_SECONDS = 30
"""Enough to finish the height at hand, hand the Lease over and close the log."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image:
    """The image that nodes run when their World does not say, and when it is pulled."""

    reference: str
    pull_policy: str = "IfNotPresent"


def validator_pod(topology: Topology, node: NodePlan, image: Image, *, claim: str) -> Object:
    """Returns the pod of a validator; ``claim`` is the name of its PersistentVolumeClaim."""
    world = topology.world.metadata
    template = topology.validator(node.name).spec.template
    meta = metadata(world, node.name, component="validator", validator=node.name)
    meta["labels"] = {**template.pod_labels, **meta["labels"]}
    meta["annotations"] = {
        **template.pod_annotations,
        **meta["annotations"],
        TEMPLATE_HASH: template_hash(topology, node, image),
        NODE_ID: node.node_id,
    }
    identity = topology.validator(node.name).spec.identity
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": claim}},
        _config_volume(world.name, f"{node.name}.json"),
        _genesis_volume(world.name),
        _secret_volume("keys", names.key_folder_secret(node.name)),
        _secret_volume(
            "identity",
            identity.name if identity else names.identity_secret(node.name),
            {"key": identity.key if identity else files.IDENTITY_FILE, "path": files.IDENTITY_FILE},
        ),
        security.token_volume(),
        {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
    ]
    mounts = [
        *_mounts(),
        {"name": "keys", "mountPath": files.KEYS, "readOnly": True},
        {"name": "identity", "mountPath": files.IDENTITY, "readOnly": True},
        security.token_mount(),
    ]
    spec: dict[str, Any] = {
        "hostname": node.name,
        "subdomain": names.peers_service(world.name),
        "serviceAccountName": node.name,
        "restartPolicy": "Always",
        "containers": [_container(topology, image, template, f"{node.name}.json", mounts)],
        "volumes": volumes,
        **_common(topology, template, "validator"),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def volume_claim(topology: Topology, node: NodePlan, *, name: str) -> Object:
    """Returns the claim of a validator's volume; with deletionPolicy Retain no owner takes it away."""
    template = topology.validator(node.name).spec.template
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": template.storage_size}},
    }
    if template.storage_class_name:
        spec["storageClassName"] = template.storage_class_name
    meta = metadata(
        topology.world.metadata,
        name,
        component="validator",
        validator=node.name,
        owned=topology.world.spec.deletion_policy == "Delete",
    )
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def gateway_deployment(topology: Topology, image: Image) -> Object:
    """Returns the Deployment of the gateway; its pods make an identity of their own and hold no key of the world."""
    world = topology.world
    name = names.gateway(world.name)
    template = PodTemplate()
    mounts = _mounts()
    pod_spec: dict[str, Any] = {
        "initContainers": [_identity_container(topology, image)],
        "containers": [_container(topology, image, template, f"{name}.json", mounts)],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            _config_volume(world.name, f"{name}.json"),
            _genesis_volume(world.name),
            {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
        ],
        **_common(topology, template, "gateway"),
    }
    meta = metadata(world.metadata, name, component="gateway")
    config = files.config_file(files.gateway_config(topology, topology.gateways[0])) if topology.gateways else ""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": 0 if world.spec.hibernated else world.spec.gateway.replicas,
            "revisionHistoryLimit": 3,
            # One pod at a time: the others go on answering.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": selector(world.name, "gateway")},
            "template": {
                "metadata": {
                    "labels": meta["labels"],
                    "annotations": {"agentworld.dev/config-hash": digest_of(config)},
                },
                "spec": pod_spec,
            },
        },
    }


def template_hash(topology: Topology, node: NodePlan, image: Image) -> str:
    """Returns a hash of what a person can change about a pod; a new operator does not make pods look outdated."""
    spec = topology.world.spec
    template = topology.validator(node.name).spec.template
    pod_inputs = {key: value for key, value in template.to_manifest().items() if key != "storage"}
    config = files.config_file(files.validator_config(topology, node))
    chosen = spec.image.reference(image.reference)
    return digest_of([chosen, spec.image.pull_policy, list(spec.image.pull_secrets), pod_inputs, config])


def _container(
    topology: Topology, image: Image, template: PodTemplate, config: str, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    world = topology.world.spec
    return {
        "name": "node",
        "image": world.image.reference(image.reference),
        "imagePullPolicy": world.image.pull_policy or image.pull_policy,
        "args": ["node", "--config", f"{files.CONFIG}/{config}"],
        "env": _environment(),
        "ports": [
            {"name": "p2p", "containerPort": world.network.port, "protocol": "TCP"},
            {"name": "http", "containerPort": files.HTTP_PORT, "protocol": "TCP"},
        ],
        # A node with much to replay needs time before it answers; afterwards silence is judged sooner.
        "startupProbe": _probe("/livez", period=2, failures=150),
        "livenessProbe": _probe("/livez", period=10, failures=6),
        "readinessProbe": _probe("/readyz", period=3, failures=3),
        "resources": _plain(template.resources),
        "securityContext": security.container_security(),
        "volumeMounts": mounts,
    }


def _identity_container(topology: Topology, image: Image) -> dict[str, Any]:
    world = topology.world.spec
    return {
        "name": "identity",
        "image": world.image.reference(image.reference),
        "imagePullPolicy": world.image.pull_policy or image.pull_policy,
        "args": ["keys", "generate", "--force", f"{files.DATA}/{files.IDENTITY_FILE}"],
        "env": _environment(),
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
        "securityContext": security.container_security(),
        "volumeMounts": [{"name": "data", "mountPath": files.DATA}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }


def _common(topology: Topology, template: PodTemplate, component: str) -> dict[str, Any]:
    """Returns what all pods of a world share, and what the template says about their place."""
    spec = topology.world.spec
    result: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": security.pod_security(),
        "topologySpreadConstraints": [_plain(item) for item in template.topology_spread_constraints]
        or [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(topology.world.name, component)},
            }
        ],
    }
    optional: dict[str, Any] = {
        "imagePullSecrets": [{"name": name} for name in spec.image.pull_secrets],
        "nodeSelector": dict(template.node_selector),
        "tolerations": [_plain(item) for item in template.tolerations],
        "affinity": _plain(template.affinity),
        "priorityClassName": template.priority_class_name,
    }
    result.update({name: value for name, value in optional.items() if value})
    return result


def _environment() -> list[dict[str, Any]]:
    # The user id has no entry in passwd, and the root file system is read-only.
    return [{"name": "HOME", "value": "/tmp"}, {"name": "LOGNAME", "value": "agentworld"}]  # noqa: S108


def _mounts() -> list[dict[str, Any]]:
    return [
        {"name": "data", "mountPath": files.DATA},
        {"name": "config", "mountPath": files.CONFIG, "readOnly": True},
        {"name": "genesis", "mountPath": files.GENESIS, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]


def _config_volume(world: str, file: str) -> dict[str, Any]:
    items = [{"key": key, "path": key} for key in (file, files.PEERS_FILE)]
    return {"name": "config", "configMap": {"name": names.node_config(world), "items": items, "defaultMode": 0o444}}


def _genesis_volume(world: str) -> dict[str, Any]:
    return {"name": "genesis", "configMap": {"name": names.genesis_config(world), "defaultMode": 0o444}}


def _secret_volume(volume: str, secret: str, item: Mapping[str, str] | None = None) -> dict[str, Any]:
    source: dict[str, Any] = {"secretName": secret, "defaultMode": 0o440}
    if item:
        source["items"] = [dict(item)]
    return {"name": volume, "secret": source}


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http", "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _plain(value: Any) -> Any:
    """Returns a deep copy made of plain dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
