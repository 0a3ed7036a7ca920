"""The genesis of a world: made once when everything it names is there, its modules included, and never again.

A world that has begun keeps its genesis even if the ConfigMap is lost: the nodes have it, and a second one would be
another world under the same name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, InvalidField
from agentworld_core.genesis_module import GenesisModule
from agentworld_core.hashing import content_id
from agentworld_core.membership.directory import check_first_directory, check_threshold
from agentworld_core.messages import Genesis
from agentworld_core.topology.genesis import MemberIdentity, build_genesis, sign_genesis
from agentworld_core.topology.genesis_modules import (
    ARTIFACT_LABEL,
    Resolved,
    Source,
    named_config_maps,
    names_blobs,
    resolve_modules,
)
from agentworld_core.topology.plan import Topology
from agentworld_core.topology.world_spec import GenesisSpec
from agentworld_operator.kube.port import KubeApi
from agentworld_operator.nodes.port import NodeApi
from agentworld_operator.plan import files
from agentworld_operator.plan.running import PodFacts
from agentworld_operator.reconcile.apply import Applier
from agentworld_operator.reconcile.material import Material
from agentworld_operator.resources import names
from agentworld_operator.resources.objects import Object, data_of, files_of, name_of

log = logging.getLogger(__name__)


async def find_modules(kube: KubeApi, namespace: str, genesis: GenesisSpec) -> Resolved:
    """Returns the modules that a genesis names, read from ConfigMaps, and everything that is wrong with them."""
    names_wanted = named_config_maps(genesis)
    live = await asyncio.gather(*(kube.get("ConfigMap", namespace, name) for name in names_wanted))
    named = {name: _source(item) for name, item in zip(names_wanted, live, strict=True) if item is not None}
    others = []
    if names_blobs(genesis):
        labelled = await kube.find("ConfigMap", namespace, labels={ARTIFACT_LABEL: "true"})
        others = [_source(item) for item in labelled if name_of(item) not in named]
    return resolve_modules(genesis, config_maps=named, others=others)


def _source(config_map: Object) -> Source:
    return Source(f"ConfigMap {name_of(config_map)}", files_of(config_map))


class GenesisKeeper:
    """Reads, makes or recovers the genesis of one world during one reconcile."""

    def __init__(self, applier: Applier, topology: Topology, material: Material, raw_world: Mapping[str, Any]):
        self._applier = applier
        self._topology = topology
        self._material = material
        self._name = names.genesis_config(topology.world.name)
        self._known_hash = str((raw_world.get("status") or {}).get("genesisHash") or "")
        self.problems: tuple[InvalidField, ...] = ()

    @property
    def has_begun(self) -> bool:
        """True when the world has had a genesis: its volumes are made after it."""
        return bool(self._known_hash or self._applier.ours("PersistentVolumeClaim"))

    def read(self) -> Genesis | None:
        """Returns the stored genesis, None when there is none that can be read."""
        live = self._applier.ours("ConfigMap").get(self._name)
        if live is None:
            return None
        return self._parsed(live)

    async def make(self, kube: KubeApi, *, now_ms: int) -> Genesis | None:
        """Makes and stores the genesis; None while a key or an identity is missing, or modules are (``problems``)."""
        world = self._topology.world.metadata
        found = await find_modules(kube, world.namespace, self._topology.world.spec.genesis)
        self.problems = found.problems
        made = None if found.problems else self._made(found.modules, now_ms)
        if made is None:
            return None
        members, modules = len(made.directory.members), len(made.modules)
        log.info("genesis of %s/%s: %d members, %d modules", world.namespace, world.name, members, modules)
        return await self._store(made)

    async def recover(self, nodes: NodeApi, pods: Iterable[PodFacts]) -> Genesis | None:
        """Returns the genesis that a node still has and stores it again; None when nobody can give it."""
        for pod in pods:
            if not pod.address:
                continue
            try:
                found = await nodes.genesis(pod.address)
                self._check(found)
            except AgentWorldError as error:
                log.warning("genesis of pod %s: %s", pod.name, error)
                continue
            log.warning("ConfigMap %s was lost; recovered from pod %s", self._name, pod.name)
            return await self._store(found)
        self._material.problems[f"ConfigMap {self._name}"] = InvalidField(
            "is gone and no node can give the genesis back",
            remedy="restore it from a backup; a new one would be another world",
        )
        return None

    def _check(self, found: Genesis) -> None:
        """Raises unless the genesis is the known one, or at least signed by keys that we hold."""
        if found.world_id != self._topology.world.spec.world_id:
            raise InvalidField("is of another world", field="world_id", value=found.world_id)
        if self._known_hash:
            if content_id(encode(found)) != self._known_hash:
                raise InvalidField("is another than the status remembers", field="genesis", value=self._known_hash)
            return
        check_first_directory(found.directory)
        check_threshold(found, found.directory)
        held = [key.key_id for item in self._material.held.values() for key in item.keys]
        if not any(item.key_id in held for item in found.signatures):
            raise InvalidField("is not signed by any key that we hold", field="genesis")

    async def _store(self, genesis: Genesis) -> Genesis | None:
        desired = files.genesis_config_map(self._topology.world.metadata, encode(genesis))
        stored = await self._applier.create(desired)
        # Another operator may have been faster: what is stored counts.
        return None if stored is None else self._parsed(stored)

    def _parsed(self, live: Object) -> Genesis | None:
        try:
            return decode(Genesis, data_of(live, "binaryData").get(files.GENESIS_FILE, b""))
        except AgentWorldError as error:
            self._material.problems[f"ConfigMap {name_of(live)}"] = InvalidField(
                f"does not hold the genesis that was stored in it: {error}",
                remedy="delete it, and it is recovered from the nodes",
            )
            return None

    def _made(self, modules: tuple[GenesisModule, ...], now_ms: int) -> Genesis | None:
        held = self._material.held
        members: dict[str, MemberIdentity] = {}
        for node in self._topology.members:
            newest = held[node.key].newest if node.key in held else None
            if node.name not in self._material.identities or newest is None:
                return None
            members[node.name] = MemberIdentity(
                peer_id=self._material.peer_ids[node.name],
                public_key=newest.public_key,
                generation=newest.number,
            )
        governance = {}
        signers = []
        for name in self._topology.governance_keys:
            newest = held[name].newest if name in held else None
            if newest is None or newest.signer is None:
                return None
            governance[name] = (newest.public_key, newest.number)
            signers.append(newest.signer)
        unsigned = build_genesis(self._topology, members, governance, created_at_ms=now_ms, modules=modules)
        return sign_genesis(unsigned, signers)
