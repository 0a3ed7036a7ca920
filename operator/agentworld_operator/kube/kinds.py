"""The kinds of objects that the operator touches, and where the API server keeps them."""

from __future__ import annotations

import dataclasses

from agentworld_core.topology.resources import API_VERSION


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind with its API version and the plural under which it is served."""

    api_version: str
    name: str
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Returns the path of an object, of a list in a namespace, or of a list in all namespaces."""
        root = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        middle = f"/namespaces/{namespace}" if namespace else ""
        return "/".join(part for part in (f"{root}{middle}/{self.plural}", name, subresource) if part)


KINDS = {
    kind.name: kind
    for kind in (
        Kind(API_VERSION, "World", "worlds"),
        Kind(API_VERSION, "Validator", "validators"),
        Kind(API_VERSION, "MembershipKey", "membershipkeys"),
        Kind("v1", "Pod", "pods"),
        Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
        Kind("v1", "Service", "services"),
        Kind("v1", "ConfigMap", "configmaps"),
        Kind("v1", "Secret", "secrets"),
        Kind("v1", "ServiceAccount", "serviceaccounts"),
        Kind("v1", "Event", "events"),
        Kind("apps/v1", "Deployment", "deployments"),
        Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
        Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
        Kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
        Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
        Kind("coordination.k8s.io/v1", "Lease", "leases"),
    )
}

CHILDREN = (
    "Pod",
    "PersistentVolumeClaim",
    "Service",
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "Deployment",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "Role",
    "RoleBinding",
    "Lease",
)
"""Kinds of which objects are made for a world."""
