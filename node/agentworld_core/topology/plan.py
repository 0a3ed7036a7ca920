"""What a World means: which nodes run, with which roles, which keys sign, and what the quorum can lose.

One pure plan for both homes. It takes the manifests of a world as they are and says what is missing or contradictory as
``problems`` (the world cannot start) and ``warnings`` (it can, but somebody should know).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from agentworld_core.errors import InvalidField
from agentworld_core.messages import MAX_MEMBERS, Parameters
from agentworld_core.topology.member_specs import MembershipKeySpec, ValidatorSpec
from agentworld_core.topology.node_config import ROLES, LeaseConfig, NodeConfig, half_of
from agentworld_core.topology.quorum import QuorumFacts, quorum_facts
from agentworld_core.topology.resources import MembershipKey, Metadata, Validator, World

IMPLIED_LABEL = "agentworld.dev/implied"
"""Set to ``true`` on Validators and MembershipKeys that follow from the World and are not a person's own."""

WORLD_LABEL = "agentworld.dev/world"
VALIDATOR_LABEL = "agentworld.dev/validator"
GATEWAY_ROLES = ("gateway", "storage")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodePlan:
    """One node that runs: its resource name, its id in the world, what it does and which key it signs with."""

    name: str
    node_id: str
    kind: str
    roles: tuple[str, ...]
    weight: int = 0
    key: str = ""
    leaving: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """The whole plan of a world; ``validators`` and ``keys`` hold the given and the implied resources, by name."""

    world: World
    nodes: tuple[NodePlan, ...]
    validators: tuple[Validator, ...]
    keys: tuple[MembershipKey, ...]
    implied: tuple[Validator | MembershipKey, ...]
    governance_keys: tuple[str, ...]
    parameters: Parameters
    quorum: QuorumFacts
    problems: tuple[InvalidField, ...]
    warnings: tuple[str, ...]

    @property
    def members(self) -> tuple[NodePlan, ...]:
        """The validators that the directory should hold: all that are not leaving."""
        return tuple(node for node in self.nodes if node.kind == "validator" and not node.leaving)

    @property
    def gateways(self) -> tuple[NodePlan, ...]:
        """The nodes that only serve clients."""
        return tuple(node for node in self.nodes if node.kind == "gateway")

    def validator(self, name: str) -> Validator:
        """Returns a validator by resource name; raises KeyError when there is none."""
        return {validator.name: validator for validator in self.validators}[name]

    def key(self, name: str) -> MembershipKey:
        """Returns a membership key by resource name; raises KeyError when there is none."""
        return {key.name: key for key in self.keys}[name]


