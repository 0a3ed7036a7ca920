"""What a node may do at the API server: read and renew the writer's Lease and its own, by name, and nothing else."""

from __future__ import annotations

from agentworld_core.topology.plan import NodePlan, Topology
from agentworld_operator.resources import names
from agentworld_operator.resources.objects import Object, metadata

_RBAC = "rbac.authorization.k8s.io"


def node_access(topology: Topology, node: NodePlan) -> list[Object]:
    """Returns the ServiceAccount, Role and RoleBinding of one validator."""
    world = topology.world.metadata

    def meta() -> dict[str, object]:
        return metadata(world, node.name, component="validator", validator=node.name)

    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": meta(),
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "Role",
            "metadata": meta(),
            "rules": [
                {
                    "apiGroups": ["coordination.k8s.io"],
                    "resources": ["leases"],
                    "resourceNames": [names.sequencer_lease(world.name), node.name],
                    "verbs": ["get", "watch", "update", "patch"],
                }
            ],
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": meta(),
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": node.name},
            "subjects": [{"kind": "ServiceAccount", "name": node.name, "namespace": world.namespace}],
        },
    ]


def leases(topology: Topology, *, last_term: int) -> list[Object]:
    """Returns the Leases that nodes renew; the operator makes them without a holder, once, and never writes them again.

    The term of a Lease is its ``leaseTransitions`` + 1; ``last_term`` 0 means that nobody has ever held it.
    """
    world = topology.world.metadata
    writer = _lease(metadata(world, names.sequencer_lease(world.name), component="sequencer"))
    if last_term > 0:
        writer["spec"] = {"leaseTransitions": last_term - 1}
    result = [writer]
    result += [
        _lease(metadata(world, node.name, component="validator", validator=node.name))
        for node in topology.nodes
        if node.kind == "validator"
    ]
    return result


def _lease(meta: dict[str, object]) -> Object:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": {}}
