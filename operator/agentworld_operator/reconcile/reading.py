"""Reads everything of one world from the API server, all at once and fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agentworld_core.topology.fields import InvalidManifest
from agentworld_core.topology.plan import WORLD_LABEL
from agentworld_core.topology.resources import MembershipKey, Resource, Validator, World, parse_manifest
from agentworld_operator.kube.kinds import CHILDREN
from agentworld_operator.kube.port import KubeApi
from agentworld_operator.reconcile.context import Snapshot
from agentworld_operator.resources.objects import Object, by_name, name_of


async def read_world(kube: KubeApi, raw_world: Object) -> Snapshot:
    """Returns the World with its Validators, MembershipKeys and all objects made for it."""
    namespace, name = raw_world["metadata"]["namespace"], name_of(raw_world)
    mine = {WORLD_LABEL: name}
    raw_validators, raw_keys, *children = await asyncio.gather(
        kube.find("Validator", namespace),
        kube.find("MembershipKey", namespace),
        *(kube.find(kind, namespace, labels=mine) for kind in CHILDREN),
    )
    invalid: dict[str, InvalidManifest] = {}
    world = _parse(raw_world, invalid)
    own_validators, own_keys = members_of(name, raw_validators), members_of(name, raw_keys)
    validators = [_parse(raw, invalid) for raw in own_validators]
    keys = [_parse(raw, invalid) for raw in own_keys]
    return Snapshot(
        raw_world=raw_world,
        raw_validators=by_name(own_validators),
        raw_keys=by_name(own_keys),
        world=world if isinstance(world, World) else None,
        validators=tuple(item for item in validators if isinstance(item, Validator)),
        keys=tuple(item for item in keys if isinstance(item, MembershipKey)),
        invalid=invalid,
        children={kind: by_name(found) for kind, found in zip(CHILDREN, children, strict=True)},
    )


def members_of(world: str, resources: Iterable[Object]) -> list[Object]:
    """Returns the Validators or MembershipKeys that name a world."""
    return [raw for raw in resources if (raw.get("spec") or {}).get("world") == world]


def _parse(raw: Object, invalid: dict[str, InvalidManifest]) -> Resource | None:
    try:
        return parse_manifest(raw)
    except InvalidManifest as error:
        invalid[f"{raw['kind']} {name_of(raw)}"] = error
        return None
