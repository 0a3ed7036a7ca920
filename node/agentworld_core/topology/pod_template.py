"""What a manifest may say about the pods and volumes of nodes; passed on to Kubernetes, ignored on one machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agentworld_core.topology.fields import Fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Which container image the nodes run; an empty repository means the one the operator was started with."""

    repository: str = ""
    tag: str = ""
    digest: str = ""
    pull_policy: str = ""
    pull_secrets: tuple[str, ...] = ()

    def reference(self, default: str) -> str:
        """Returns the full image reference; a digest wins over a tag, and what is not given comes from ``default``."""
        repository, tag = self.repository, self.tag
        if not repository:
            if not tag and not self.digest:
                return default
            repository = default.split("@", 1)[0]
            if ":" in repository.rsplit("/", 1)[-1]:
                repository = repository.rsplit(":", 1)[0]
        if self.digest:
            return f"{repository}@{self.digest}"
        return f"{repository}:{tag or 'latest'}"


def default_resources() -> dict[str, Any]:
    """Returns what a node asks for and may use at most when its manifest does not say."""
    return {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodTemplate:
    """Volume, resources and scheduling of one node."""

    storage_size: str = "10Gi"
    storage_class_name: str = ""
    resources: Mapping[str, Any] = dataclasses.field(default_factory=default_resources)
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    topology_spread_constraints: tuple[Mapping[str, Any], ...] = ()
    priority_class_name: str = ""
    pod_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pod_annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_manifest(self) -> dict[str, Any]:
        """Returns the fields as a Validator's spec holds them, without those that say nothing."""
        storage: dict[str, Any] = {"size": self.storage_size}
        if self.storage_class_name:
            storage["storageClassName"] = self.storage_class_name
        given: dict[str, Any] = {
            "storage": storage,
            "resources": dict(self.resources),
            "nodeSelector": dict(self.node_selector),
            "tolerations": [dict(item) for item in self.tolerations],
            "affinity": dict(self.affinity),
            "topologySpreadConstraints": [dict(item) for item in self.topology_spread_constraints],
            "priorityClassName": self.priority_class_name,
            "podLabels": dict(self.pod_labels),
            "podAnnotations": dict(self.pod_annotations),
        }
        return {name: value for name, value in given.items() if value}


def parse_pod_template(fields: Fields) -> PodTemplate:
    """Reads the template's fields from a mapping that may hold others too."""
    storage = fields.section("storage")
    template = PodTemplate(
        storage_size=storage.quantity("size", "10Gi"),
        storage_class_name=storage.text("storageClassName", limit=253),
        resources=fields.mapping("resources") or default_resources(),
        node_selector=fields.labels("nodeSelector"),
        tolerations=fields.mappings("tolerations"),
        affinity=fields.mapping("affinity"),
        topology_spread_constraints=fields.mappings("topologySpreadConstraints"),
        priority_class_name=fields.text("priorityClassName", limit=253),
        pod_labels=_own(fields, "podLabels", ("agentworld.dev/", "app.kubernetes.io/")),
        pod_annotations=_own(fields, "podAnnotations", ("agentworld.dev/",)),
    )
    storage.finish()
    return template


def parse_image(fields: Fields) -> ImageSpec:
    """Reads ``spec.image``."""
    image = ImageSpec(
        repository=fields.text("repository", limit=512),
        tag=fields.text("tag", limit=128),
        digest=fields.text("digest", limit=256),
        pull_policy=fields.choice("pullPolicy", ("Always", "IfNotPresent", "Never"), "")
        if fields.has("pullPolicy")
        else "",
        pull_secrets=_pull_secrets(fields),
    )
    if image.digest and ":" not in image.digest:
        fields.violate("digest", "is not a digest", value=image.digest, remedy="use algorithm:hex, such as sha256:…")
    fields.finish()
    return image


def _pull_secrets(fields: Fields) -> tuple[str, ...]:
    names = []
    for item in fields.sections("pullSecrets", limit=16):
        names.append(item.text("name", required=True, limit=253))
        item.finish()
    return tuple(names)


def _own(fields: Fields, name: str, reserved: tuple[str, ...]) -> Mapping[str, str]:
    """Returns labels or annotations of a person; those by which we find pods are ours."""
    given = fields.labels(name)
    for key in given:
        if key.startswith(reserved):
            fields.violate(
                name, "sets a name that is ours", value=key, remedy=f"use names without {', '.join(reserved)}"
            )
    return given