def plan_world(world: World, validators: Iterable[Validator], keys: Iterable[MembershipKey]) -> Topology:
    """Returns the plan of a world from its own manifest and all Validators and MembershipKeys that may name it."""
    problems: list[InvalidField] = []
    warnings: list[str] = []
    all_validators, implied_validators = _validators(world, validators)
    all_keys, implied_keys, key_of = _keys(world, all_validators, keys, problems)
    nodes = [_validator_node(world, validator, key_of) for validator in all_validators]
    nodes += [
        NodePlan(name=name, node_id=name, kind="gateway", roles=GATEWAY_ROLES)
        for name in (f"{world.name}-gateway-{n}" for n in range(world.spec.gateway.replicas))
    ]
    staying = [node for node in nodes if node.kind == "validator" and not node.leaving]
    facts = quorum_facts((node.weight for node in staying), world.spec.consensus.fault_model)
    _check_nodes(world, nodes, staying, problems)
    if staying and facts.tolerates == 0:
        needed = 4 if world.spec.consensus.fault_model == "Byzantine" else 3
        warnings.append(
            f"{len(staying)} validator(s) tolerate no {world.spec.consensus.fault_model} fault: the world stops when"
            f" one is lost; use at least {needed} of equal weight"
        )
    names = [validator.name for validator in all_validators]
    warnings += [
        f"MembershipKey {key.name} names Validator {key.spec.validator}, which does not exist"
        for key in all_keys
        if key.spec.purpose == "Validator" and key.spec.validator not in names
    ]
    return Topology(
        world=world,
        nodes=tuple(nodes),
        validators=tuple(all_validators),
        keys=tuple(all_keys),
        implied=(*implied_validators, *implied_keys),
        governance_keys=governance_key_names(world),
        parameters=world_parameters(world),
        quorum=facts,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def governance_key_names(world: World) -> tuple[str, ...]:
    """Returns the names of the world's governance keys: those it names, or the one that is made for it."""
    return world.spec.governance.keys or (f"{world.name}-governance",)


def world_parameters(world: World) -> Parameters:
    """Returns the rules that all nodes share, as the genesis document fixes them."""
    consensus, storage = world.spec.consensus, world.spec.storage
    return Parameters(
        block_interval_ms=consensus.block_interval_ms,
        max_batch_actions=consensus.max_actions,
        max_batch_bytes=consensus.max_payload_bytes,
        journal_events_per_segment=storage.journal_events_per_segment,
        snapshot_interval=storage.snapshot_interval,
        leaseless=False,
    )


def node_settings(topology: Topology, node: NodePlan) -> NodeConfig:
    """Returns what a node's configuration says in every home; folders, ports, peers and the lease's place are added."""
    spec, rate = topology.world.spec, topology.world.spec.gateway.rate_limit
    return NodeConfig(
        world_id=spec.world_id,
        node_id=node.node_id,
        roles=node.roles,
        lease=LeaseConfig(
            duration_ms=spec.sequencer.lease_duration_ms,
            renew_deadline_ms=spec.sequencer.renew_deadline_ms,
            retry_period_ms=spec.sequencer.retry_period_ms,
        ),
        mempool_max_actions=spec.mempool.max_actions,
        mempool_max_per_actor=spec.mempool.max_per_actor,
        mempool_max_per_source=half_of(spec.mempool.max_actions)
        if spec.mempool.max_per_source is None
        else spec.mempool.max_per_source,
        mempool_expiry_ms=spec.mempool.expiry_ms,
        verification_workers=spec.mempool.verification_workers,
        retain_snapshots=spec.storage.retain_snapshots,
        max_blob_bytes=spec.storage.max_blob_bytes,
        # Also for validators: whether clients reach only the gateways is up to the network.
        rate_limit_per_second=rate.per_second if rate else 0,
        rate_limit_burst=rate.burst if rate else 0,
    )


def is_surplus(world: World, validator: Validator) -> bool:
    """True when a validator was made for a replica that the world no longer asks for."""
    if validator.metadata.labels.get(IMPLIED_LABEL) != "true":
        return False
    number = validator.name.removeprefix(f"{world.name}-")
    return not number.isdigit() or int(number) >= world.spec.validators.replicas


def _validators(world: World, given: Iterable[Validator]) -> tuple[list[Validator], list[Validator]]:
    ours = {validator.name: validator for validator in given if validator.spec.world == world.name}
    implied = []
    for number in range(world.spec.validators.replicas):
        name = f"{world.name}-{number}"
        if name not in ours or ours[name].metadata.labels.get(IMPLIED_LABEL) == "true":
            existing = ours.get(name)
            metadata = existing.metadata if existing else _implied_metadata(world, name)
            spec = ValidatorSpec(world=world.name, validator_id=name, template=world.spec.validators.template)
            if existing:
                # A person may suspend or drain one of several replicas; what the template says stays with the World.
                spec = dataclasses.replace(spec, suspend=existing.spec.suspend, drain=existing.spec.drain)
            implied.append(Validator(metadata=metadata, spec=spec))
            ours[name] = implied[-1]
    return sorted(ours.values(), key=lambda item: _order(item.name)), implied


def _keys(
    world: World, validators: list[Validator], given: Iterable[MembershipKey], problems: list[InvalidField]
) -> tuple[list[MembershipKey], list[MembershipKey], dict[str, str]]:
    ours = {key.name: key for key in given if key.spec.world == world.name}
    implied: list[MembershipKey] = []
    key_of: dict[str, str] = {}
    for name in governance_key_names(world):
        if name not in ours and not world.spec.governance.keys:
            implied.append(_implied_key(world, name, validator=""))
            ours[name] = implied[-1]
        elif name not in ours:
            problems.append(
                InvalidField(
                    "names a MembershipKey that does not exist",
                    field="spec.governance.keys",
                    value=name,
                    remedy="apply it with purpose Governance, or remove the name",
                )
            )
        elif ours[name].spec.purpose != "Governance":
            problems.append(
                InvalidField(
                    "names a MembershipKey of another purpose",
                    field="spec.governance.keys",
                    value=name,
                    remedy="name a MembershipKey with purpose Governance",
                )
            )
    for validator in validators:
        named = sorted(key.name for key in ours.values() if key.spec.validator == validator.name)
        own = [name for name in named if ours[name].metadata.labels.get(IMPLIED_LABEL) != "true"]
        if len(own) > 1:
            problems.append(
                InvalidField(
                    "is named by more than one MembershipKey",
                    field="spec.validator",
                    value=validator.name,
                    remedy=f"keep one of {', '.join(own)}",
                )
            )
        if not named and validator.name in ours:
            problems.append(
                InvalidField(
                    "is a MembershipKey for something else",
                    field="metadata.name",
                    value=validator.name,
                    remedy=f"rename it: Validator {validator.name} needs this name for its own key",
                )
            )
        elif not named:
            implied.append(_implied_key(world, validator.name, validator=validator.name))
            ours[validator.name] = implied[-1]
            named = [validator.name]
        key_of[validator.name] = (own or named or [""])[0]
    return sorted(ours.values(), key=lambda item: _order(item.name)), implied, key_of


def _validator_node(world: World, validator: Validator, key_of: dict[str, str]) -> NodePlan:
    return NodePlan(
        name=validator.name,
        node_id=validator.spec.validator_id,
        kind="validator",
        # Every validator may become the writer: whoever holds the lease orders the actions.
        roles=tuple(dict.fromkeys((*(role for role in validator.spec.roles if role in ROLES), "sequencer"))),
        weight=validator.spec.weight,
        key=key_of[validator.name],
        leaving=validator.spec.drain or validator.metadata.deleting or is_surplus(world, validator),
    )


def _check_nodes(world: World, nodes: list[NodePlan], staying: list[NodePlan], problems: list[InvalidField]) -> None:
    if not staying:
        problems.append(
            InvalidField(
                "leaves the world without validators",
                field="spec.validators.replicas",
                value=0,
                remedy="set it to 1 or more, or apply Validators that name this world",
            )
        )
    if len(staying) > MAX_MEMBERS:
        problems.append(
            InvalidField(
                "makes more members than a directory holds",
                field="spec.validators.replicas",
                value=len(staying),
                remedy=f"use at most {MAX_MEMBERS}",
            )
        )
    # The heartbeat Lease of a node has its name; those of the world's coordinated runs are taken.
    taken = (f"{world.name}-sequencer", f"{world.name}-reconcile")
    problems += [
        InvalidField("is the name of a Lease of the world", field="metadata.name", value=node.name, remedy="rename it")
        for node in nodes
        if node.name in taken or node.name.startswith(f"{world.name}-replay-")
    ]
    ids = [node.node_id for node in nodes]
    problems += [
        InvalidField(
            "is the id of more than one node",
            field="spec.validatorId",
            value=node_id,
            remedy="give each Validator of a world an id of its own",
        )
        for node_id in sorted(dict.fromkeys(ids))
        if ids.count(node_id) > 1
    ]


def _implied_metadata(world: World, name: str) -> Metadata:
    return Metadata(
        name=name, namespace=world.metadata.namespace, labels={IMPLIED_LABEL: "true", WORLD_LABEL: world.name}
    )


def _implied_key(world: World, name: str, *, validator: str) -> MembershipKey:
    purpose = "Validator" if validator else "Governance"
    spec = MembershipKeySpec(world=world.name, purpose=purpose, validator=validator)
    return MembershipKey(metadata=_implied_metadata(world, name), spec=spec)


def _order(name: str) -> tuple[str, int, str]:
    """Sorts ``aurora-2`` before ``aurora-10``."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number), name) if number.isdigit() else (name, -1, name)
