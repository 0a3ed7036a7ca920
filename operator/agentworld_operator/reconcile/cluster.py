"""Makes a world's objects in the cluster and takes away those of nodes that have left."""

from __future__ import annotations

from collections.abc import Iterable

from agentworld_core.membership.directory import find_member
from agentworld_core.messages import Directory
from agentworld_core.topology.plan import VALIDATOR_LABEL, NodePlan, Topology
from agentworld_operator.plan import access, files, network
from agentworld_operator.plan.implied import implied_manifest
from agentworld_operator.plan.pods import gateway_deployment, template_hash, validator_pod, volume_claim
from agentworld_operator.plan.running import pod_facts
from agentworld_operator.reconcile.apply import Applier
from agentworld_operator.reconcile.context import Settings
from agentworld_operator.resources import names
from agentworld_operator.resources.objects import (
    COMPONENT_LABEL,
    MOUNTS_REVISION,
    NODE_ID,
    TEMPLATE_HASH,
    Object,
    annotation,
    bytes_of,
    digest_of,
    label,
    name_of,
    owner_of,
    owner_reference,
)

_PRUNED = ("ServiceAccount", "Role", "RoleBinding", "Lease", "PodDisruptionBudget", "NetworkPolicy")


class Cluster:
    """The objects of one world during one reconcile; ``outdated`` are pods that run an older template."""

    def __init__(self, applier: Applier, topology: Topology, settings: Settings):
        self._applier = applier
        self._topology = topology
        self._world = topology.world
        self._settings = settings
        self.outdated: list[str] = []

    async def ensure_implied(self) -> None:
        """Makes the Validators and MembershipKeys that follow from the World."""
        for resource in self._topology.implied:
            await self._applier.ensure(implied_manifest(self._world.metadata, resource))

    async def ensure_shared(self, peer_ids: dict[str, str], *, last_term: int) -> None:
        """Makes what all nodes share: configuration, Services, access, Leases, policies.

        A writer's Lease that was deleted is made again with the last term that is known, so that terms only grow.
        """
        desired = [
            files.node_config_map(self._topology, peer_ids),
            network.peers_service(self._topology),
            network.gateway_service(self._topology),
            *network.network_policies(self._topology, self._settings.operator_namespace),
        ]
        budget = network.disruption_budget(self._topology)
        desired += [budget] if budget else []
        for node in self._validators():
            desired += access.node_access(self._topology, node)
        for obj in desired:
            await self._applier.ensure(obj)
        leases = access.leases(self._topology, last_term=last_term)
        for obj in leases:
            await self._applier.create(obj)
        keep = [(obj["kind"], name_of(obj)) for obj in (*desired, *leases)]
        for kind in _PRUNED:
            kept = [name for other, name in keep if other == kind]
            await self._applier.remove_others(kind, [*kept, *self._orphans()])

    async def ensure_nodes(self, directory: Directory | None, revisions: dict[str, str], ready: Iterable[str]) -> None:
        """Makes volumes and pods of the validators that should run, and the gateway.

        ``ready`` are the validators whose files are complete. A pod that runs is never replaced because its template
        changed; it is named in ``outdated`` instead.
        """
        may_start = frozenset(ready)
        for node in self._validators():
            if not self.should_run(node, directory):
                await self._stop(node.name)
                continue
            claim = await self._volume(node)
            pod = self._applier.ours("Pod").get(node.name)
            if pod is not None and pod_facts(node.name, pod).finished:
                await self._applier.remove(pod)
                continue
            if pod is None:
                if node.name not in may_start or claim is None or self._applier.foreign:
                    continue
                desired = validator_pod(self._topology, node, self._settings.image, claim=claim)
                desired["metadata"]["annotations"][MOUNTS_REVISION] = revisions.get(node.name, "")
                await self._applier.create(desired)
                continue
            # The kubelet takes up changed files at once when the pod itself changes, else only after a minute or so.
            await self._applier.annotate(pod, {MOUNTS_REVISION: revisions.get(node.name, "")})
            if annotation(pod, TEMPLATE_HASH) != template_hash(self._topology, node, self._settings.image):
                self.outdated.append(node.name)
        if may_start and not self._applier.foreign:
            await self._applier.ensure(gateway_deployment(self._topology, self._settings.image))
        peers = digest_of((self._applier.live("ConfigMap", names.node_config(self._world.name)) or {}).get("data", {}))
        for pod in self.gateway_pods():
            await self._applier.annotate(pod, {MOUNTS_REVISION: peers})

    async def remove_departed(self, directory: Directory | None) -> list[str]:
        """Takes away the nodes that left the directory and the resources that they came from; returns their names."""
        gone: list[str] = []
        if directory is None:
            return gone
        staying = [node.name for node in self._validators()] + self._orphans()
        for pod in list(self._applier.ours("Pod").values()):
            orphaned = label(pod, COMPONENT_LABEL) == "validator" and not self._is_node(name_of(pod))
            if orphaned and find_member(directory, annotation(pod, NODE_ID)) is None:
                await self._applier.remove(pod)
                gone.append(name_of(pod))
        for kind in ("Secret", "PersistentVolumeClaim"):
            if kind == "PersistentVolumeClaim" and self._world.spec.deletion_policy != "Delete":
                continue
            for obj in list(self._applier.ours(kind).values()):
                validator = label(obj, VALIDATOR_LABEL)
                if validator and validator not in staying and validator not in gone:
                    await self._applier.remove(obj)
        return gone

    def should_run(self, node: NodePlan, directory: Directory | None) -> bool:
        """True when the validator's pod should be there: not after it has left, nor while it is suspended."""
        if self._world.spec.hibernated or self._topology.validator(node.name).spec.suspend:
            return False
        return not (node.leaving and directory is not None and find_member(directory, node.node_id) is None)

    def gateway_pods(self) -> list[Object]:
        """Returns the pods of the gateway."""
        pods = self._applier.children.get("Pod", {}).values()
        return [pod for pod in pods if label(pod, COMPONENT_LABEL) == "gateway"]

    def _validators(self) -> list[NodePlan]:
        return [node for node in self._topology.nodes if node.kind == "validator"]

    def _is_node(self, name: str) -> bool:
        return any(node.name == name for node in self._validators())

    def _orphans(self) -> list[str]:
        """Returns the validators whose resource was deleted while their pod is still there."""
        pods = self._applier.ours("Pod").values()
        return [
            name_of(pod)
            for pod in pods
            if label(pod, COMPONENT_LABEL) == "validator" and not self._is_node(name_of(pod))
        ]

    async def _stop(self, name: str) -> None:
        pod = self._applier.ours("Pod").get(name)
        if pod is not None:
            await self._applier.remove(pod)

    async def _volume(self, node: NodePlan) -> str | None:
        """Makes the volume of a validator unless it has one, and returns its name; None when that was refused.

        A volume that a former World of this name left behind is never mounted: it keeps its name, ours gets another.
        """
        world = self._world.metadata
        ours = self._applier.ours("PersistentVolumeClaim")
        for name, claim in sorted(ours.items()):
            if label(claim, VALIDATOR_LABEL) == node.name:
                await self._own_volume(claim)
                await self._grow_volume(node, claim)
                return name
        taken = self._applier.live("PersistentVolumeClaim", node.name) is not None
        name = f"{node.name}-{world.uid[:8]}" if taken else node.name
        stored = await self._applier.create(volume_claim(self._topology, node, name=name))
        return name if stored is not None else None

    async def _grow_volume(self, node: NodePlan, claim: Object) -> None:
        """Asks for a larger volume when the template does; whether it can grow is up to the storage class."""
        wanted = self._topology.validator(node.name).spec.template.storage_size
        has = str(claim["spec"].get("resources", {}).get("requests", {}).get("storage", wanted))
        if bytes_of(wanted) > bytes_of(has):
            patch = {"spec": {"resources": {"requests": {"storage": wanted}}}}
            await self._applier.try_patch(claim, patch)

    async def _own_volume(self, claim: Object) -> None:
        """Makes the volume go with the World, or outlive it, as the deletionPolicy says now."""
        owned = owner_of(claim) != ""
        wanted = self._world.spec.deletion_policy == "Delete"
        if owned != wanted:
            references = [owner_reference(self._world.metadata)] if wanted else None
            await self._applier.patch(claim, {"metadata": {"ownerReferences": references}})
