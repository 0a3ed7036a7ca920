"""What a world is declared to be: its manifests, how new ones are merged into them, and what is refused; pure.

The rules are those of the API server (``topology.changes``) and, because here all objects are known at once, also those
that a cluster can only report afterwards as conditions: a plan that cannot start is not applied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentworld_core.errors import InvalidField
from agentworld_core.topology.changes import check_change
from agentworld_core.topology.member_specs import ValidatorSpec
from agentworld_core.topology.plan import IMPLIED_LABEL, WORLD_LABEL, Topology, plan_world
from agentworld_core.topology.resources import MembershipKey, Metadata, Validator, World
from agentworld_node.supervisor.governance import parse_time
from agentworld_node.supervisor.manifests import Complaint, Given, RefusedManifests, parse_documents

CREATED, CONFIGURED, UNCHANGED = "created", "configured", "unchanged"


@dataclasses.dataclass(frozen=True)
class Declared:
    """The manifests of one world; the World itself is among them."""

    items: tuple[Given, ...]

    @staticmethod
    def load(manifests: Iterable[Mapping[str, Any]], *, source: str) -> Declared:
        """Returns what stored manifests declare; RefusedManifests when they no longer pass the rules."""
        return Declared(parse_documents((source, manifest) for manifest in manifests).given)

    def manifests(self) -> list[dict[str, Any]]:
        """Returns the manifests as they were given, for storing."""
        return [item.manifest for item in self.items]

    @property
    def world(self) -> World:
        """The World."""
        return next(item.resource for item in self.items if isinstance(item.resource, World))

    @property
    def validators(self) -> tuple[Validator, ...]:
        """The Validators that a person has declared."""
        return tuple(item.resource for item in self.items if isinstance(item.resource, Validator))

    @property
    def keys(self) -> tuple[MembershipKey, ...]:
        """The MembershipKeys that a person has declared."""
        return tuple(item.resource for item in self.items if isinstance(item.resource, MembershipKey))

    def topology(self, existing: Iterable[str] = ()) -> Topology:
        """Returns the plan of the world; ``existing`` are the node ids of validators that have a folder already.

        Those that nothing declares any more were made for a replica: they count as leaving.
        """
        declared = [validator.spec.validator_id for validator in self.validators]
        wanted = [f"{self.world.name}-{number}" for number in range(self.world.spec.validators.replicas)]
        surplus = [_surplus(self.world, name) for name in existing if name not in declared and name not in wanted]
        return plan_world(self.world, [*self.validators, *surplus], self.keys)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What applying one manifest did to the object."""

    kind: str
    name: str
    change: str

    def as_dict(self) -> dict[str, str]:
        """The JSON form."""
        return dataclasses.asdict(self)


def declare(
    current: Declared | None, given: Sequence[Given], *, settled: bool, signing_keys: Mapping[str, str]
) -> tuple[Declared, list[Outcome]]:
    """Returns the world with the given manifests merged in and what became of each; raises RefusedManifests.

    ``settled`` says that the world has its genesis. ``signing_keys`` gives, by name of a Validator that has signed
    already, the MembershipKey whose folder its keys are in.
    """
    complaints: list[Complaint] = []
    merged = {item.identity: item for item in (current.items if current else ())}
    outcomes = []
    for item in given:
        before = merged.get(item.identity)
        if before is not None:
            violations = check_change(before.resource, item.resource, settled=settled)
            complaints += [Complaint(item.source, str(item), violation) for violation in violations]
        complaints += _check_times(item)
        change = CREATED if before is None else UNCHANGED if _same(before, item) else CONFIGURED
        outcomes.append(Outcome(*item.identity, change))
        merged[item.identity] = item
    complaints += _check_worlds(list(merged.values()))
    if complaints:
        raise RefusedManifests(complaints)
    declared = Declared(tuple(merged.values()))
    complaints += _check_plan(declared, signing_keys)
    if complaints:
        raise RefusedManifests(complaints)
    return declared, outcomes


def _check_times(item: Given) -> list[Complaint]:
    if not isinstance(item.resource, MembershipKey):
        return []
    complaints = []
    for index, entry in enumerate(item.resource.spec.revoked):
        try:
            parse_time(entry.at, field=f"spec.revoked[{index}].at")
        except InvalidField as error:
            complaints.append(Complaint(item.source, str(item), error))
    return complaints


def _same(before: Given, after: Given) -> bool:
    return dataclasses.replace(before, source="") == dataclasses.replace(after, source="")


def _check_worlds(items: list[Given]) -> list[Complaint]:
    worlds = [item for item in items if isinstance(item.resource, World)]
    if not worlds:
        missing = InvalidField(
            "there is no World among the manifests", remedy="give one, such as in examples/quickstart/"
        )
        return [Complaint("", "", missing)]
    complaints = []
    for extra in worlds[1:]:
        one = InvalidField(
            f"one supervisor runs one World, and this one runs {worlds[0].resource.name}",
            field="metadata.name",
            value=extra.resource.name,
            remedy="run another `agentworld up` for it, with a --data folder and a --port of its own",
        )
        complaints.append(Complaint(extra.source, str(extra), one))
    name = worlds[0].resource.name
    for item in items:
        if not isinstance(item.resource, World) and item.resource.spec.world != name:
            stray = InvalidField(
                "names a World that does not run here",
                field="spec.world",
                value=item.resource.spec.world,
                remedy=f"use {name}, or apply it where that World runs",
            )
            complaints.append(Complaint(item.source, str(item), stray))
    return complaints


def _check_plan(declared: Declared, signing_keys: Mapping[str, str]) -> list[Complaint]:
    world = next(item for item in declared.items if isinstance(item.resource, World))
    topology = declared.topology()
    complaints = [Complaint(world.source, str(world), problem) for problem in topology.problems]
    if complaints:
        return complaints
    for node in topology.members:
        used = signing_keys.get(node.name, node.key)
        if used != node.key:
            source = next((item.source for item in declared.items if item.identity == ("MembershipKey", node.key)), "")
            other = InvalidField(
                f"Validator {node.name} has signed with the keys of MembershipKey {used} from the start",
                field="metadata.name",
                value=node.key,
                remedy=f"name the MembershipKey {used}, and raise its generation to rotate",
            )
            complaints.append(Complaint(source, f"MembershipKey {node.key}", other))
    return complaints


def _surplus(world: World, name: str) -> Validator:
    metadata = Metadata(name=name, labels={IMPLIED_LABEL: "true", WORLD_LABEL: world.name})
    return Validator(metadata=metadata, spec=ValidatorSpec(world=world.name, validator_id=name))
