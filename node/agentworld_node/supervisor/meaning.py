"""What of a manifest has no meaning on one machine, or none yet: said once, field by field, not silently ignored."""

from __future__ import annotations

from agentworld_core.messages import Parameters
from agentworld_core.topology.changes import without_effect
from agentworld_core.topology.effects import not_effective
from agentworld_core.topology.pod_template import PodTemplate
from agentworld_core.topology.resources import Metadata, Resource, Validator, World
from agentworld_core.topology.world_spec import GatewaySpec, NetworkSpec, WorldSpec

_TEMPLATE = {
    "storage_size": "storage.size",
    "storage_class_name": "storage.storageClassName",
    "resources": "resources",
    "node_selector": "nodeSelector",
    "tolerations": "tolerations",
    "affinity": "affinity",
    "topology_spread_constraints": "topologySpreadConstraints",
    "priority_class_name": "priorityClassName",
    "pod_labels": "podLabels",
    "pod_annotations": "podAnnotations",
}
_SERVICE = {"service_type": "spec.gateway.service.type", "service_annotations": "spec.gateway.service.annotations"}
_NETWORK = {"port": "spec.network.port", "network_policy": "spec.network.networkPolicy"}


def notices(resource: Resource, parameters: Parameters | None) -> list[str]:
    """Returns a sentence for each field that is set and changes nothing here; ``parameters`` are the genesis's."""
    subject = f"{type(resource).__name__} {resource.name}"
    lines = [f"{subject}: {path} has no meaning on one machine{why}" for path, why in no_meaning(resource)]
    lines += [f"{subject}: {path} has no effect yet" for path in not_effective(resource)]
    if isinstance(resource, World) and parameters is not None:
        lines += [
            f"{subject}: {path} has no effect any more: the genesis document has fixed it"
            for path in without_effect(resource, parameters)
        ]
    return lines


def no_meaning(resource: Resource) -> list[tuple[str, str]]:
    """Returns the path of each field that only a cluster can follow, with what is done instead where that helps."""
    found = [("metadata.namespace", "")] if resource.metadata.namespace != Metadata(name="x").namespace else []
    if isinstance(resource, World):
        return found + _world(resource.spec)
    if isinstance(resource, Validator):
        found += _template("spec", resource.spec.template, PodTemplate())
        if resource.spec.identity is not None:
            found.append(("spec.identity.secretRef", ": the identity is the node's identity.pem"))
        return found
    if resource.spec.secret is not None:
        found.append(("spec.secretRef", ": the key is the file g<generation>.pem of the key's folder"))
    return found


def _world(spec: WorldSpec) -> list[tuple[str, str]]:
    found = [("spec.image", "")] if spec.image != WorldSpec(world_id="x").image else []
    found += _template("spec.validators.template", spec.validators.template, PodTemplate())
    gateway, network = GatewaySpec(), NetworkSpec()
    found += [(path, "") for name, path in _SERVICE.items() if getattr(spec.gateway, name) != getattr(gateway, name)]
    return found + [
        (path, "") for name, path in _NETWORK.items() if getattr(spec.network, name) != getattr(network, name)
    ]


def _template(path: str, given: PodTemplate, plain: PodTemplate) -> list[tuple[str, str]]:
    return [
        (f"{path}.{field}", "") for name, field in _TEMPLATE.items() if getattr(given, name) != getattr(plain, name)
    ]
